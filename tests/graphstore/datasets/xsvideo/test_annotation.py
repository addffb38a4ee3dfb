"""The annotation rule against a naive reading of its table, planted factors, and the released levels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from netgpt.cluster.cli import app
from netgpt.graphstore import RecordError, StoreError
from netgpt.graphstore.datasets.xsvideo.annotation import (
    INDICATORS,
    annotate,
    annotate_file,
    fit_factor,
    level_of,
    read_factors,
    read_pairs,
    summary,
)
from netgpt.graphstore.datasets.xsvideo.records import read_records
from netgpt.graphstore.datasets.xsvideo.synth.world import PLATFORM_FACTOR, PLATFORMS

TABLE = {
    1: (0, 0),
    2: (100, 10),
    3: (100_000, 20),
    4: (1_000_000, 80),
    5: (1_000_000, 300),
    6: (1_000_000, 1_000),
    7: (10_000_000, 3_000),
    8: (100_000_000, 10_000),
    9: (200_000_000, 50_000),
}
THRESHOLDS = sorted({t for pair in TABLE.values() for t in pair})
FACTORS = {p: dict.fromkeys(INDICATORS, f) for p, f in zip(PLATFORMS, PLATFORM_FACTOR, strict=True)}


@given(
    st.lists(
        st.tuples(*[st.sampled_from(THRESHOLDS).flatmap(lambda t: st.integers(max(0, t - 1), t + 1))] * 5),
        min_size=1,
    )
)
def test_levels_follow_the_table(rows: list[tuple[int, ...]]) -> None:
    def naive(views: int, *others: int) -> int:
        if not any((views, *others)):
            return 0
        return max(n for n, (v, o) in TABLE.items() if views > v or any(x > o for x in others))

    assert level_of(np.array(rows, np.float64)).tolist() == [naive(*row) for row in rows]


@settings(max_examples=50)
@given(st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_the_factor_makes_the_percentage_error_least(planted: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 1000, 200).astype(np.float64)
    y = np.round(planted * x * rng.lognormal(0, 0.5, 200), 3)
    factor = fit_factor(x, y)
    both = (x > 0) & (y > 0)

    def loss(a: float) -> float:
        return float((((a * x[both] - y[both]) / y[both]) ** 2).mean())

    assert all(loss(factor) <= loss(factor * near) for near in (0.9, 0.999, 1.001, 1.1))
    exact = fit_factor(x, planted * x)
    assert exact == pytest.approx(planted, rel=1e-12)


def test_planted_factors_are_found_in_a_file(tmp_path: Path) -> None:
    planted = {"西瓜": {"views": 3.5, "likes": 0.25}, "头条": {"shares": 12.0}}
    rng = np.random.default_rng(0)
    lines = ["platform,indicator,x,y"]
    for platform, values in planted.items():
        for indicator, factor in values.items():
            x = rng.integers(1, 10_000, 50)
            lines += [f"{platform},{indicator},{n},{factor * n}" for n in x]
            lines += [f"{platform},{indicator},0,17", f"{platform},{indicator},17,0"]  # left out
    lines += ["哔哩哔哩,views,0,5"]  # no pair is left: no factor
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    found = read_pairs(tmp_path / "pairs.csv")
    assert found.keys() == planted.keys()
    for platform, values in planted.items():
        assert found[platform] == pytest.approx(values, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("platform,indicator,x\na,views,1\n", r"field 'y': found the columns platform, indicator, x"),
        ("platform,indicator,x,y\na,fans,1,1\n", r"record '2': field 'indicator': found 'fans'"),
        ("platform,indicator,x,y\na,views,1,1\na,views,-1,1\n", r"record '3': field 'x': found '-1'"),
        ("platform,indicator,x,y\na,views,1,nan\n", r"field 'y': found 'nan'"),
        ("platform,indicator,x,y\na,views,1\n", r"field 'y': found None"),
        ("platform,indicator,x,y\na,views,0,1\n", "no pair without a zero"),
    ],
)
def test_bad_pairs_are_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(StoreError, match=words):
        read_pairs(tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "no object of objects"),
        ({"a": {"fans": 1}}, "indicator 'fans'"),
        ({"a": {"views": 0}}, r"a\.views: found 0"),
        ({"a": {"views": True}}, "found True"),
        ({"a": {"views": 10**400}}, r"a\.views: found 1000"),
    ],
)
def test_bad_factors_are_named(value: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps(value))
    with pytest.raises(StoreError, match=words):
        read_factors(tmp_path / "f.json")


def record(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**base, "历史状态": [], "评论": {}, **changes}


def test_the_last_state_rates_and_both_conditions_are_reported(
    records: dict[str, Any], tmp_path: Path
) -> None:
    base = next(iter(records.values()))
    zero = dict.fromkeys(("当前播放量", "当前点赞量", "当前分享量", "当前收藏量", "当前评论量"), 0)
    posted = {"发布时间": "2024-12-01 23:59:59"}
    states = {
        # Arrives first, sampled last: two weeks to the day after the post
        "1": record(base, url="a", **posted, **{**zero, "当前时间": "2024-12-15", "当前点赞量": 301}),
        "2": record(base, url="a", **posted, **{**zero, "当前时间": "2024-12-14", "当前点赞量": 5}),
        "3": record(base, url="a", **posted, **{**zero, "当前时间": "2024-12-12", "当前点赞量": 3}),
        "4": record(base, url="b", **posted, **{**zero, "当前时间": "2024-12-14", "当前点赞量": 21}),
    }
    for state in states.values():
        del state["影响力等级"]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(states, ensure_ascii=False), encoding="utf-8")
    a, b = annotate_file(path, tmp_path / "out.json")
    assert (a.level, a.is_final, a.age_days, a.num_states, a.num_close) == (5, True, 14, 3, 1)
    assert (b.level, b.is_final, b.age_days, b.num_close) == (3, False, 13, 0)
    written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert written == {k: {**states[k], "影响力等级": 5} for k in ("1", "2", "3")}
    annotate_file(path, tmp_path / "out.json", provisional=True)
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["4"]["影响力等级"] == 3
    scaled = annotate(read_records(path, require_level=False), {base["平台"]: {"likes": 0.1}})
    assert [s.level for s in scaled] == [3, 1]  # 30.1 and 2.1 likes
    report = summary([a, b], None)
    assert (report["not_final"], report["close_states"], report["videos_with_close_states"]) == (1, 1, 1)


def test_states_without_an_address_are_videos_of_their_own(records: dict[str, Any], tmp_path: Path) -> None:
    zero = dict.fromkeys(("当前点赞量", "当前播放量", "当前分享量", "当前收藏量", "当前评论量"), 0)
    dated = {"发布时间": "2024-12-01 00:00:00", "当前时间": "2024-12-20", "历史状态": [], **zero}
    base = next(iter(records.values()))
    changes = {"a": {"当前播放量": 500_000_000}, "b": {}, "c": {"当前点赞量": 15}}
    for addresses in (("", "", ""), ("u", "v", "w")):
        made = {
            state: {**record(base), **dated, **change, "url": address}
            for (state, change), address in zip(changes.items(), addresses, strict=True)
        }
        source, out = tmp_path / "in.json", tmp_path / "out.json"
        source.write_text(json.dumps(made, ensure_ascii=False))
        annotations = annotate_file(source, out)
        levels = {state: one["影响力等级"] for state, one in json.loads(out.read_text()).items()}
        assert levels == {"a": 9, "b": 0, "c": 2}
        counts = summary(annotations, None)
        assert (counts["videos"], counts["states"], counts["close_states"]) == (3, 3, 0)


def test_an_id_that_comes_again_is_written_once(records: dict[str, Any], tmp_path: Path) -> None:
    record_id, first = next(iter(records.items()))
    text = f"{json.dumps(record_id)}: {json.dumps({**first, '历史状态': []})}"
    (tmp_path / "r.json").write_text("{" + text + f", {json.dumps(record_id)}: [1]" + "}")
    annotate_file(tmp_path / "r.json", tmp_path / "out.json", provisional=True, on_error="skip")
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))[record_id]["url"] == first["url"]


def test_synthetic_levels_follow_the_rule_once_they_are_final(records_path: Path) -> None:
    found = [a for a in annotate_file(records_path, factors=FACTORS) if a.is_final]
    assert len(found) > 40 and len({a.platform for a in found}) == 5
    # Counters grow a little between two weeks and the last state
    assert np.mean([a.level == a.released_level for a in found]) > 0.97
    unscaled = [a for a in annotate_file(records_path) if a.is_final and a.platform == "西瓜"]
    assert np.mean([a.level == a.released_level for a in unscaled]) < 0.7


def test_the_released_levels_of_douyin(sample_path: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["annotate", str(sample_path), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["videos"] == 700 and report["states"] == 1673
    assert report["platforms"]["抖音"]["share_equal"] >= 0.98
    # The text says the same
    assert "(99.1%)" in CliRunner().invoke(app, ["annotate", str(sample_path)]).stdout


def test_command_fits_saves_and_writes(records_path: Path, tmp_path: Path) -> None:
    lines = ["platform,indicator,x,y"]
    for platform, factors in FACTORS.items():
        lines += [f"{platform},{name},{x},{factor * x}" for name, factor in factors.items() for x in (2, 30)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    options = ["--pairs", str(tmp_path / "pairs.csv"), "--save-factors", str(tmp_path / "f.json")]
    out = ["--out", str(tmp_path / "out.json"), "--json"]
    first = CliRunner().invoke(app, ["annotate", str(records_path), *options, *out])
    assert first.exit_code == 0, first.output
    again = CliRunner().invoke(
        app, ["annotate", str(records_path), "--factors", str(tmp_path / "f.json"), "--json"]
    )
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert read_factors(tmp_path / "f.json").keys() == FACTORS.keys()
    # What was written can be built
    assert len(list(read_records(tmp_path / "out.json"))) > 100
    both = CliRunner().invoke(app, ["annotate", str(records_path), "--factors", "a", "--pairs", "b"])
    assert "expected one of them" in str(both.exception)


def test_records_of_another_on_error_are_refused(records_path: Path) -> None:
    with pytest.raises(StoreError, match="on_error"):
        list(read_records(records_path, on_error="ignore"))  # type: ignore[arg-type]
    with pytest.raises(RecordError, match="already has"):
        list(read_records(records_path, known_ids=frozenset({"3"})))
