"""The reader against damaged files: each fault gives one line with file, record and field."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from netgpt import graphstore
from netgpt.graphstore import RecordError, SourceError
from netgpt.graphstore.datasets.xsvideo.annotation import annotate_file
from netgpt.graphstore.datasets.xsvideo.records import ReadReport, is_records, read_records
from netgpt.graphstore.datasets.xsvideo.schema import Config
from tests.conftest import SMALL
from tests.program import called

COMMENT = {"评论内容": "好", "评论时间": "2024-12-01 10:00:00"}
FAULTS: list[tuple[str, str, Any]] = [
    ("missing key", "标题", None),
    ("text as number", "描述", 7),
    ("number as text", "当前点赞量", "12"),
    ("negative count", "当前点赞量", -1),
    ("fraction of a like", "当前点赞量", 1.5),
    ("true is no number", "当前粉丝量", True),
    ("level above 9", "影响力等级", 10),
    ("level below 0", "影响力等级", -1),
    ("level as text", "影响力等级", "3"),
    ("impossible date", "当前时间", "2024-02-30"),
    ("impossible time", "发布时间", "2024-12-01 25:00:00"),
    ("time without a date", "发布时间", "12:00:00"),
    ("negative duration", "视频时长（秒）", -0.5),
    ("history not a list", "历史状态", {}),
    ("history of a fraction", "历史状态", [1.5]),
    ("unknown history id", "历史状态", [987654321]),
    ("comments a list", "评论", []),
    ("comment without text", "评论", {"0": {"评论时间": "2024-12-01 10:00:00"}}),
    ("comment of no time", "评论", {"0": {"评论内容": "好", "评论时间": "gestern"}}),
    ("sentiment a number", "sentiment", 1),
    ("a counter beyond 64 bits", "当前粉丝量", 2**63),
    ("a counter below 64 bits", "当前粉丝量", -(2**70)),
    ("a history id beyond 64 bits", "历史状态", [99999999999999999999]),
    ("seconds beyond float64", "视频时长（秒）", 10**400),
    ("infinite seconds", "视频时长（秒）", float("1e999")),
    ("half of a pair, the first", "标题", "x\ud800y"),
    ("half of a pair, the second", "标题", "x\udc00y"),
    ("half of a pair in a group", "发布用户ID", "\udc00"),
    (
        "half of a pair in a comment's key",
        "评论",
        {"\ud800": COMMENT},
    ),
    (
        "infinite number in a comment",
        "评论",
        {"0": {**COMMENT, "x": 1e999}},
    ),
]


def damaged(records: dict[str, Any], key: str, value: Any) -> tuple[str, dict[str, Any]]:
    """A copy with one record's key changed (None: removed)."""
    copy = json.loads(json.dumps(records))
    victim = list(copy)[len(copy) // 2]
    if value is None:
        del copy[victim][key]
    else:
        copy[victim][key] = value
    return victim, copy


def write(path: Path, value: Any) -> Path:
    text = json.dumps(value, ensure_ascii=False).replace("Infinity", "1e999")
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    return path


@pytest.mark.parametrize(("name", "key", "value"), FAULTS, ids=[f[0] for f in FAULTS])
def test_fault_names_file_record_and_field_and_leaves_no_store(
    name: str, key: str, value: Any, records: dict[str, Any], tmp_path: Path
) -> None:
    victim, broken = damaged(records, key, value)
    path = write(tmp_path / "records.json", broken)
    with pytest.raises(RecordError) as caught:
        graphstore.build(path, tmp_path / "store", SMALL)
    text = str(caught.value)
    assert str(path) in text and repr(victim) in text and key in text and "\n" not in text
    assert "found" in text and "expected" in text
    assert [p.name for p in tmp_path.iterdir()] == ["records.json"]


@pytest.mark.parametrize(("name", "key", "value"), FAULTS, ids=[f[0] for f in FAULTS])
def test_skip_leaves_out_the_damaged_record_alone(
    name: str, key: str, value: Any, records: dict[str, Any], tmp_path: Path
) -> None:
    victim, broken = damaged(records, key, value)
    path = write(tmp_path / "records.json", broken)
    report = ReadReport()
    kept = [r.id for r in read_records(path, on_error="skip", report=report)]
    assert kept == [k for k in records if k != victim]
    assert report.num_skipped == 1 and report.num_read == len(records) - 1
    assert report.first_skipped is not None and repr(victim) in report.first_skipped


def test_skip_builds_a_store_that_says_how_many(records: dict[str, Any], tmp_path: Path) -> None:
    _, broken = damaged(records, "影响力等级", 99)
    path = write(tmp_path / "records.json", broken)
    config = Config(encoder="hash:32", time_dim=8, video_dim=4, on_error="skip")
    graphstore.build(path, tmp_path / "store", config)
    store = graphstore.open(tmp_path / "store")
    assert store.num_nodes["video"] == len(records) - 1
    assert store.attributes["num_skipped"] == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"  \n ", "empty"),
        (b"not json", "at the start"),
        (b"[1, 2]", "at the start"),
        (b"{}", "no records"),
        (b'{"1": {"url": NaN}}', "broken JSON"),
        (b'{"1": \xff}', "broken JSON before the end of the first record .*0xff, which is no UTF-8"),
        ('{"1": {"标题": "标"}}'.encode("gbk"), "broken JSON"),
        (b"{} trailing", "text behind the last value at character 3"),
    ],
)
@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_a_file_that_is_no_records_is_never_skipped(
    content: bytes, words: str, on_error: str, tmp_path: Path
) -> None:
    path = tmp_path / "records.json"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=words):
        list(read_records(path, on_error=on_error))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [2**70, -(2**70), 1.5e308, "x\ud800", {"a": [[[[]]]]}, float("1e999")])
def test_keys_that_nobody_reads_do_not_matter(value: Any, records: dict[str, Any], tmp_path: Path) -> None:
    """Their records are read as without them, and annotated with them where JSON can say them."""
    whole = write(tmp_path / "whole.json", records)
    victim, copy = damaged(records, "extra", value)
    path = write(tmp_path / "records.json", copy)
    assert list(read_records(path)) == list(read_records(whole))
    out = tmp_path / "annotated.json"
    if value == float("inf"):
        with pytest.raises(RecordError, match="beyond float64") as caught:
            annotate_file(path, out, provisional=True)
        assert (caught.value.file, caught.value.record) == (str(path), victim) and not out.exists()
        report = ReadReport()
        annotate_file(path, out, provisional=True, on_error="skip", report=report)
        assert json.loads(out.read_text()).keys() == records.keys() - {victim} and report.num_skipped == 1
    else:
        annotate_file(path, out, provisional=True)
        assert json.loads(out.read_text())[victim]["extra"] == value


@pytest.mark.parametrize("spelling", ["escape", "bytes"])
def test_half_of_a_pair_in_an_id_is_its_records_fault(
    spelling: str, records: dict[str, Any], tmp_path: Path
) -> None:
    first, second = list(records)[:2]
    copy = {first: {**records[first], "历史状态": []}, "x\udc00": records[second]}
    path = tmp_path / "records.json"
    text = json.dumps(copy, ensure_ascii=spelling == "escape")
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(RecordError, match="half of a surrogate pair") as caught:
        list(read_records(path))
    assert (caught.value.record, caught.value.field) == ("x\udc00", "id")
    report = ReadReport()
    assert [r.id for r in read_records(path, on_error="skip", report=report)] == [first]
    assert report.num_skipped == 1
    made = called("build", path, "--out", tmp_path / "s", "--encoder", "hash:16", "--on-error", "skip")
    assert made.returncode == 0 and "left out 1 of 2 records (id: 1)" in made.stderr, made.stderr
    assert graphstore.open(tmp_path / "s").skipped_ids == set()


def test_a_mark_of_byte_order_may_come_first(records: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "records", records)
    plain = list(read_records(path))
    for between in (b"", b"\r\n"):
        (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + between + path.read_bytes())
        assert is_records(tmp_path / "marked") and list(read_records(tmp_path / "marked")) == plain


def test_a_look_at_a_source_shows_any_fault_as_text(records: dict[str, Any], tmp_path: Path) -> None:
    _, copy = damaged(records, "评论", {"\ud800": {"评论内容": 1, "评论时间": ""}})
    shown = called("data", write(tmp_path / "records.json", copy))
    assert shown.returncode == 0 and "评论.\\ud800.评论内容" in shown.stdout and shown.stdout.encode()


def test_values_nested_too_deep_are_the_files_fault_and_cost_no_memory(
    records: dict[str, Any], tmp_path: Path
) -> None:
    state, record = next(iter(records.items()))
    deep = "[" * 30_000 + "]" * 30_000
    path = tmp_path / "records.json"
    path.write_text(json.dumps({state: record})[:-2] + f', "extra": {deep}}}}}')
    for on_error in ("fail", "skip"):
        with pytest.raises(SourceError, match="nested too deep"):
            list(read_records(path, on_error=on_error))  # type: ignore[arg-type]
    code = (
        "import re, sys; from netgpt.graphstore.datasets.xsvideo.records import read_records\n"
        "def peak(): return int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak()\n"
        "try: list(read_records(sys.argv[1]))\n"
        "except ValueError as error: print(error)\n"
        "assert peak() - before < 20_000, peak() - before"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "nested too deep" in done.stdout, done.stderr


def test_values_as_deep_as_python_reads_them_are_a_records_fault(
    records: dict[str, Any], tmp_path: Path
) -> None:
    """What is read and cannot be written again: in a key that matters it is refused in one line."""
    state, record = next(iter(records.items()))
    for depth in range(900, 1000, 7):
        deep = "[" * depth + "]" * depth
        path = tmp_path / "records.json"
        path.write_text(json.dumps({state: {**record, "标题": None}}).replace("null", deep))
        with pytest.raises(RecordError) as caught:
            list(read_records(path))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_off_file_is_refused(share: float, records_path: Path, tmp_path: Path) -> None:
    content = records_path.read_bytes()
    path = tmp_path / "cut.json"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceError, match="broken JSON"):
        graphstore.build(path, tmp_path / "store", SMALL)
    assert not (tmp_path / "store").exists()


def test_a_duplicate_id_is_an_error_and_is_skipped_from_the_second_on(
    records: dict[str, Any], tmp_path: Path
) -> None:
    first, second = list(records)[:2]
    items = [f"{json.dumps(k)}: {json.dumps(records[k])}" for k in (first, second, first)]
    path = tmp_path / "records.json"
    path.write_text("{" + ",".join(items) + "}")
    with pytest.raises(RecordError, match="duplicate id"):
        list(read_records(path))
    assert [r.id for r in read_records(path, on_error="skip")] == [first, second]


def test_history_may_point_to_a_skipped_record(records: dict[str, Any], tmp_path: Path) -> None:
    child = next(k for k, r in records.items() if r["历史状态"])
    parent = str(records[child]["历史状态"][0])
    broken = json.loads(json.dumps(records))
    broken[parent]["影响力等级"] = 77
    path = write(tmp_path / "records.json", broken)
    assert [r.id for r in read_records(path, on_error="skip")] == [k for k in records if k != parent]


def test_text_holds_no_label_and_no_unknown_key(records: dict[str, Any], tmp_path: Path) -> None:
    copy = json.loads(json.dumps(records))
    for record in copy.values():
        record["final_level"] = record["影响力等级"]
    for record in read_records(write(tmp_path / "records.json", copy)):
        visible = json.loads(record.text)
        assert "影响力等级" not in visible and "final_level" not in visible
        original = {k: v for k, v in records[record.id].items() if k != "影响力等级"}
        assert visible == original and list(visible) == list(original)


def test_memory_does_not_grow_with_the_file(records: dict[str, Any], tmp_path: Path) -> None:
    import tracemalloc

    def peak(copies: int) -> int:
        path = tmp_path / f"{copies}.json"
        with path.open("w", encoding="utf-8") as file:
            file.write("{")
            items = list(records.values())
            for i in range(copies * len(items)):
                record = {**items[i % len(items)], "历史状态": []}
                file.write(f"{',' if i else ''}{json.dumps(str(i))}: {json.dumps(record)}")
            file.write("}")
        tracemalloc.start()
        for _ in read_records(path):
            pass
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(2), peak(20)
    # The ids alone may grow: about 100 bytes a record, where a record is thousands
    assert large - small < 18 * len(records) * 300


@pytest.mark.parametrize("value", [None, -3, -0.5, "absent"])
def test_numbers_that_are_not_there_can_be_zeros(value: Any, records: dict[str, Any], tmp_path: Path) -> None:
    copy = {k: dict(v) for k, v in records.items()}
    victims = list(copy)[3:6]
    for victim in victims:
        for key in ("当前点赞量", "视频时长（秒）"):
            copy[victim][key] = value
            if value == "absent":
                del copy[victim][key]
    path = write(tmp_path / "records.json", copy)
    with pytest.raises(RecordError, match=victims[0]):
        list(read_records(path))
    for on_error in ("fail", "skip"):
        report = ReadReport()
        found = {
            r.id: r
            for r in read_records(path, on_error=on_error, bad_numbers="zero", report=report)  # type: ignore[arg-type]
        }
        assert report.num_skipped == 0 and report.imputed == {"视频时长（秒）": 3, "当前点赞量": 3}
        for name, record in found.items():
            assert (record.counts["likes"] == 0) or name not in victims
            if name in victims:
                assert record.duration_s == 0 and set(record.imputed) == set(report.imputed)
            else:
                assert record.counts["likes"] == records[name]["当前点赞量"] and record.imputed == ()
    config = Config(encoder="hash:32", time_dim=8, video_dim=4, bad_numbers="zero")
    graphstore.build(path, tmp_path / "store", config)
    assert graphstore.open(tmp_path / "store").attributes["num_imputed"] == 6


@pytest.mark.parametrize("value", ["12", [1], True, 1.5])
def test_what_is_no_number_is_never_a_zero(value: Any, records: dict[str, Any], tmp_path: Path) -> None:
    victim, broken = damaged(records, "当前点赞量", value)
    path = write(tmp_path / "records.json", broken)
    with pytest.raises(RecordError, match=victim):
        list(read_records(path, bad_numbers="zero"))
