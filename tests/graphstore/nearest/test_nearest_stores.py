"""Relations of what is nearest in stores: built, appended to, joined, packed, damaged, sampled, described."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netgpt import graphstore
from netgpt.graphstore import ExtendedGraph, Store, StoreError
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets import names
from netgpt.graphstore.datasets.tables import write_tables
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.errors import SourceError
from netgpt.graphstore.info import describe, table
from netgpt.graphstore.look import look
from netgpt.graphstore.nearest.relation import nearest_rows, search_of
from netgpt.graphstore.relation_types import SCORE, RelationType
from netgpt.graphstore.seal import write_seal
from netgpt.sampler import NeighborSampler
from tests.nearest import equal, plain

EDGE = ("video", "is_similar_to", "video")
CONFIG = Config(encoder="hash:16", time_dim=4, video_dim=2, similar=4, similar_by="title,description")


@pytest.fixture(scope="module")
def similar(records_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("similar") / "store"
    graphstore.build(records_path, out, CONFIG)
    return graphstore.open(out)


def rule_of(store: Store, edge_type: tuple[str, str, str] = EDGE) -> RelationType:
    return store.schema.relation_type(edge_type)


def test_rows_are_earlier_states_of_other_videos_of_train(similar: Store) -> None:
    rows, rule = similar.relation(EDGE), rule_of(similar)
    assert rule.nearest is not None and rule.nearest.by == ("title", "description")
    equal(rows, plain(similar, EDGE, rule.nearest))
    day, (url, _), train = similar.column("video", "ctime"), similar.key("url"), set(similar.split("train"))
    for v in range(rows.num_dst):
        heads = rows.neighbors(v)
        assert set(heads.tolist()) <= train and (day[heads] < day[v]).all()
        assert len({*url[heads].tolist(), int(url[v])}) == len(heads) + 1
    assert 0 < rows.num_edges < 4 * rows.num_dst


def test_a_store_without_it_says_nothing_of_it(store: Store) -> None:
    assert "similar" not in json.dumps(store.attributes)


def test_appending_gives_what_one_build_gives(
    similar: Store, records: dict[str, Any], tmp_path: Path
) -> None:
    items = [(k, {**r, "历史状态": []}) for k, r in reversed(records.items())]  # late rows enter old ones
    for name, part in (("all", items), ("old", items[:90]), ("new", items[90:])):
        (tmp_path / f"{name}.json").write_text(json.dumps(dict(part), ensure_ascii=False), encoding="utf-8")
    graphstore.build(tmp_path / "all.json", tmp_path / "all", CONFIG)
    graphstore.build(tmp_path / "old.json", tmp_path / "old", CONFIG)
    path, _ = graphstore.append(tmp_path / "old", tmp_path / "new.json")
    made, whole = graphstore.open(path), graphstore.open(tmp_path / "all")
    different = {n for n, digest in whole.seal.files.items() if made.seal.files[n] != digest}
    assert different == {"zarr.json"} and made.seal.files.keys() == whole.seal.files.keys()
    old = graphstore.open(tmp_path / "old").relation(EDGE)
    assert any(made.relation(EDGE).neighbors(v).tolist() != old.neighbors(v).tolist() for v in range(90))


def test_new_rows_find_theirs_and_enter_no_old_row(records: dict[str, Any], tmp_path: Path) -> None:
    items = [(k, {**r, "历史状态": []}) for k, r in records.items()]
    for name, part in (("all", items), ("old", items[:150]), ("new", items[150:])):
        (tmp_path / f"{name}.json").write_text(json.dumps(dict(part), ensure_ascii=False), encoding="utf-8")
    graphstore.build(tmp_path / "all.json", tmp_path / "all", CONFIG)
    graphstore.build(tmp_path / "old.json", tmp_path / "old", CONFIG)
    old, whole = graphstore.open(tmp_path / "old"), graphstore.open(tmp_path / "all")
    source = names.load("xsvideo").open(tmp_path / "new.json", CONFIG, known_ids=frozenset(old.ids))
    joined, expected = ExtendedGraph(old, source).relation(EDGE), whole.relation(EDGE)
    for v in range(len(items)):
        rows = expected if v >= 150 else old.relation(EDGE)
        assert joined.neighbors(v).tolist() == rows.neighbors(v).tolist()
        scores = [one.numbers[SCORE][one.begin[v] : one.end[v]].tobytes() for one in (joined, rows)]
        assert scores[0] == scores[1]


def test_packed_and_back_it_has_the_same_bytes(similar: Store, tmp_path: Path) -> None:
    graphstore.pack(similar.path, tmp_path / "packed")
    graphstore.unpack(tmp_path / "packed", tmp_path / "back")
    assert graphstore.open(tmp_path / "back").digest == similar.digest


def shuffled_scores(scores: np.ndarray, indptr: np.ndarray) -> None:
    row = int(np.argmax(np.diff(indptr) > 1))
    scores[indptr[row] : indptr[row] + 2] = [-1, 1]


def long_row(scores: np.ndarray, indptr: np.ndarray) -> None:
    indptr[1:-1] = indptr[-1]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (shuffled_scores, "numbers/score: edge [0-9]+ is greater than the one before it in its row"),
        (long_row, "found a row of [0-9]+ heads, expected 4 at most, at row 0"),
    ],
)
def test_verify_names_rows_that_are_none(
    damage: Callable[..., None], found: str, similar: Store, tmp_path: Path
) -> None:
    graphstore.pack(similar.path, tmp_path / "packed")
    graphstore.unpack(tmp_path / "packed", tmp_path / "store")
    folder = tmp_path / "store" / "edges" / "/".join(EDGE)
    num, num_rows = similar.relation(EDGE).num_edges, similar.num_nodes["video"]
    scores = np.memmap(folder / "numbers/score/c/0", np.float32, "r+", shape=num)
    indptr = np.memmap(folder / "indptr/c/0", np.int64, "r+", shape=num_rows + 1)
    damage(scores, indptr)
    scores.flush(), indptr.flush()
    write_seal(tmp_path / "store")
    problems = graphstore.verify(tmp_path / "store")
    assert any(re.search(found, problem) for problem in problems), problems


def test_a_sampler_takes_whole_rows_and_time_changes_nothing(similar: Store) -> None:
    rows, seeds = similar.relation(EDGE), np.arange(similar.num_nodes["video"])
    options: dict[str, Any] = {"fanout": {EDGE: -1}, "hops": 1, "edge_ids": True}
    plain_batch = NeighborSampler(similar, **options).sample(seeds)
    for batch in (plain_batch, NeighborSampler(similar, **options, temporal="<").sample(seeds)):
        assert batch.edge_ids is not None
        np.testing.assert_array_equal(batch.edge_ids[EDGE], np.arange(rows.num_edges))
        np.testing.assert_array_equal(batch.nodes["video"][batch.heads[EDGE]], rows.heads_of(0, len(seeds)))


def test_info_says_how_rows_are_filled(similar: Store) -> None:
    rows, said = similar.relation(EDGE), describe(similar)["relations"]["/".join(EDGE)]
    scores, degree = rows.numbers[SCORE], rows.degree()
    assert said["k"] == 4 and said["num_empty"] == (degree == 0).sum()
    assert said["num_short"] == sum(0 < d < 4 for d in degree.tolist())
    assert said["num_near_duplicates"] == (scores >= 0.99).sum()
    assert sum(said["histogram"].values()) == len(scores)
    for low, num in said["histogram"].items():
        ends = round(float(low) * 10) / 10, round(float(low) * 10 + 1) / 10
        assert abs(num - ((scores >= ends[0]) & (scores < ends[1])).sum()) <= (scores > 0.999999).sum() + 1
    assert "the nearest 4: " in table(describe(similar))


# Of anyone's tables


def films(num: int = 60, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    words = ["war", "love", "sea", "night", "road", "king", ""]
    texts = [" ".join(rng.choice(words, 2)).strip() for _ in range(num)]
    return {
        "key": [f"f{i}" for i in range(num)],
        "title": texts,
        "plot": [" ".join(rng.choice(words, 4)).strip() for _ in range(num)],
        "cover": list(rng.normal(size=(num, 5)).astype(np.float32)),
        "sound": list(np.random.default_rng(7).normal(size=(num, 3)).astype(np.float32)),
        "at": rng.integers(0, 30, num) * 86_400,
        "part": rng.choice(["train", "test"], num).tolist(),
        "series": rng.choice(["a", "b", "c", ""], num).tolist(),
    }


COLUMNS = {
    **{"title": "text", "plot": "text", "cover": "vector", "sound": "vector", "at": "time"},
    **{"part": "category", "series": "category"},
}


def built(folder: Path, relation: dict[str, Any], **table: Any) -> Store:
    about = {"key": "key", "time": "at", "columns": COLUMNS, "features": ["title"], **table}
    said = {"tables": {"film": about}, "relations": [{"name": "alike", "of": "film", **relation}]}
    path = write_tables(folder / "tables", {"film": films()}, said)
    graphstore.build(path, folder / "store", BuildConfig(encoder="hash:16"))
    return graphstore.open(folder / "store")


@pytest.mark.parametrize(
    ("relation", "by", "table"),
    [
        ({"nearest": "title"}, ("film",), {}),
        ({"nearest": "plot", "k": 3, "time": False}, ("film_plot",), {}),
        ({"nearest": ["title", "cover"], "k": 4, "apart": "series"}, ("film", "film_cover"), {}),
        ({"nearest": "cover", "bank": {"part": "train"}, "k": 5}, ("film",), {"features": ["cover"]}),
        ({"nearest": ["cover", "sound"]}, ("film_cover", "film_sound"), {"features": []}),
        ({"nearest": ["cover", "sound"]}, ("film_cover", "film"), {"features": ["sound"]}),
        (
            {"nearest": ["plot", "title"], "k": 2},
            ("film_plot", "film_title"),
            {"features": ["title", "plot"]},
        ),
    ],
)
def test_rows_of_tables_that_are_alike(
    relation: dict[str, Any], by: tuple[str, ...], table: dict[str, Any], tmp_path: Path
) -> None:
    store = built(tmp_path, relation, **table)
    rule = rule_of(store, ("film", "alike", "film"))
    assert rule.nearest is not None and rule.nearest.by == by
    assert rule.nearest.time == ("" if relation.get("time") is False else "at")
    assert rule.nearest.k == relation.get("k", 10)
    equal(store.relation(rule.edge_type), plain(store, rule.edge_type, rule.nearest))
    assert graphstore.verify(store.path) == []


def test_new_rows_of_tables_find_theirs_by_columns_that_they_must_have(tmp_path: Path) -> None:
    rows = films()
    for name, empty in (("part", ""), ("series", "")):  # new rows are of no part, and so no heads
        rows[name][50:] = [empty] * 10
    relation = {
        "name": "alike",
        "of": "film",
        "nearest": ["plot", "cover"],
        "bank": {"part": "train"},
        "k": 4,
    }
    said = {
        "tables": {"film": {"key": "key", "columns": COLUMNS, "features": ["title"], "document": ["title"]}},
        "relations": [relation],
    }
    config, some = BuildConfig(encoder="hash:16"), {name: column[:50] for name, column in rows.items()}
    for name, part in (("whole", rows), ("old", some)):
        graphstore.build(
            write_tables(tmp_path / f"{name}.files", {"film": part}, said), tmp_path / name, config
        )
    whole, old = graphstore.open(tmp_path / "whole"), graphstore.open(tmp_path / "old")
    edge_type = ("film", "alike", "film")
    lines = [
        {name: column[i] for name, column in rows.items() if name not in ("part", "series")}
        for i in range(50, 60)
    ]
    for line in lines:
        line["cover"] = [float(one) for one in line["cover"]]
        line["sound"] = [float(one) for one in line["sound"]]
        line["at"] = int(line["at"])
    file = tmp_path / "new.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    joined = ExtendedGraph(old, old.dataset.open_new(old, file, config)).relation(edge_type)
    for v in range(50, 60):
        assert joined.neighbors(v).tolist() == whole.relation(edge_type).neighbors(v).tolist()
    file.write_text(
        "".join(json.dumps({k: v for k, v in line.items() if k != "plot"}) + "\n" for line in lines)
    )
    with pytest.raises(SourceError, match="'plot': found no such column, expected all that models read"):
        old.dataset.open_new(old, file, config)


def test_what_a_source_holds_says_the_rule(tmp_path: Path) -> None:
    built(tmp_path, {"nearest": ["title", "cover"]})
    dataset = names.load("tables")
    facts = look(dataset.open(tmp_path / "tables/graph.yaml", dataset.Config()), "tables")
    assert facts.rules == {"film/alike/film": "10 most alike by film, film_cover"}


@pytest.mark.parametrize(
    ("relation", "message"),
    [
        (
            {"nearest": "name"},
            r"relations\[0\].nearest: found 'name', expected one of title, plot, cover, sound",
        ),
        ({"nearest": []}, r"relations\[0\].nearest: found \[\], expected a column, or a list of columns"),
        ({"nearest": "at"}, r"relations\[0\].nearest: found 'at', expected one of title"),
        ({"nearest": "title", "k": 0}, r"relations\[0\].k: found 0, expected how many heads, from 1"),
        ({"nearest": "title", "time": "part"}, r"relations\[0\].time: found 'part', expected one of at, or"),
        (
            {"nearest": "title", "apart": "at"},
            r"relations\[0\].apart: found 'at', expected a category of film",
        ),
        (
            {"nearest": "title", "bank": "train"},
            r"relations\[0\].bank: found 'train', expected a category and",
        ),
        ({"nearest": "title", "bank": {"at": "0"}}, r"relations\[0\].bank: found 'at', expected a category"),
        ({"nearest": "title", "bank": {"part": "dev"}}, "bank: found no part 'dev' among the nodes of film"),
        ({"nearest": "title", "ties": "strict"}, r"relations\[0\]: found the unknown key 'ties'|ties"),
        ({"nearest": "title", "of": "user"}, r"relations\[0\].of: found 'user', expected one of film"),
    ],
)
def test_what_a_description_cannot_mean_is_one_line(
    relation: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        built(tmp_path, relation)
    assert "\n" not in str(caught.value) and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (None, r"tables.film.features: found 'the vectors cover, sound', expected which of them"),
        (
            ["cover", "sound"],
            r"tables.film.features: found \['cover', 'sound'\], expected texts or one vector",
        ),
    ],
)
def test_of_several_vectors_one_may_be_features(
    features: list[str] | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(StoreError, match=message):
        built(tmp_path, {"nearest": "cover"}, features=features)


def test_vectors_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    rows = films()
    rows["cover"][11][2] = np.nan
    about = {"key": "key", "columns": COLUMNS, "features": ["title"]}
    said = {"tables": {"film": about}, "relations": [{"name": "alike", "of": "film", "nearest": "cover"}]}
    path = write_tables(tmp_path / "tables", {"film": rows}, said)
    with pytest.raises(StoreError, match=r"NaN|finite|nan"):
        graphstore.build(path, tmp_path / "store", BuildConfig(encoder="hash:16"))


def test_copies_of_vectors_are_one_content_and_no_more_is_searched_for_them(tmp_path: Path) -> None:
    """Given vectors have no rows of distinct contents: a thousand copies would be candidates without end."""
    rows, edge_type = films(400), ("film", "alike", "film")
    rows["cover"] = [np.eye(5, dtype=np.float32)[i % 4] for i in range(400)]
    said = {
        "tables": {"film": {"key": "key", "columns": COLUMNS, "features": ["cover"]}},
        "relations": [{"name": "alike", "of": "film", "nearest": "cover", "k": 3}],
    }
    path = write_tables(tmp_path / "tables", {"film": rows}, said)
    graphstore.build(path, tmp_path / "store", BuildConfig())
    store = graphstore.open(tmp_path / "store")
    search, _ = search_of(store, rule_of(store, edge_type))
    assert len(search.bank.vectors) == 4
    for v in (0, 7, 399):
        expected = [u for u in range(400) if u % 4 == v % 4 and u != v][:3]
        assert store.relation(edge_type).neighbors(v).tolist() == expected


def test_a_disk_without_room_is_said(similar: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreError, match=r"bytes of free space, expected [0-9,]+ for vectors"):
        search_of(similar, rule_of(similar), scratch=tmp_path / "vectors")
    assert list(tmp_path.iterdir()) == []


def test_k_beyond_the_bank_takes_no_memory(similar: Store) -> None:
    rule = rule_of(similar)
    assert rule.nearest is not None
    wide = replace(rule, nearest=replace(rule.nearest, k=1_000_000))
    search, _ = search_of(similar, wide)
    assert search.k == len(search.bank.members) < 200
    equal(nearest_rows(similar, wide), plain(similar, EDGE, wide.nearest))  # type: ignore[arg-type]
