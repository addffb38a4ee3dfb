"""Edges as seeds: negatives, order, and what is left out of samples, against searches through all edges."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import same_batch
from scipy.stats import chisquare
from torch_geometric.loader import LinkLoader as PygLinkLoader
from torch_geometric.sampler import EdgeSamplerInput, NegativeSampling

from netgpt import graphstore
from netgpt.graphstore import EdgeType, Store
from netgpt.graphstore.dataset import BuildConfig
from netgpt.sampler import LinkBatch, LinkLoader, MiniBatch, NeighborSampler, SamplerError
from netgpt.sampler.links import LinkPairs
from netgpt.sampler.negatives import Draw
from netgpt.sampler.pyg import Sampler

SEEN, REVERSE = ("user", "seen", "item"), ("item", "rev_seen", "user")
FIRST_S = 1_600_000_000


class Seen:
    """Who saw what, when. Several at one moment; some pairs twice."""

    def __init__(self, seed: int, num: int = 150, num_users: int = 12, num_items: int = 20) -> None:
        rng = np.random.default_rng(seed)
        self.user, self.item = rng.integers(0, num_users, num), rng.integers(0, num_items, num)
        self.at = FIRST_S + rng.integers(0, num // 3, num)
        self.num_users, self.num_items = num_users, num_items

    def store(self, folder: Path) -> Store:
        folder.mkdir(exist_ok=True)
        lines = (f"u{u:03},i{i:03},{t}" for u, i, t in zip(self.user, self.item, self.at, strict=True))
        (folder / "seen.csv").write_text("\n".join(["user,item,at", *lines]))
        for name, num in (("user", self.num_users), ("item", self.num_items)):
            (folder / f"{name}.csv").write_text("\n".join(["id", *(f"{name[0]}{i:03}" for i in range(num))]))
        tables = {
            "user": {"path": "user.csv", "key": "id"},
            "item": {"path": "item.csv", "key": "id"},
            "seen": {
                "path": "seen.csv",
                "time": "at",
                "columns": {},
                "links": {"user": "user", "item": "item"},
            },
        }
        (folder / "graph.json").write_text(json.dumps({"tables": tables}))
        graphstore.build(folder / "graph.json", folder / "store", BuildConfig(encoder="hash:16"))
        return graphstore.open(str(folder / "store"))


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen(0)


@pytest.fixture(scope="module")
def store(seen: Seen, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return seen.store(tmp_path_factory.mktemp("seen"))


def make(store: Store, **changes: Any) -> LinkLoader:
    options: dict[str, Any] = {"batch_size": 16, "fanout": 4, "seed": 5, "negatives": 2} | changes
    return LinkLoader(store, options.pop("relation", REVERSE), **options)


def ends(batch: LinkBatch, relation: EdgeType = REVERSE) -> tuple[np.ndarray, ...]:
    """Node numbers of tails [B], heads [B] and negatives [B, K]."""
    heads, tails = batch.graph.nodes[relation[0]], batch.graph.nodes[relation[2]]
    return tails[batch.tail], heads[batch.head], heads[batch.negative]


def pairs_of(store: Store, relation: EdgeType) -> list[tuple[int, int, int]]:
    """(tail, head, time) of each edge, by number."""
    rows = store.relation(relation)
    assert rows.time is not None
    heads = [(v, int(head)) for v in range(rows.num_dst) for head in rows.neighbors(v)]
    return [(*pair, int(time)) for pair, time in zip(heads, rows.time, strict=True)]


def same(a: list[LinkBatch], b: list[LinkBatch]) -> bool:
    return len(a) == len(b) and all(
        same_batch(x.graph, y.graph)
        and all(np.array_equal(getattr(x, n), getattr(y, n)) for n in ("edges", "tail", "head", "negative"))
        for x, y in zip(a, b, strict=True)
    )


def by_edge(batches: list[LinkBatch]) -> dict[int, list[int]]:
    """Negatives of each edge."""
    found = {}
    for batch in batches:
        found |= dict(zip(batch.edges.tolist(), ends(batch)[2].tolist(), strict=True))
    return found


@pytest.mark.parametrize("relation", [SEEN, REVERSE])
def test_each_edge_comes_once_with_its_ends_and_negatives(store: Store, relation: EdgeType) -> None:
    expected = pairs_of(store, relation)
    loader = make(store, relation=relation)
    for _ in range(2):
        batches = list(loader)
        assert len(batches) == len(loader) and sum(batch.num_skipped for batch in batches) == 0
        edges = np.concatenate([batch.edges for batch in batches])
        assert sorted(edges.tolist()) == list(range(len(expected)))
        for batch in batches:
            tails, heads, negatives = ends(batch, relation)
            assert [expected[e][:2] for e in batch.edges] == list(zip(tails, heads, strict=True))
            for tail, row in zip(tails.tolist(), negatives.tolist(), strict=True):
                assert not {(tail, n) for n in row} & {pair[:2] for pair in expected}


@pytest.mark.parametrize("draw", ["uniform", "degree", "earlier"])
def test_negatives_are_the_edges_own(store: Store, draw: str) -> None:
    """Whatever the batch size, order, rank, and how many others there are; and not the next epoch's."""
    whole = by_edge(list(make(store, draw=draw, negatives=3)))
    for changes in ({"batch_size": 7}, {"shuffle": False}, {"fanout": 1, "hops": 1}, {"threads": 2}):
        assert by_edge(list(make(store, draw=draw, negatives=3, **changes))) == whole
    fewer = by_edge(list(make(store, draw=draw, negatives=2)))
    assert fewer == {edge: row[:2] for edge, row in whole.items()}
    parts = [by_edge(list(make(store, draw=draw, negatives=3, rank=r, world_size=3))) for r in range(3)]
    assert parts[0] | parts[1] | parts[2] == whole and sum(map(len, parts)) == len(whole)
    loader = make(store, draw=draw, negatives=3)
    first, second = by_edge(list(loader)), by_edge(list(loader))
    assert first == whole != second and by_edge(list(make(store, draw=draw, negatives=3, seed=6))) != whole


def test_negatives_are_drawn_as_said(store: Store) -> None:
    """Of one edge over many places: alike, by degree to the power 0.75, or among those that came earlier."""
    pairs = pairs_of(store, REVERSE)
    degree = np.bincount([head for _, head, _ in pairs], minlength=20)
    first = {head: min(t for _, h, t in pairs if h == head) for _, head, _ in pairs}
    last = max(range(len(pairs)), key=lambda e: pairs[e][2])
    for edge in (3, 70, last):
        tail, _, time = pairs[edge]
        free = [n for n in range(20) if n not in {h for t, h, _ in pairs if t == tail}]
        weights: dict[Draw, dict[int, float]] = {
            "uniform": dict.fromkeys(free, 1.0),
            "degree": {n: float(degree[n]) ** 0.75 for n in free if degree[n]},
            "earlier": {n: 1.0 for n in free if first.get(n, time) < time},
        }
        for draw, weight in weights.items():
            drawn, found = LinkPairs(store, REVERSE, None, draw, 5).negatives(np.array([edge]), 4000, 0)
            counts = np.bincount(drawn[found].ravel(), minlength=20)
            expected = np.array([weight.get(n, 0.0) for n in range(20)])
            assert found.item() == expected.any() and not counts[expected == 0].any()
            some = expected > 0
            share = expected[some] / max(1.0, expected.sum()) * counts.sum()
            assert some.sum() < 2 or chisquare(counts[some], share).pvalue > 1e-4


def test_a_negative_is_found_where_one_is_left_and_none_where_none_is(tmp_path: Path) -> None:
    all_seen = Seen(1, num=0)
    all_seen.user = np.concatenate([np.zeros(20, int), np.ones(19, int), [2]])
    all_seen.item = np.concatenate([np.arange(20), np.delete(np.arange(20), 11), [4]])
    all_seen.at = FIRST_S + np.arange(40)
    store = all_seen.store(tmp_path / "all")
    batches = list(make(store, batch_size=8))
    assert sum(batch.num_skipped for batch in batches) == 20
    found = by_edge(batches)
    assert len(found) == 20 and {tuple(found[e]) for e in range(20, 39)} == {(11, 11)}
    assert all(len(batch.tail) == len(batch.edges) == len(batch.negative) for batch in batches)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), disjoint=st.booleans(), hops=st.sampled_from([1, 2, 3]))
def test_samples_are_those_of_the_nodes_less_all_edges_between_targets(
    seed: int, disjoint: bool, hops: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Seen(seed).store(tmp_path_factory.mktemp("seen"))
    options = {"fanout": 3, "hops": hops, "seed": 5, "disjoint": disjoint, "edge_ids": True}
    sampler, loader = NeighborSampler(store, **options), make(store, batch_size=40, **options)
    plain = make(store, batch_size=40, exclude_targets=False, **options)
    num_gone = 0
    for batch, whole in zip(loader, plain, strict=True):
        tails, heads, _ = ends(batch)
        targets = set(zip(tails.tolist(), heads.tolist(), strict=True))
        seeds = {
            name: batch.graph.nodes[name][: batch.graph.num_sampled_nodes[name][0]]
            for name in ("user", "item")
        }
        assert same_batch(whole.graph, sampler.sample(seeds, 0))
        assert all(np.array_equal(batch.graph.nodes[n], whole.graph.nodes[n]) for n in whole.graph.nodes)
        for relation in (SEEN, REVERSE):
            kept = []
            for place, (head, tail) in enumerate(whole.graph.edge_index(relation).T.tolist()):
                ids = whole.graph.nodes[relation[2]][tail], whole.graph.nodes[relation[0]][head]
                if (ids if relation == REVERSE else ids[::-1]) not in targets:
                    kept.append(place)
            num_gone += len(whole.graph.heads[relation]) - len(kept)
            expected = whole.graph.edge_index(relation)[:, kept]
            assert np.array_equal(batch.graph.edge_index(relation), expected)
            assert batch.graph.edge_ids is not None and whole.graph.edge_ids is not None
            assert np.array_equal(batch.graph.edge_ids[relation], whole.graph.edge_ids[relation][kept])
            ends_of_hops = np.cumsum([0, *whole.graph.num_sampled_edges[relation]])
            counts = [sum(a <= place < b for place in kept) for a, b in pairwise(ends_of_hops)]
            assert batch.graph.num_sampled_edges[relation] == counts
    assert num_gone > 0


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_no_edge_is_as_late_as_its_target(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    store = Seen(seed).store(tmp_path_factory.mktemp("seen"))
    pairs, other = pairs_of(store, REVERSE), pairs_of(store, SEEN)
    num_edges = 0
    for batch in make(store, temporal="<", fanout=5, hops=2, edge_ids=True, draw="earlier"):
        graph = batch.graph
        assert graph.trees is not None and graph.edge_ids is not None
        time_of: dict[int, int] = {}
        for relation_type, places in (
            ("user", batch.tail[:, None]),
            ("item", batch.head[:, None]),
            ("item", batch.negative),
        ):
            for edge, row in zip(batch.edges.tolist(), places.tolist(), strict=True):
                time_of |= {int(graph.trees[relation_type][place]): pairs[edge][2] for place in row}
        for relation, all_pairs in ((REVERSE, pairs), (SEEN, other)):
            tree = graph.trees[relation[2]][graph.edge_index(relation)[1]]
            for of_tree, edge in zip(tree.tolist(), graph.edge_ids[relation].tolist(), strict=True):
                assert all_pairs[edge][2] < time_of[of_tree]
                num_edges += 1
    assert num_edges > 0


def rows_of(batch: MiniBatch, relation: EdgeType) -> list[list[int]]:
    """Numbers of the sampled heads of each of the first nodes of the tails' type."""
    heads, ends = batch.nodes[relation[0]][batch.heads[relation]], np.cumsum(batch.degrees[relation])
    return [row.tolist() for row in np.split(heads, ends[:-1])]


def told(store: Store, **options: Any) -> float:
    """The chance that a model which looks whether the head is among its tail's sampled heads ranks a positive
    above a negative."""
    score: list[float] = []
    for batch in make(store, batch_size=500, fanout=-1, hops=1, negatives=1, **options):
        users, items = batch.graph.nodes["user"], batch.graph.nodes["item"]
        of_users, of_items = rows_of(batch.graph, REVERSE), rows_of(batch.graph, SEEN)
        for places in zip(batch.tail, batch.head, batch.negative[:, 0], strict=True):
            by_user, user = of_users[places[0]], users[places[0]]
            knows = [float(items[at] in by_user or user in of_items[at]) for at in places[1:]]
            score.append(0.5 + 0.5 * (knows[0] - knows[1]))
    return float(np.mean(score))


def test_a_planted_leak_is_not_told(tmp_path: Path) -> None:
    """One pair a user, at random: nothing is to be known of it but by itself."""
    planted = Seen(2, num=3000, num_users=3000, num_items=50)
    planted.user = np.arange(3000)
    store = planted.store(tmp_path / "planted")
    for options in ({}, {"disjoint": True}, {"temporal": "<="}):
        assert told(store, exclude_targets=False, **options) > 0.9, options
        assert told(store, reverse=None, **options) > 0.9, options  # the reverse is sampled
        assert abs(told(store, **options) - 0.5) < 0.02, options
    assert abs(told(store, temporal="<", exclude_targets=False) - 0.5) < 0.02


@pytest.mark.parametrize("options", [{}, {"temporal": "<"}, {"draw": "degree", "drop_last": True}])
def test_threads_and_resuming_change_nothing(store: Store, options: dict[str, Any]) -> None:
    whole = make(store, **options)
    expected = [batch for _ in range(2) for batch in whole]
    threaded = make(store, threads=2, prefetch=3, **options)
    assert same([batch for _ in range(2) for batch in threaded], expected)
    broken, got = make(store, threads=2, **options), []
    for batch in broken:
        got.append(batch)
        if len(got) == 4:
            break
    state = json.loads(json.dumps(broken.state_dict()))
    again = make(store, **options)
    again.load_state_dict(state)
    got += [batch for _ in range(2) for batch in again]
    assert same(got, expected)
    for other in ({"negatives": 3}, {"exclude_targets": False}, {"reverse": None}, {"edges": np.arange(9)}):
        with pytest.raises(SamplerError, match="state: found one of a loader with other"):
            make(store, **{**options, **other}).load_state_dict(state)


def test_ranks_leave_out_the_targets_of_all(store: Store) -> None:
    """A row is the same whichever rank samples it."""
    options = {"batch_size": 60, "fanout": -1, "hops": 2}
    of_ranks = [make(store, rank=rank, world_size=3, **options) for rank in range(3)]
    for whole, *parts in zip(make(store, **options), *of_ranks, strict=True):
        for relation in (SEEN, REVERSE):
            nodes = whole.graph.nodes[relation[2]].tolist()
            rows = dict(zip(nodes, rows_of(whole.graph, relation), strict=False))
            for part in parts:
                own = part.graph.nodes[relation[2]].tolist()
                for node, row in zip(own, rows_of(part.graph, relation), strict=False):
                    assert rows.get(node, row) == row


def test_edges_that_are_kept_back_are_not_told_by_the_negatives(store: Store) -> None:
    """An edge that is not among those given is no positive: it may be a negative of its tail."""
    given_edges = np.arange(0, 150, 2)
    kept_back = {pairs_of(store, REVERSE)[e][:2] for e in range(1, 150, 2)}
    drawn = set()
    for batch in make(store, edges=given_edges, negatives=50):
        tails, _, negatives = ends(batch)
        drawn |= {(t, n) for t, row in zip(tails.tolist(), negatives.tolist(), strict=True) for n in row}
    known = {pairs_of(store, REVERSE)[e][:2] for e in given_edges}
    assert not drawn & known and drawn & (kept_back - known)
    for batch in make(store, edges=given_edges, positives=np.arange(150), negatives=50):
        tails, _, negatives = ends(batch)
        assert not {(t, n) for t, row in zip(tails, negatives, strict=True) for n in row} & (
            known | kept_back
        )


@pytest.mark.parametrize("with_reverse", [False, True])
def test_of_one_type_both_directions_of_a_target_are_left_out(with_reverse: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    links = sorted({(a, b) for a, b in rng.integers(0, 15, (60, 2)).tolist() if a != b})
    np.save(tmp_path / "links.npy", np.array([*links, *((b, a) for a, b in links)]))
    edges = [{"type": ["page", name, "page"], "path": "links.npy"} for name in ("to", "rev_to")]
    made = {"nodes": {"page": {"count": 15}}, "edges": edges if with_reverse else edges[:1]}
    (tmp_path / "graph.json").write_text(json.dumps(made))
    graphstore.build(tmp_path / "graph.json", tmp_path / "store")
    store = graphstore.open(str(tmp_path / "store"))
    for batch in LinkLoader(store, "to", batch_size=10, fanout=-1, hops=2, negatives=4):
        nodes = batch.graph.nodes["page"]
        targets = {frozenset(pair) for pair in zip(nodes[batch.tail], nodes[batch.head], strict=True)}
        assert not (nodes[batch.negative] == nodes[batch.tail][:, None]).any()
        for relation in store.edge_types:
            sampled = nodes[batch.graph.edge_index(relation)]
            assert not targets & {frozenset(pair) for pair in sampled.T.tolist()}


def test_a_reverse_of_another_name_is_asked_for(tmp_path: Path) -> None:
    pairs = np.array([(0, 1), (1, 0), (2, 2)])
    np.save(tmp_path / "buys.npy", pairs)
    np.save(tmp_path / "bought.npy", pairs[:, ::-1])
    edges = [
        {"type": ["user", "buys", "item"], "path": "buys.npy"},
        {"type": ["item", "bought_by", "user"], "path": "bought.npy"},
    ]
    (tmp_path / "graph.json").write_text(json.dumps({"nodes": {"user": {}, "item": {}}, "edges": edges}))
    graphstore.build(tmp_path / "graph.json", tmp_path / "store")
    store = graphstore.open(str(tmp_path / "store"))
    with pytest.raises(
        SamplerError, match="reverse: found user/buys/item, none called user/rev_bought_by/item;"
    ):
        LinkLoader(store, "bought_by")
    for reverse, num in (("buys", 0), (None, 1)):
        (batch,) = LinkLoader(
            store, "bought_by", edges=np.array([0]), reverse=reverse, fanout=-1, negatives=0
        )
        assert len(batch.graph.heads["user", "buys", "item"]) == num


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"relation": "watched"},
            "relation: found 'watched', expected one of user/seen/item, item/rev_seen/user",
        ),
        (
            {"edges": np.array([150])},
            "edges: found 150 to 150, expected item/rev_seen/user numbers from 0 to 149",
        ),
        ({"edges": np.array([0.5])}, "edges: found float64 [1], expected [n] integers"),
        ({"negatives": -1}, "negatives: found -1, expected 0 or more"),
        ({"draw": "popular"}, "draw: found 'popular', expected uniform, degree or earlier"),
        ({"reverse": REVERSE}, "reverse: found item/rev_seen/user, expected a relation from user to item"),
        ({"fanouts": 3}, "fanouts: found an option that there is not; did you mean fanout?"),
        ({"num_neighbors": 3}, "num_neighbors: found a word of PyG's, expected fanout"),
        ({"batch_size": 1, "world_size": 2}, "batch_size: found 1, expected at least one seed a rank"),
    ],
)
def test_what_cannot_be_meant_is_refused(store: Store, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SamplerError) as caught:
        make(store, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_no_negatives_and_no_edges(store: Store) -> None:
    (batch,) = make(store, negatives=0, edges=np.array([3, 1]), shuffle=False)
    assert batch.negative.shape == (2, 0) and batch.edges.tolist() == [3, 1]
    assert list(make(store, edges=np.empty(0, np.int64))) == []
    assert isinstance(batch.graph, MiniBatch)


def pyg_loader(
    store: Store, sampler: Sampler, neg_sampling: NegativeSampling | str | None, **options: Any
) -> PygLinkLoader:
    pairs = torch.tensor([[u, i] for u, i, _ in pairs_of(store, REVERSE)]).T
    return PygLinkLoader(
        store.as_pyg(),
        sampler,
        edge_label_index=(SEEN, pairs),
        neg_sampling=neg_sampling,
        batch_size=40,
        **options,
    )


@pytest.mark.parametrize("disjoint", [False, True])
@pytest.mark.parametrize("amount", [0, 1, 3])
def test_pygs_link_loader_gets_triplets_without_their_edges(
    store: Store, amount: int, disjoint: bool
) -> None:
    pairs = {pair[:2] for pair in pairs_of(store, REVERSE)}
    options = {"fanout": 3, "hops": 2, "seed": 5, "disjoint": disjoint}
    given_negatives = NegativeSampling("triplet", amount) if amount else None
    sampler = Sampler(store, **options)
    first: dict[tuple[int, int], Any] = {}
    for workers in (0, 2):
        drawn: dict[tuple[int, int], Any] = {}
        for data in pyg_loader(store, sampler, given_negatives, shuffle=workers > 0, num_workers=workers):
            users, items = data["user"].n_id, data["item"].n_id
            if amount:
                source, positive = users[data["user"].src_index], items[data["item"].dst_pos_index]
                negatives = items[data["item"].dst_neg_index].view(len(source), amount)
                for user, item, row in zip(
                    source.tolist(), positive.tolist(), negatives.tolist(), strict=True
                ):
                    assert not {(user, other) for other in row} & pairs
                    drawn[user, item] = row
            else:
                index = data[SEEN].edge_label_index
                source, positive = users[index[0]], items[index[1]]
            targets = set(zip(source.tolist(), positive.tolist(), strict=True))
            assert targets <= pairs
            for relation in (SEEN, REVERSE):
                index = data[relation].edge_index
                ends = data[relation[0]].n_id[index[0]].tolist(), data[relation[2]].n_id[index[1]].tolist()
                sampled = set(zip(*(ends if relation == SEEN else ends[::-1]), strict=True))
                assert sampled <= pairs and not sampled & targets
                if disjoint:
                    trees = data[relation[0]].batch[index[0]], data[relation[2]].batch[index[1]]
                    assert torch.equal(*trees)
        assert not first or drawn == first
        first = drawn
    sampler.set_epoch(1)
    if amount:
        again = next(iter(pyg_loader(store, sampler, given_negatives)))
        assert len(again["item"].dst_neg_index) == 40


def test_pygs_link_loader_with_times_and_with_targets(store: Store) -> None:
    pairs = pairs_of(store, REVERSE)
    times = torch.tensor([time for *_, time in pairs])
    sampler = Sampler(store, fanout=-1, hops=1, temporal="<", edge_ids=True)
    num_edges = 0
    for data in pyg_loader(store, sampler, NegativeSampling("triplet", 2), edge_label_time=times):
        limit = data["user"].seed_time
        for relation in (SEEN, REVERSE):
            rows = store.relation(relation).time
            assert rows is not None
            trees = data[relation[2]].batch[data[relation].edge_index[1]]
            assert (torch.from_numpy(rows[data[relation].e_id.numpy()]) < limit[trees]).all()
            num_edges += len(trees)
    assert num_edges > 0
    kept = next(iter(pyg_loader(store, Sampler(store, fanout=-1, hops=1, exclude_targets=False), "triplet")))
    left_out = next(iter(pyg_loader(store, Sampler(store, fanout=-1, hops=1), "triplet")))
    assert kept[REVERSE].edge_index.shape[1] >= left_out[REVERSE].edge_index.shape[1] + 40
    for row, words in (
        (torch.tensor([12]), "found 12 to 12, expected user numbers"),
        (torch.tensor([0.5]), "integers"),
    ):
        asked = EdgeSamplerInput(None, row, torch.tensor([0]), input_type=SEEN)
        with pytest.raises(SamplerError, match=words):
            Sampler(store).sample_from_edges(asked, NegativeSampling("triplet"))


def test_pygs_words_that_are_not_there_are_refused(store: Store) -> None:
    with pytest.raises(SamplerError, match="neg_sampling: found 'binary', expected 'triplet' or None"):
        next(iter(pyg_loader(store, Sampler(store), "binary")))
    full = Sampler(store)
    full._rows[SEEN] = (np.arange(13) * 20, np.tile(np.arange(20), 12))
    with pytest.raises(SamplerError, match=r"negatives: found user \d+ with edges to all 20 item"):
        next(iter(pyg_loader(store, full, "triplet")))
