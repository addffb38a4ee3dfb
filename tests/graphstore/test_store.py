"""The store against the records and a naive double loop; plain zarr reads what it wrote."""

from __future__ import annotations

import errno
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import Store, StoreError, UnknownNameError, seal
from netgpt.graphstore.arrays import ArrayWriter, Strings, StringWriter, map_array
from netgpt.graphstore.datasets.xsvideo.schema import SCALARS, Config
from netgpt.graphstore.relations import Relation, csr_from_pairs, prefix_rows
from netgpt.sampler import NeighborSampler
from tests.conftest import SMALL

RULES = {
    "has_same_topic_as": ("话题", False),
    "has_same_author_as": ("发布用户ID", False),
    "is_history_of": ("url", True),
}
COUNT_KEYS = {
    "likes": "当前点赞量",
    "collects": "当前收藏量",
    "views": "当前播放量",
    "shares": "当前分享量",
    "comments": "当前评论量",
    "fans": "当前粉丝量",
    "video_time": "视频时长（秒）",
}


def naive_rows(records: dict[str, Any], key: str, strict: bool, ties: str = "include") -> list[list[int]]:
    """The edge rule of the design as a double loop."""
    items, rows = list(records.values()), []
    for v, tail in enumerate(items):
        row = []
        for u, head in enumerate(items):
            before = head["当前时间"] < tail["当前时间"]
            same_day = head["当前时间"] == tail["当前时间"] and not strict and ties == "include"
            if u != v and tail[key] != "" and head[key] == tail[key] and (before or same_day):
                row.append((head["当前时间"], u))
        rows.append([u for _, u in sorted(row)])
    return rows


def check_against_records(store: Store, records: dict[str, Any], ties: str = "include") -> None:
    for name, (key, strict) in RULES.items():
        relation = store.relation(("video", name, "video"))
        rows = naive_rows(records, key, strict, ties)
        assert [relation.neighbors(v).tolist() for v in range(len(rows))] == rows
        assert relation.degree().tolist() == [len(r) for r in rows]
        assert store.num_edges[("video", name, "video")] == sum(len(r) for r in rows)
    platform = store.key("platform")[1]
    topic = store.key("topic")[1]
    comment = 0
    for v, record in enumerate(records.values()):
        for edge_type in store.edge_types:
            src = edge_type[0]
            row = store.relation(edge_type).neighbors(v).tolist()
            if src in ("platform", "topic"):
                names = platform if src == "platform" else topic
                assert [names[u] for u in row] == [record["平台" if src == "platform" else "话题"]]
            elif src == "comment":
                num = len(record["评论"])
                assert row == list(range(comment, comment + num))
                comment += num
            elif src != "video":
                assert row == [v]
    assert comment == store.num_nodes["comment"]


def test_rows_equal_a_double_loop_in_both_layouts(
    store: Store, csr_store: Store, records: dict[str, Any]
) -> None:
    assert store.relation(("video", "has_same_topic_as", "video")).layout == "prefix"
    assert csr_store.relation(("video", "has_same_topic_as", "video")).layout == "csr"
    check_against_records(store, records)
    check_against_records(csr_store, records)


def test_strict_ties_drop_heads_of_the_same_day(
    records: dict[str, Any], records_path: Path, tmp_path: Path
) -> None:
    config = Config(encoder="hash:32", time_dim=8, video_dim=4, ties="strict")
    graphstore.build(records_path, tmp_path / "store", config)
    check_against_records(graphstore.open(tmp_path / "store"), records, ties="strict")


@pytest.mark.parametrize("layout", ["prefix", "csr"])
def test_released_sample_equals_a_double_loop(layout: str, sample_path: Path, tmp_path: Path) -> None:
    config = Config(encoder="hash:32", time_dim=8, video_dim=4, layout=layout)  # type: ignore[arg-type]
    graphstore.build(sample_path, tmp_path / "store", config)
    store = graphstore.open(tmp_path / "store")
    records = json.loads(sample_path.read_text(encoding="utf-8"))
    check_against_records(store, records)
    assert len(store.split("train")) == 770 and len(store.split("test")) == 903
    assert sorted(len(r["历史状态"]) for r in records.values()) == sorted(
        store.relation(("video", "is_history_of", "video")).degree().tolist()
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 4)), max_size=25), st.booleans())
def test_prefix_rows_equal_the_rule(nodes: list[tuple[int, int]], strict: bool) -> None:
    key = np.array([k for k, _ in nodes], np.int64)
    time = np.array([t for _, t in nodes], np.int64)
    rows = prefix_rows(key, time, strict=strict)
    relation = Relation(("v", "r", "v"), "prefix", rows.indices, rows.begin, rows.end, rows.rank)
    for v, (k, t) in enumerate(nodes):
        expected = sorted(
            (other_t, u)
            for u, (other_k, other_t) in enumerate(nodes)
            if u != v and k >= 0 and other_k == k and (other_t < t or (other_t == t and not strict))
        )
        assert relation.neighbors(v).tolist() == [u for _, u in expected]
        assert relation.degree(np.array([v])).tolist() == [len(expected)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), max_size=30))
def test_csr_keeps_the_edge_list(edges: list[tuple[int, int]]) -> None:
    heads = np.array([h for h, _ in edges], np.int64)
    tails = np.array([t for _, t in edges], np.int64)
    indptr, indices = csr_from_pairs(heads, tails, 8)
    for v in range(8):
        assert indices[indptr[v] : indptr[v + 1]].tolist() == [h for h, t in edges if t == v]


def test_features_equal_their_formulas(store: Store, records: dict[str, Any]) -> None:
    for name in SCALARS:
        values = np.array([r[COUNT_KEYS[name]] for r in records.values()], np.float64)
        found = store.features(name).gather(np.arange(len(values)))[:, 0]
        np.testing.assert_allclose(found, np.log(1 + values), rtol=1e-6)
    assert not store.features("video").gather(np.arange(len(records))).any()
    title = store.features("title")
    assert title.num_rows == len({r["标题"] for r in records.values()})
    for v, record in enumerate(records.values()):
        same = [u for u, other in enumerate(records.values()) if other["标题"] == record["标题"]]
        assert (title.rows(np.array(same)) == title.rows(np.array([v]))).all()
    norm = np.linalg.norm(title.gather(np.arange(len(records))).astype(np.float64), axis=1)
    empty = np.array([r["标题"] == "" for r in records.values()])
    np.testing.assert_allclose(norm[~empty], 1, atol=2e-3)
    assert not norm[empty].any()


def test_columns_equal_the_records(store: Store, records: dict[str, Any]) -> None:
    assert list(store.ids) == list(records)
    assert store.labels.tolist() == [r["影响力等级"] for r in records.values()]
    train = set(store.split("train").tolist())
    assert train == {v for v, r in enumerate(records.values()) if r["发布时间"][:10] <= "2024-12-20"}
    assert train | set(store.split("test").tolist()) == set(range(len(records)))
    assert [json.loads(t)["标题"] for t in store.texts] == [r["标题"] for r in records.values()]


def test_plain_zarr_reads_every_array(store: Store) -> None:
    group = zarr.open_group(str(store.path), mode="r")
    assert group.attrs["format"] == "netgpt-graph"
    seen = 0
    for meta in store.path.rglob("zarr.json"):
        if json.loads(meta.read_text())["node_type"] != "array":
            continue
        name = meta.parent.relative_to(store.path).as_posix()
        array = group[name]
        assert isinstance(array, zarr.Array)
        np.testing.assert_array_equal(array[...], store.array(name))
        seen += 1
    assert seen > 60


@settings(max_examples=30, deadline=None)
@given(
    num=st.integers(0, 5000),
    width=st.sampled_from([None, 1, 3, 700]),
    dtype=st.sampled_from(["u1", "i4", "f2", "f8"]),
    pieces=st.integers(1, 4),
)
def test_an_array_is_one_run_of_bytes_and_valid_zarr(
    num: int, width: int | None, dtype: str, pieces: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("arrays")
    shape = (num,) if width is None else (num, width)
    values = (np.arange(np.prod(shape)) % 199).astype(dtype).reshape(shape)
    with ArrayWriter(root, "a", dtype, width) as writer:
        for part in np.array_split(values, pieces):
            writer.append(part)
    np.testing.assert_array_equal(map_array(root, "a"), values)
    array = zarr.open_array(str(root / "a"), mode="r")
    np.testing.assert_array_equal(array[...], values)
    assert array[num // 2 : num // 2 + 3].tolist() == values[num // 2 : num // 2 + 3].tolist()


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=20))
def test_strings_round_trip(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("strings")
    writer = StringWriter(root, "s")
    writer.append(texts[:3])
    writer.append(texts[3:])
    writer.close()
    assert list(Strings(map_array(root, "s"), map_array(root, "s_offset"))) == texts


def test_same_input_gives_the_same_bytes(records_path: Path, store: Store, tmp_path: Path) -> None:
    graphstore.build(records_path, tmp_path / "again", SMALL)
    assert graphstore.open(tmp_path / "again").digest == store.digest


def test_opening_maps_and_pickling_opens_again(store: Store) -> None:
    again = pickle.loads(pickle.dumps(store))
    assert again.digest == store.digest
    assert isinstance(store.relation(("video", "has_same_topic_as", "video")).indices, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        store.labels[0] = 1


def test_unknown_names_say_what_there_is(store: Store) -> None:
    with pytest.raises(UnknownNameError, match="has_same_topic_as"):
        store.relation(("video", "likes", "video"))
    with pytest.raises(UnknownNameError, match="platform"):
        store.features("user")
    with pytest.raises(KeyError, match="train, test"):
        store.split("dev")


def test_an_existing_target_is_kept(records_path: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mine.txt").write_text("keep")
    with pytest.raises(StoreError, match="already there"):
        graphstore.build(records_path, tmp_path / "store", SMALL)
    assert (tmp_path / "store" / "mine.txt").read_text() == "keep"


def test_graphstore_and_sampler_import_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from netgpt import graphstore, sampler; "
        "sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_store_opened_by_a_relative_path_can_be_used_from_anywhere(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(store.path.parent)
    opened = graphstore.open(store.path.name)
    sent = pickle.dumps(opened)
    monkeypatch.chdir(tmp_path)
    for one in (opened, pickle.loads(sent)):
        edge_type = one.edge_types[0]
        assert one.relation(edge_type).num_edges == store.relation(edge_type).num_edges
        assert len(NeighborSampler(one, fanout=2).sample(np.array([0])).nodes) > 0
    with pytest.raises(graphstore.FormatError, match=r"^gone: no such store"):
        graphstore.open("gone")


def test_a_file_that_cannot_be_read_is_a_problem_of_its_array(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, chunk_bytes: int) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(seal, "digest_file", refuse)
    problems = graphstore.verify(store.path)
    assert problems and all(p.endswith("cannot be read (Permission denied)") for p in problems)
