"""Newest neighbours in documents, against a search through the rows themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import ExtendedGraph, Schema, Store, StoreError
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.documents import documents
from netgpt.graphstore.writer import build_config
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model.tiny import train_tokenizer
from netgpt.trainers.language.text.fields import document_of, free_fields
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.template import Words

DOCUMENT: list[Any] = [
    "title",
    {"newest": 2, "of": "review", "show": ["text", "stars"], "name": "reviews"},
    {"newest": 3, "of": "seen", "name": "seen by"},
    {"newest": 2, "of": "poster/film"},
    "minutes",
    {"newest": 2, "of": "same_studio", "show": ["film"]},
    {"newest": 3, "of": "film/with", "show": ["film", "views"]},
    {"newest": 4, "of": "earlier"},
]
TABLES: dict[str, Any] = {
    "film": {
        "path": "films.csv",
        "key": "film",
        "time": "out",
        "columns": {"title": "text", "minutes": "number", "views": "number"},
        "features": ["title"],
        "document": DOCUMENT,
        "links": {"studio": "studio"},
    },
    "review": {
        "path": "reviews.csv",
        "rows": "nodes",
        "time": "at",
        "columns": {"text": "text", "stars": "number"},
        "links": {"film": "film"},
    },
    "poster": {
        "path": "posters.csv",
        "rows": "nodes",
        "columns": {"words": "text"},
        "links": {"film": "film"},
    },
    "seen": {"path": "seen.csv", "time": "at", "columns": {}, "links": {"user": "user", "film": "film"}},
    "with": {"path": "with.csv", "time": "at", "columns": {}, "links": {"film": "film", "next": "film"}},
}
GROUPS = [
    {"name": "same_studio", "of": "film", "group": "studio"},
    {"name": "earlier", "of": "film", "group": "studio", "ties": "strict", "tells": ["views"]},
]
FIRST_S, DAY_S = 1_600_000_000, 86_400


class Films:
    def __init__(self, seed: int, num: int = 30) -> None:
        rng = np.random.default_rng(seed)
        self.out = FIRST_S + rng.integers(0, 12, num) * DAY_S
        self.studio = rng.integers(0, 4, num)
        self.views = rng.integers(0, 99, num)
        self.reviews = self._made(rng, 90, num)
        self.seen = self._made(rng, 120, num)
        self.posters = rng.integers(0, num, 50)
        self.beside = np.concatenate([self._made(rng, 80, num), rng.integers(0, num, (80, 1))], 1)
        """A film, when they were shown together, and the next film: which may come out later."""

    @staticmethod
    def _made(rng: np.random.Generator, num: int, num_films: int) -> np.ndarray:
        """Rows of a film and a moment; many of one moment."""
        return np.stack([rng.integers(0, num_films, num), FIRST_S + rng.integers(0, 14, num) * DAY_S], 1)

    def films(self, first: int, last: int) -> str:
        rows = [
            f"f{i},title {i},{i + 60},{self.views[i]},{self.out[i]},s{self.studio[i]}"
            for i in range(first, last)
        ]
        return "\n".join(["film,title,minutes,views,out,studio", *rows])

    def write(self, folder: Path, tables: dict[str, Any] = TABLES, last: int = 30) -> Path:
        lines = {
            "films": self.films(0, last),
            "reviews": "\n".join(
                ["film,at,text,stars", *(f"f{f},{at},text {i},{i}" for i, (f, at) in enumerate(self.reviews))]
            ),
            "posters": "\n".join(["film,words", *(f"f{f},words {i}" for i, f in enumerate(self.posters))]),
            "with": "\n".join(["film,at,next", *(f"f{f},{at},f{g}" for f, at, g in self.beside)]),
            "seen": "\n".join(
                ["user,film,at", *(f"u{i % 7},f{f},{at}" for i, (f, at) in enumerate(self.seen))]
            ),
        }
        for name, text in lines.items():
            (folder / f"{name}.csv").write_text(text)
        made = {"target": "film", "tables": tables, "relations": GROUPS}
        (folder / "graph.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
        return folder / "graph.yaml"

    def newest(self, film: int, heads: list[tuple[int, Any]], num: int) -> list[Any]:
        """Of (moment, what is shown) in the order of the heads."""
        earlier = [(at, i, shown) for i, (at, shown) in enumerate(heads) if at < self.out[film]]
        return [shown for *_, shown in sorted(earlier, key=lambda one: one[:2], reverse=True)[:num]]

    def shown_with(self, film: int) -> list[tuple[int, int]]:
        return [(at, f) for f, at in sorted((int(f), int(at)) for f, at, g in self.beside if g == film)]

    def document(self, film: int) -> dict[str, Any]:
        reviews = [
            (at, {"text": f"text {i}", "stars": i}) for i, (f, at) in enumerate(self.reviews) if f == film
        ]
        users = list(dict.fromkeys(f"u{i % 7}" for i in range(len(self.seen))))
        seen = sorted((users.index(f"u{i % 7}"), at) for i, (f, at) in enumerate(self.seen) if f == film)
        same = np.flatnonzero(self.studio == self.studio[film]).tolist()
        shown = {
            "title": f"title {film}",
            "reviews": self.newest(film, reviews, 2),
            "seen by": self.newest(film, [(at, users[u]) for u, at in seen], 3),
            "poster": [f"words {i}" for i, f in enumerate(self.posters) if f == film][::-1][:2],
            "minutes": film + 60,
            "same_studio": self.newest(film, [(self.out[i], f"f{i}") for i in same], 2),
            "with": [
                {"film": f"f{f}", "views": int(self.views[f])}
                for f in self.newest(film, self.shown_with(film), 80)
                if self.out[f] < self.out[film]
            ][:3],
            "earlier": self.newest(film, [(self.out[i], int(self.views[i])) for i in same], 4),
        }
        return {name: value for name, value in shown.items() if value != []}


def built(path: Path, layout: str = "prefix") -> Store:
    out = path.parent / f"store-{layout}"
    graphstore.build(path, out, BuildConfig(encoder="hash:16", layout=layout))  # type: ignore[arg-type]
    return graphstore.open(str(out))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), layout=st.sampled_from(["prefix", "csr"]))
def test_documents_show_the_newest_earlier_neighbours(
    seed: int, layout: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    films = Films(seed)
    store = built(films.write(tmp_path_factory.mktemp("films")), layout)
    document = document_of(store, "stars")
    shown = [json.loads(text) for _, text in documents(store, document, range(30))]
    expected = [films.document(i) for i in range(30)]
    assert shown == expected and [list(one) for one in shown] == [list(one) for one in expected]
    assert Schema.from_dict(json.loads(json.dumps(store.schema.to_dict()))) == store.schema
    assert free_fields(document).tolist() == [True, True, True, True, False, True, True, False]


def test_new_rows_show_what_a_store_of_all_would(tmp_path: Path) -> None:
    """Neighbours by group; a store has no rows of other tables that link to later ones."""
    films, (whole, part) = Films(1), (tmp_path / "whole", tmp_path / "part")
    told = {**DOCUMENT[-1], "name": "views"}  # of the label's name: which new rows do not have
    own = {"film": {**TABLES["film"], "document": ["title", DOCUMENT[-3], told]}}
    for folder, last in ((whole, 30), (part, 20)):
        folder.mkdir()
        films.write(folder, own, last)
    store, new = built(part / "graph.yaml"), tmp_path / "new.csv"
    lines = [line.split(",") for line in films.films(20, 30).splitlines()]
    new.write_text("\n".join(",".join([*line[:3], *line[4:]]) for line in lines))  # without views
    graph = ExtendedGraph(store, store.dataset.open_new(store, new, build_config(store)))
    found = list(documents(graph, document_of(store, "views"), range(20, 30)))
    all_rows = built(whole / "graph.yaml")
    of_all = documents(all_rows, document_of(all_rows), range(20, 30))
    for film, (one, other) in enumerate(zip(found, of_all, strict=True), 20):
        shown, expected = json.loads(one[1]), json.loads(other[1])
        same = np.flatnonzero(films.studio == films.studio[film]).tolist()
        newest = films.newest(film, [(films.out[i], i) for i in same], 4)
        known = [int(films.views[i]) for i in newest if i < 20]  # nobody said it of the new ones
        assert shown == {name: value for name, value in (expected | {"views": known}).items() if value != []}
    assert any("same_studio" in text for _, text in found)


def test_of_too_long_a_document_the_oldest_neighbours_go_first(tmp_path: Path) -> None:
    films = Films(2)
    store = built(films.write(tmp_path))
    document, texts = document_of(store), dict(documents(store, document_of(store), range(30)))
    tokenizer = train_tokenizer(texts.values(), 600)
    words = Words(request="How many?", response="", choices=())
    name = max(texts, key=lambda one: len(texts[one]))
    whole = json.loads(texts[name])

    def shown(max_tokens: int) -> dict[str, Any]:
        builder = PromptBuilder(
            tokenizer, document, words, max_tokens=max_tokens, max_comments=0, seed=0, with_graph=False
        )
        decoded = builder.tokenizer.decode(builder.prompt(name, texts[name]).ids)
        found: dict[str, Any] = json.loads(decoded[decoded.index("{") : decoded.rindex("}") + 1])
        return found

    assert shown(1000) == whole
    lists = [key for key, value in whole.items() if isinstance(value, list)]
    assert len(lists) > 3
    before = sum(len(whole[key]) for key in lists)
    for max_tokens in range(400, 40, -7):
        try:
            found = shown(max_tokens)
        except TrainerError:
            break
        for key in lists:  # the newest stay
            assert found.get(key, []) == whole[key][: len(found.get(key, []))] and found.get(key) != []
        left = sum(len(found.get(key, [])) for key in lists)
        assert left <= before
        before = left
        if left:
            assert found["title"] == whole["title"]
    assert before == 0


def test_the_label_is_shown_of_earlier_rows_alone(tmp_path: Path) -> None:
    films = Films(3)
    tables = {
        **TABLES,
        "film": {
            **TABLES["film"],
            "document": ["title", {"newest": 2, "of": "same_studio", "show": ["views"]}],
        },
    }
    document_of(built(films.write(tmp_path, tables)), "views")  # films know when they came out
    tables["film"] = {
        **{key: value for key, value in TABLES["film"].items() if key != "time"},
        "document": ["title", {"newest": 2, "of": "sequel", "show": ["views"]}],
    }
    tables["sequel"] = {"path": "sequels.csv", "columns": {}, "links": {"film": "film", "next": "film"}}
    (tmp_path / "sequels.csv").write_text("film,next\nf1,f2\n")
    other = tmp_path / "other"
    other.mkdir()
    path = films.write(other, tables)
    (other / "sequels.csv").write_text("film,next\nf1,f2\n")
    path.write_text(yaml.safe_dump({"target": "film", "tables": tables}, sort_keys=False))
    for label, store in (("views", built(path)), ("studio", built(tmp_path / "graph.yaml", "csr"))):
        with pytest.raises(
            TrainerError, match=rf"task\.label: found '{label}', expected a column that prompts"
        ):
            document_of(store, label)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            {"newest": 2, "of": "film"},
            "film.of: found 'film', expected one of studio/rev_studio, review/film",
        ),
        ({"newest": 0, "of": "review"}, "document[1].newest: found 0, expected how many, from 1"),
        ({"newest": 2}, "document[1].of: found None, expected a relation to the table's rows"),
        ({"newest": 2, "of": "review", "shows": []}, "document[1].shows; did you mean show?"),
        ({"newest": 2, "of": "review", "show": ["plot"]}, "review.show: found 'plot', expected one of text"),
        ({"newest": 2, "of": "review", "name": "title"}, "document: found 'title', expected each name once"),
        (3, "document[1]: found 3, expected a column, or newest: and of: of neighbours"),
    ],
)
def test_neighbours_that_cannot_be_meant_are_refused(entry: Any, words: str, tmp_path: Path) -> None:
    path = Films(4).write(tmp_path, {**TABLES, "film": {**TABLES["film"], "document": ["title", entry]}})
    with pytest.raises(StoreError) as caught:
        built(path)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store-prefix").exists()
