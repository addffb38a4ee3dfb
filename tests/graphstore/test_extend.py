"""New states that join a store in memory, against a store built from all records at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import RecordError, Store
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.extend import ExtendedGraph
from netgpt.graphstore.features import Features
from netgpt.graphstore.joined import JoinedFeatures, JoinedRelation
from netgpt.graphstore.members import Members
from netgpt.graphstore.relations import PrefixRows, Relation, prefix_rows


@pytest.fixture(scope="module", params=["prefix", "csr"])
def parts(request: Any, records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(store of two thirds, path of the rest, store of all), the rest chosen across videos and dates."""
    root = tmp_path_factory.mktemp("extend")
    config = Config(encoder="hash:32", time_dim=8, video_dim=4, layout=request.param)
    new = {k: r for i, (k, r) in enumerate(records.items()) if i % 3 == 1}
    old = {
        k: {**r, "历史状态": [h for h in r["历史状态"] if str(h) not in new]}
        for k, r in records.items()
        if k not in new
    }
    for name, value in (("old", old), ("new", new), ("all", {**old, **new})):
        (root / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    for name in ("old", "all"):
        graphstore.build(root / f"{name}.json", root / name, config)
    return graphstore.open(root / "old"), root / "new.json", graphstore.open(root / "all")


def extend(store: Store, path: Path) -> ExtendedGraph:
    known = frozenset(store.ids)
    return ExtendedGraph(store, store.dataset.open(path, require_labels=False, known_ids=known))


def test_new_rows_equal_a_store_of_all_and_old_rows_stay(parts: Any) -> None:
    old, new_path, whole = parts
    graph = extend(old, new_path)
    assert graph.num_nodes == whole.num_nodes and list(graph.ids) == list(whole.ids)
    assert list(graph.texts) == list(whole.texts)
    shorter = 0
    for edge_type in old.edge_types:
        joined, before, after = (g.relation(edge_type) for g in (graph, old, whole))
        for v in range(old.num_nodes["video"]):
            assert joined.neighbors(v).tolist() == before.neighbors(v).tolist()
            shorter += len(before.neighbors(v)) < len(after.neighbors(v))
        for v in graph.new.tolist():
            assert joined.neighbors(v).tolist() == after.neighbors(v).tolist()
        assert (joined.degree(graph.new) == after.degree(graph.new)).all()
    assert shorter > 0  # the case is a real one: in the store of all, old rows did grow


def test_features_equal_a_store_of_all(parts: Any) -> None:
    old, new_path, whole = parts
    graph = extend(old, new_path)
    for name in graph.node_types:
        ids = np.arange(graph.num_nodes[name])
        np.testing.assert_array_equal(graph.features(name).gather(ids), whole.features(name).gather(ids))


def test_parts_are_those_of_whole_arrays_and_copy_nothing(parts: Any) -> None:
    """What is read of some nodes, and of rows, is what arrays of all say, which nobody has made by then."""
    old, new_path, _ = parts
    graph = extend(old, new_path)
    num = old.num_nodes["video"]
    ids = np.array([0, num + 2, num - 1, num, 0])
    spans = [(0, num), (num - 2, num + 3), (num, num + 3), (num, num), (num + 1, num + 2)]
    joined = {e: graph.relation(e) for e in graph.edge_types if e[2] == "video"}
    for edge_type, relation in joined.items():
        assert isinstance(relation, JoinedRelation)
        degrees, heads = relation.degree(ids), [relation.heads_of(*span) for span in spans]
        rows = [relation.neighbors(v) for v in ids.tolist()]
        assert not relation.__dict__.keys() & {"indices", "begin", "end"}
        whole = Relation(
            edge_type, relation.layout, relation.indices, relation.begin, relation.end, relation.rank
        )
        np.testing.assert_array_equal(degrees, whole.degree(ids))
        np.testing.assert_array_equal(relation.degree(), whole.degree())
        for found, span in zip(heads, spans, strict=True):
            np.testing.assert_array_equal(found, whole.heads_of(*span))
        for found, v in zip(rows, ids.tolist(), strict=True):
            np.testing.assert_array_equal(found, whole.neighbors(v))
        assert relation.num_edges == whole.num_edges
    for name in old.schema.encoded_types:
        features = graph.features(name)
        nodes = np.array([0, features.num_nodes - 1, old.num_nodes[name] - 1, 0])
        found = features.gather(nodes)
        if isinstance(features, JoinedFeatures):
            assert "x" not in features.__dict__
        row = nodes if features.x_row is None else features.x_row[nodes]
        np.testing.assert_array_equal(found, features.x[row])


@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3)), min_size=1, max_size=12),
    num_new=st.integers(1, 6),
    strict=st.booleans(),
)
def test_members_make_the_rows_of_all_nodes(rows: list[tuple[int, int]], num_new: int, strict: bool) -> None:
    key, time = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    num_old = max(0, len(rows) - num_new)
    joined = Members.of(key[:num_old], time[:num_old]).joined(key[num_old:], time[num_old:], strict=strict)
    whole = prefix_rows(key, time, strict=strict)
    found, expected = (
        [_heads(part, v) for v in range(first, len(part.begin))]
        for part, first in ((joined, 0), (whole, num_old))
    )
    assert found == expected


def _heads(rows: PrefixRows, v: int) -> list[int]:
    places = range(int(rows.begin[v]), int(rows.end[v]))
    return [int(rows.indices[i]) for i in places if i - rows.begin[v] != rows.rank[v]]


def test_an_id_of_the_store_is_an_error(parts: Any, tmp_path: Path, records: dict[str, Any]) -> None:
    old, _, _ = parts
    path = tmp_path / "again.json"
    path.write_text(json.dumps({old.ids[0]: records[old.ids[0]]}))
    with pytest.raises(RecordError, match="already has") as caught:
        extend(old, path)
    assert repr(old.ids[0]) in str(caught.value)


def test_history_resolves_against_store_and_file(parts: Any, tmp_path: Path, records: dict[str, Any]) -> None:
    old, _, _ = parts
    record = {**next(iter(records.values())), "历史状态": [old.ids[0], 900001]}
    del record["影响力等级"]
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"900000": record}))
    with pytest.raises(RecordError, match="900001"):
        extend(old, path)
    path.write_text(json.dumps({"900000": record, "900001": {**record, "历史状态": []}}))
    assert extend(old, path).num_new == 2


def test_values_that_the_store_has_never_seen_get_nodes(
    parts: Any, tmp_path: Path, records: dict[str, Any]
) -> None:
    old, _, _ = parts
    record = {
        **next(iter(records.values())),
        "历史状态": [],
        "话题": "全新话题",
        "平台": "新平台",
        "发布用户ID": "",
    }
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"900000": record, "900001": {**record, "话题": ""}}, ensure_ascii=False))
    graph = extend(old, path)
    assert graph.num_nodes["topic"] == old.num_nodes["topic"] + 1
    first, second = graph.new.tolist()
    topic = graph.relation(("topic", "is_topic_of", "video"))
    assert topic.neighbors(first).tolist() == [old.num_nodes["topic"]]
    assert topic.neighbors(second).tolist() == []
    for name in ("has_same_topic_as", "has_same_author_as"):
        assert graph.relation(("video", name, "video")).neighbors(second).tolist() == []


def test_what_is_left_out_of_new_rows_alone(parts: Any) -> None:
    old, new_path, _ = parts
    graph = extend(old, new_path)
    for edge_type in [e for e in graph.edge_types if e[2] == "video"]:
        before, without = graph.relation(edge_type), graph.without_heads(edge_type).relation(edge_type)
        rows = [before.neighbors(v).tolist() for v in graph.new.tolist()]
        some = {head for row in rows for head in row[::2]}
        fewer = graph.without_heads(edge_type, some).relation(edge_type)
        for v in range(old.num_nodes["video"]):
            assert (
                without.neighbors(v).tolist() == fewer.neighbors(v).tolist() == before.neighbors(v).tolist()
            )
        for v, row in zip(graph.new.tolist(), rows, strict=True):
            assert without.neighbors(v).tolist() == []
            assert fewer.neighbors(v).tolist() == [head for head in row if head not in some]
        first, last = old.num_nodes["video"], graph.num_nodes["video"]
        assert fewer.heads_of(first, last).tolist() == [h for row in rows for h in row if h not in some]
        assert graph.relation(edge_type) is before
    ones = [Features(n, np.ones((1, 4), np.float16), np.zeros(n, np.int32)) for n in (first, last - first)]
    graph._features["video"] = JoinedFeatures(*ones)
    x, kept = graph.without_features().features("video"), graph.features("video")
    assert not x.gather(graph.new).any() and kept.gather(graph.new).all()
    every = np.arange(old.num_nodes["video"])
    np.testing.assert_array_equal(x.gather(every), kept.gather(every))
