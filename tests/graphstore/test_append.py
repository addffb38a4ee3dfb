"""Appending, against a build from all records at once: the same bytes in every array."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import FormatError, RecordError, Store, StoreError
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.writer import next_version

CONFIG = {"encoder": "hash:16", "time_dim": 4, "video_dim": 2}


def write(path: Path, records: dict[str, Any]) -> Path:
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def equal_arrays(one: Store, other: Store) -> None:
    """Every file but the root's attributes, byte for byte by its digest."""
    assert one.seal.files.keys() == other.seal.files.keys()
    different = {n for n, digest in one.seal.files.items() if other.seal.files[n] != digest}
    assert different == {"zarr.json"}
    assert one.attributes["num_nodes"] == other.attributes["num_nodes"]
    assert one.attributes["relations"] == other.attributes["relations"]


@settings(max_examples=5, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 191), min_size=1, max_size=3, unique=True),
    order=st.sampled_from(["released", "by day", "late"]),
    layout=st.sampled_from(["prefix", "csr"]),
    ties=st.sampled_from(["include", "strict"]),
)
def test_any_split_in_arrival_order_equals_one_build(
    cuts: list[int],
    order: str,
    layout: str,
    ties: str,
    records: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("append")
    items = list(records.items())
    if order == "by day":  # as a crawl goes: states of one day arrive together
        items.sort(key=lambda item: item[1]["当前时间"])
    elif order == "late":  # the newest days first, so that every later part shifts ranks
        items = [(k, {**r, "历史状态": []}) for k, r in reversed(items)]
    config = Config(**CONFIG, layout=layout, ties=ties)  # type: ignore[arg-type]
    graphstore.build(write(root / "all.json", dict(items)), root / "all", config)
    ends = [0, *sorted(cuts), len(items)]
    parts = [write(root / f"{a}.json", dict(items[a:b])) for a, b in pairwise(ends)]
    path = root / "parts"
    graphstore.build(parts[0], path, config)
    for part in parts[1:]:
        before = graphstore.open(path)
        path, report = graphstore.append(path, part)
        made = graphstore.open(path)
        assert made.attributes["parent_digest"] == before.digest
        assert report.num_read == made.num_nodes["video"] - before.num_nodes["video"]
        assert graphstore.verify(path) == [] and graphstore.open(before.path).digest == before.digest
    assert path.name == f"parts-{len(parts)}"
    equal_arrays(graphstore.open(path), graphstore.open(root / "all"))


@pytest.fixture
def half(records: dict[str, Any], tmp_path: Path) -> tuple[Path, Path]:
    """A store of the first half and a file of the second."""
    items = list(records.items())
    middle = next(i for i in range(90, 120) if not items[i][1]["历史状态"])
    graphstore.build(write(tmp_path / "old.json", dict(items[:middle])), tmp_path / "s", Config(**CONFIG))
    return tmp_path / "s", write(tmp_path / "new.json", dict(items[middle:]))


def test_unchanged_files_are_hard_links(half: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = half
    made, _ = graphstore.append(old, new, tmp_path / "made")
    before, after = graphstore.open(old).seal.files, graphstore.open(made).seal.files
    for name, digest in after.items():
        shared = (made / name).stat().st_ino == (old / name).stat().st_ino if name in before else False
        assert shared == (before.get(name) == digest), name
    assert (made / "nodes/video/x/c/0/0").stat().st_nlink == 2
    # Versions do not need each other: without the old one the new one is whole
    import shutil

    shutil.rmtree(old)
    assert graphstore.verify(made) == []


def test_bad_records_leave_the_store_and_nothing_else(
    half: tuple[Path, Path], records: dict[str, Any], tmp_path: Path
) -> None:
    old, new = half
    digest, there = graphstore.open(old).digest, {p.name for p in tmp_path.iterdir()}
    good = json.loads(new.read_text(encoding="utf-8"))
    first, *_, last = good
    known = graphstore.open(old).ids[3]
    for change, error, words in (
        ({known: records[known]}, RecordError, f"record {known!r}: field 'id': found an id that the store"),
        ({last: {**good[last], "历史状态": [first, 987654]}}, RecordError, "unknown state id 987654"),
        ({last: {**good[last], "当前点赞量": -1}}, RecordError, "field '当前点赞量': found -1"),
    ):
        bad = write(new, {**good, **change})
        with pytest.raises(error, match=words):
            graphstore.append(old, bad)
        assert {p.name for p in tmp_path.iterdir()} == there
    assert graphstore.open(old).digest == digest
    made, report = graphstore.append(old, bad, on_error="skip")
    assert report.num_skipped == 1 == graphstore.open(made).attributes["num_skipped"]
    assert graphstore.open(made).num_nodes["video"] == len(records) - 1


def test_a_damaged_store_is_not_appended_to(half: tuple[Path, Path]) -> None:
    old, new = half
    path = old / "nodes/video/label/c/0"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(FormatError, match=r"nodes/video/label: .* damaged in bytes 0 to"):
        graphstore.append(old, new)
    assert not old.with_name("s-2").exists()


def test_records_left_out_on_the_way_change_nothing(records: dict[str, Any], tmp_path: Path) -> None:
    """Ids of left-out records stay valid in later histories, and stay taken, as in one build."""
    items = list(records.items())
    first = next(i for i, (_, r) in enumerate(items) if i > 9 and r["历史状态"])
    bad = str(items[first][1]["历史状态"][0])
    items[[k for k, _ in items].index(bad)] = (bad, {**records[bad], "影响力等级": 99})
    config = Config(**CONFIG, on_error="skip")  # type: ignore[arg-type]
    graphstore.build(write(tmp_path / "all.json", dict(items)), tmp_path / "all", config)
    graphstore.build(write(tmp_path / "a.json", dict(items[:first])), tmp_path / "a", config)
    made, report = graphstore.append(tmp_path / "a", write(tmp_path / "b.json", dict(items[first:])))
    one, other = graphstore.open(made), graphstore.open(tmp_path / "all")
    assert report.num_skipped == 0 and one.num_nodes["video"] == len(items) - 1
    equal_arrays(one, other)
    assert one.skipped_ids == {bad}
    with pytest.raises(RecordError, match="already has"):
        graphstore.append(made, write(tmp_path / "c.json", {bad: {**records[bad], "历史状态": []}}))


def test_wrong_targets(half: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = half
    with pytest.raises(StoreError, match="already there"):
        graphstore.append(old, new, old)
    with pytest.raises(StoreError, match="on_error: found 'never'"):
        graphstore.append(old, new, on_error="never")  # type: ignore[arg-type]
    np.save(tmp_path / "e.npy", np.zeros((1, 2), np.int64))
    (tmp_path / "g.yaml").write_text("nodes: {n: {}}\nedges: [{type: [n, to, n], path: e.npy}]\n")
    graphstore.build_edges(tmp_path / "g.yaml", tmp_path / "edges")
    with pytest.raises(FormatError, match="a store of edge lists"):
        graphstore.append(tmp_path / "edges", new)


def test_versions_are_numbered() -> None:
    names = [next_version(Path("a") / n).name for n in ("s", "s-2", "s-9", "s-x", "2024-12")]
    assert names == ["s-2", "s-3", "s-10", "s-x-2", "2024-13"]
