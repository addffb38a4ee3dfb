"""Tables of edges whose relations are the values of a column, against a dict of lists."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from netgpt import graphstore
from netgpt.graphstore import ReadReport, RecordError, StoreError
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets import names
from netgpt.graphstore.look import look

Fact = tuple[str, str, str, int]


def facts(num_relations: int, seed: int = 0) -> list[Fact]:
    rng = np.random.default_rng(seed)
    return [
        (f"e{h}", f"/kg/part {r}", f"e{t}", 1_600_000_000 + int(at))
        for h, r, t, at in zip(
            rng.integers(0, 40, 900),
            rng.integers(0, num_relations, 900),
            rng.integers(0, 40, 900),
            rng.integers(0, 30, 900),
            strict=True,
        )
    ]


def described(folder: Path, rows: list[Fact], more: str = "", *, columns: str = "weight: number") -> Path:
    lines = (f"{h}\t{r}\t{t}\t{at}\t{i}\n" for i, (h, r, t, at) in enumerate(rows))
    (folder / "facts.tsv").write_text("".join(lines))
    (folder / "graph.yaml").write_text(
        f"""
target: entity
tables:
  entity: {{path: entity.csv, key: id, columns: {{}}}}
  fact:
    path: facts.tsv
    separator: "\\t"
    header: [head, predicate, tail, at, weight]
    time: at
    columns: {{{columns}}}
    links: {{head: entity, tail: entity}}
    relation: predicate
    {more}
"""
    )
    (folder / "entity.csv").write_text("id\n" + "".join(f"e{i}\n" for i in range(40)))
    return folder / "graph.yaml"


@pytest.mark.parametrize("num_relations", [3, 60])
def test_every_value_is_a_relation_both_ways(num_relations: int, tmp_path: Path) -> None:
    rows = facts(num_relations)
    graphstore.build(described(tmp_path, rows), tmp_path / "store")
    store = graphstore.open(tmp_path / "store")
    ends: dict[str, list[tuple[int, int, int, float]]] = defaultdict(list)
    for i, (head, predicate, tail, at) in enumerate(rows):
        name = re.sub(r"[/ ]+", "_", predicate).strip("_")
        ends[name].append((int(tail[1:]), at, int(head[1:]), float(i)))
    assert {edge_type[1] for edge_type in store.edge_types} == {*ends, *(f"rev_{name}" for name in ends)}
    for name, expected in ends.items():
        relation = store.relation(("entity", name, "entity"))
        indptr, heads = relation.to_csr(np.int64)
        tails = np.repeat(np.arange(40), np.diff(indptr))
        assert relation.time is not None
        weights = relation.numbers["weight"].tolist()
        found = list(zip(tails.tolist(), relation.time.tolist(), heads.tolist(), weights, strict=True))
        assert sorted(found) == sorted(expected)
        assert [row[:3] for row in found] == sorted(row[:3] for row in expected)
        indptr, tails = store.relation(("entity", f"rev_{name}", "entity")).to_csr(np.int64)
        heads = np.repeat(np.arange(40), np.diff(indptr))
        assert sorted(zip(tails.tolist(), heads.tolist(), strict=True)) == sorted(
            (tail, head) for tail, _, head, _ in expected
        )
    assert graphstore.verify(store.path) == []


def test_what_is_left_out_is_counted_once(tmp_path: Path) -> None:
    """A row without a relation and one to nowhere, with as many relations as there are."""
    rows = [*facts(5), ("e1", "", "e2", 1_600_000_000), ("e1", "/kg/part 1", "e99", 1_600_000_000)]
    source = described(tmp_path, rows)
    with pytest.raises(RecordError, match=r"facts.tsv: record '900': field 'predicate': found nothing"):
        graphstore.build(source, tmp_path / "store")
    report = graphstore.build(source, tmp_path / "store", BuildConfig(on_error="skip"))
    assert dict(report.skipped) == {"predicate": 1}
    assert dict(report.dangling) == {"tail": 1}
    store = graphstore.open(tmp_path / "store")
    assert sum(store.num_edges.values()) == 2 * 900
    tables = names.load("tables")
    seen = look(tables.open(source, BuildConfig(on_error="skip"), report=ReadReport()), "tables")
    assert seen.edges == {"/".join(e): num for e, num in store.num_edges.items()}


def test_edges_are_the_same_with_nothing_on_disk(tmp_path: Path) -> None:
    source = names.load("tables").open(described(tmp_path, facts(4)), report=ReadReport())
    edge_type = ("entity", "kg_part_2", "entity")
    direct = [np.concatenate(parts) for parts in zip(*_arrays(source, edge_type), strict=True)]
    source.scratch = tmp_path / "scratch"
    source.scratch.mkdir()
    for _ in range(2):
        kept = [np.concatenate(parts) for parts in zip(*_arrays(source, edge_type), strict=True)]
        for one, other in zip(direct, kept, strict=True):
            np.testing.assert_array_equal(one, other)


def _arrays(source: graphstore.Source, edge_type: graphstore.EdgeType) -> list[tuple[np.ndarray, ...]]:
    return [(piece.heads, piece.tails, *piece.values) for piece in source.edges(edge_type)]


@pytest.mark.parametrize(
    ("rows", "more", "columns", "message"),
    [
        (
            [("e1", "a b", "e2", 0), ("e1", "a/b", "e2", 0)],
            "",
            "",
            "found \"'a/b' and 'a b'\", expected one of them",
        ),
        ([("e1", "//", "e2", 0)], "", "", "found '//', expected values with letters or digits"),
        ([("e1", "", "e2", 0)], "", "", r"facts.tsv: column predicate: found no value|no value"),
        (facts(2), "rows: nodes", "", "relation: found 'predicate', expected a table of edges"),
        (facts(2), "", "predicate: number", "relation: found 'predicate', expected a column that is nothing"),
        (facts(2), "relatoin: head", "", "unknown key tables.fact.relatoin; did you mean relation?"),
    ],
)
def test_relations_that_cannot_be_are_refused(
    rows: list[Fact], more: str, columns: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=message):
        graphstore.build(described(tmp_path, rows, more, columns=columns), tmp_path / "store")
    assert not (tmp_path / "store").exists()
