"""Edges with times and numbers of their own, from tables to samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.dataset import BuildConfig, ReadReport
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.sort import Piece, Policy, Values, write_rows
from netgpt.sampler import NeighborSampler
from netgpt.sampler.errors import SamplerError

PLAYS, BACK = ("user", "plays", "film"), ("film", "rev_plays", "user")
NUM, USERS, FILMS = 400, 12, 20


def description(**plays: Any) -> dict[str, Any]:
    table = {
        "path": "plays.csv",
        "time": "at",
        "columns": {"seconds": "number"},
        "links": {"user": "user", "film": "film"},
    }
    film = {"path": "films.csv", "key": "film", "columns": {"title": "text"}}
    return {"tables": {"film": film, "plays": {**table, **plays}}}


class Plays:
    """A random two-way graph: who saw what when; equal edges, and many edges of one moment."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.users, self.films = rng.integers(0, USERS, NUM), rng.integers(0, FILMS, NUM)
        self.at = 1_600_000_000 + rng.integers(0, 40, NUM)
        self.seconds = np.round(rng.normal(size=NUM), 3)
        self.seconds[rng.random(NUM) < 0.1] = np.nan

    def write(self, folder: Path, described: dict[str, Any]) -> Path:
        folder.mkdir(exist_ok=True)
        rows = zip(self.users, self.films, self.at, self.seconds, strict=True)
        lines = [f"u{u},f{f},{at},{'' if np.isnan(s) else s}" for u, f, at, s in rows]
        (folder / "plays.csv").write_text("\n".join(["user,film,at,seconds", *lines]))
        films = [f"f{i},film {i}" for i in range(FILMS)]
        (folder / "films.csv").write_text("\n".join(["film,title", *films]))
        (folder / "graph.json").write_text(json.dumps(described))
        return folder / "graph.json"

    def built(self, folder: Path, **options: Any) -> Store:
        path = self.write(folder, description())
        graphstore.build(path, folder / "store", BuildConfig(encoder="hash:8"), **options)
        return graphstore.open(str(folder / "store"))

    def row(self, store: Store, edge_type: tuple[str, str, str], tail: int) -> list[tuple[int, int, float]]:
        """Time, head and seconds of a tail's edges, in order."""
        codes = {int(name[1:]): i for i, name in enumerate(store.node_ids("user"))}
        users = np.array([codes[u] for u in self.users.tolist()])
        heads, tails = (users, self.films) if edge_type == PLAYS else (self.films, users)
        found = np.flatnonzero(tails == tail)
        return sorted((int(self.at[i]), int(heads[i]), float(self.seconds[i])) for i in found)


def shown(rows: list[tuple[int, int, float]]) -> list[str]:
    return sorted(f"{at} {head} {seconds:.3f}" for at, head, seconds in rows)


@pytest.fixture(scope="module")
def plays() -> Plays:
    return Plays(0)


@pytest.fixture(scope="module")
def store(plays: Plays, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return plays.built(tmp_path_factory.mktemp("plays"))


def test_rows_are_in_the_order_of_time_and_head_both_ways(store: Store, plays: Plays) -> None:
    for edge_type in (PLAYS, BACK):
        relation = store.relation(edge_type)
        assert relation.time is not None and relation.num_edges == NUM
        for tail in range(relation.num_dst):
            part = slice(relation.begin[tail], relation.end[tail])
            expected = plays.row(store, edge_type, tail)
            times, heads = relation.time[part].tolist(), relation.indices[part].tolist()
            assert list(zip(times, heads, strict=True)) == [(at, head) for at, head, _ in expected]
            seconds = relation.numbers["seconds"][part].tolist()
            assert shown(list(zip(times, heads, seconds, strict=True))) == shown(expected)
    assert graphstore.verify(store.path) == []


def test_little_memory_makes_the_same_rows(store: Store, plays: Plays, tmp_path: Path) -> None:
    """By ranges of tails with files between: within memory for a row or two at once."""
    needed = 40 * max(USERS, FILMS) + 32 * 60 + 15_000  # of keys
    small = plays.built(tmp_path, memory_bytes=needed)
    for edge_type in (PLAYS, BACK):
        one, other = store.relation(edge_type), small.relation(edge_type)
        np.testing.assert_array_equal(one.indices, other.indices)
        assert one.time is not None and other.time is not None
        np.testing.assert_array_equal(one.time, other.time)
        np.testing.assert_array_equal(one.numbers["seconds"], other.numbers["seconds"])


def test_no_memory_for_the_longest_row_is_refused(plays: Plays, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"plays.*: memory: found 900 bytes, expected at least"):
        plays.built(tmp_path, memory_bytes=900)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_no_sampled_edge_is_at_or_after_the_time_of_its_seed(seed: int, tmp_path: Path) -> None:
    """By brute force, on random two-way graphs, two hops, with times that tie; `<=` takes those in."""
    plays = Plays(seed)
    store = plays.built(tmp_path)
    rng = np.random.default_rng(seed)
    seeds, limits = rng.integers(0, FILMS, 60), 1_600_000_000 + rng.integers(-2, 45, 60)
    for temporal, fanout in (("<", -1), ("<", 4), ("<=", -1), ("<=", 3)):
        sampler = NeighborSampler(store, fanout=fanout, hops=2, temporal=temporal, edge_ids=True)
        batch = sampler.sample({"film": seeds}, times=limits)
        assert batch.edge_ids is not None and batch.trees is not None
        for edge_type in (PLAYS, BACK):
            relation, (_, _, dst) = store.relation(edge_type), edge_type
            assert relation.time is not None
            counts = batch.degrees[edge_type]
            tail_at = np.repeat(np.arange(len(counts)), counts)
            limit = limits[batch.trees[dst][tail_at]]
            times = relation.time[batch.edge_ids[edge_type]]
            assert len(times) and (times < limit + (temporal == "<=")).all()
            heads = batch.nodes[edge_type[0]][batch.heads[edge_type]]
            np.testing.assert_array_equal(relation.indices[batch.edge_ids[edge_type]], heads)
            tails = batch.nodes[dst][: len(counts)]
            for i, tail in enumerate(tails.tolist()):
                end = limits[batch.trees[dst][i]] + (temporal == "<=")
                visible = [at for at, _, _ in plays.row(store, edge_type, tail) if at < end]
                assert counts[i] == (len(visible) if fanout < 0 else min(fanout, len(visible)))
                first = counts[:i].sum()
                if fanout < 0:
                    assert sorted(times[first : first + counts[i]].tolist()) == visible


def test_seeds_without_times_need_some(store: Store) -> None:
    sampler = NeighborSampler(store, temporal="<")
    with pytest.raises(SamplerError, match=r"^times: found none of the seeds of type film, expected one"):
        sampler.sample(np.arange(3))
    assert NeighborSampler(store, fanout=-1, hops=1).sample(np.arange(FILMS)).degrees[PLAYS].sum() == NUM


def test_loops_are_left_out_with_their_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    heads, tails, times = (rng.integers(0, 6, 90) for _ in range(3))
    numbers = rng.normal(size=90).astype(np.float32)

    def pieces() -> Any:
        for i in range(0, 90, 25):
            part = slice(i, i + 25)
            yield Piece(heads[part], tails[part], "memory", i, values=(times[part], numbers[part]))

    for memory_bytes in (10_000_000, 2_500):
        root = tmp_path / str(memory_bytes)
        stats = write_rows(
            root,
            "r",
            pieces,
            num_heads=6,
            num_tails=6,
            policy=Policy(self_loops="drop"),
            memory_bytes=memory_bytes,
            values=Values(True, ("n",)),
        )
        kept = np.flatnonzero(heads != tails)
        assert stats.num_edges == len(kept)
        order = kept[np.lexsort((kept, heads[kept], times[kept], tails[kept]))]
        read = {name: sort_array(root, f"r/{name}") for name in ("indices", "time", "numbers/n")}
        np.testing.assert_array_equal(read["indices"], heads[order])
        np.testing.assert_array_equal(read["time"], times[order])
        np.testing.assert_array_equal(read["numbers/n"], numbers[order])


def sort_array(root: Path, name: str) -> np.ndarray:
    from netgpt.graphstore.arrays import map_array

    return np.asarray(map_array(root, name))


@pytest.mark.parametrize("array", ["time", "numbers/seconds"])
def test_damaged_values_are_found(array: str, plays: Plays, tmp_path: Path) -> None:
    """Sealed anew, so that no digest tells."""
    from netgpt.graphstore.arrays import write_array
    from netgpt.graphstore.seal import write_seal

    store = plays.built(tmp_path)
    path = store.path
    values = np.array(store.array(f"edges/user/plays/film/{array}"))
    spoilt = values[::-1].copy() if array == "time" else values[:-1]
    (path / "SEAL.json").unlink()
    for file in sorted((path / "edges/user/plays/film" / array).rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    write_array(path, f"edges/user/plays/film/{array}", spoilt)
    write_seal(path, None)
    problems = graphstore.verify(path)
    assert len(problems) == 1 and f"edges/user/plays/film/{array}" in problems[0]
    words = (
        "is earlier than the one before it" if array == "time" else f"found {NUM - 1} rows, expected {NUM}"
    )
    assert words in problems[0]


def test_bad_edges_are_left_out_and_counted_once(plays: Plays, tmp_path: Path) -> None:
    path = plays.write(tmp_path, description())
    lines = (tmp_path / "plays.csv").read_text().splitlines()
    lines[3], lines[9] = "u1,f1,soon,1", "u1,f2,1600000000,much"
    lines[12] = "u1,f99,1600000000,1"
    (tmp_path / "plays.csv").write_text("\n".join(lines))
    with pytest.raises(StoreError, match=r"plays.csv: record '2': field 'at': found 'soon', expected sec"):
        graphstore.build(path, tmp_path / "store", BuildConfig(encoder="hash:8"))
    assert not (tmp_path / "store").exists()
    report: ReadReport = graphstore.build(
        path, tmp_path / "store", BuildConfig(encoder="hash:8", on_error="skip")
    )
    assert report.skipped == {"at": 1, "seconds": 1} and report.dangling == {"film": 1}
    assert graphstore.open(str(tmp_path / "store")).num_edges == {PLAYS: NUM - 3, BACK: NUM - 3}


def test_rows_may_be_nodes_all_the_same(plays: Plays, tmp_path: Path) -> None:
    described = description(rows="nodes")
    described["target"] = "plays"
    path = plays.write(tmp_path, described)
    graphstore.build(path, tmp_path / "store", BuildConfig(encoder="hash:8"))
    store = graphstore.open(str(tmp_path / "store"))
    assert store.num_nodes["plays"] == NUM and store.schema.target == "plays"
    np.testing.assert_array_equal(store.column("plays", "at"), plays.at)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "edges with a document": (
        {"document": ["seconds"]},
        "tables.plays: found 'document of edges', expected rows: nodes, or none of them",
    ),
    "edges of texts": (
        {"rows": "edges", "columns": {"seconds": "text"}},
        "tables.plays.rows: found 'edges', expected nodes, or no key, two links, and by name columns",
    ),
    "two times": (
        {"columns": {"seconds": "number", "until": "time"}},
        "tables.plays.columns: found 'until', expected no time of edges beside at",
    ),
    "a time that is not the edges'": (
        {"time": "", "columns": {"at": "time"}},
        "tables.plays.columns: found 'at', expected tables.plays.time that names it",
    ),
    "a time that is no name": (
        {"time": "at (s)"},
        "tables.plays: found 'at (s)', expected columns of letters",
    ),
    "rows of neither": ({"rows": "both"}, "tables.plays.rows: found 'both', expected nodes or edges"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_descriptions_of_edges_are_refused(what: str, plays: Plays, tmp_path: Path) -> None:
    change, message = BAD[what]
    path = plays.write(tmp_path, description(**change))
    with pytest.raises(StoreError) as raised:
        graphstore.build(path, tmp_path / "store", BuildConfig(encoder="hash:8"))
    assert message in str(raised.value)


def test_edges_that_are_asked_about_say_what_to_do(plays: Plays, tmp_path: Path) -> None:
    path = plays.write(tmp_path, {**description(), "target": "plays"})
    with pytest.raises(StoreError, match=r"whose rows are edges', expected .*, or tables.plays.rows: nodes$"):
        graphstore.build(path, tmp_path / "store", BuildConfig(encoder="hash:8"))
