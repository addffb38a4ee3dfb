"""What prompts show of a table's rows, against the rows themselves."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from netgpt import graphstore
from netgpt.graphstore import Schema, Store, StoreError
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets.xsvideo.schema import xs_video
from netgpt.graphstore.documents import documents
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.text.fields import document_of, free_fields
from tests.films import Row, made

FILMS = made()["film"]
COLUMNS = {
    "title": "text",
    "genres": "categories",
    "minutes": "number",
    "released": "time",
    "studio": "category",
    "plot": "text",
}


def described(folder: Path, **changes: Any) -> Path:
    rows = [{**film, "plot": f"plot {i} of {film['title']}"} for i, film in enumerate(FILMS)]
    rows[3]["minutes"] = 90.0
    pq.write_table(pa.Table.from_pylist(rows), folder / "film.parquet")
    table: Row = {"path": "film.parquet", "key": "film", "columns": COLUMNS, "features": ["title"], **changes}
    (folder / "graph.yaml").write_text(yaml.safe_dump({"tables": {"film": table}}, sort_keys=False))
    return folder / "graph.yaml"


def built(folder: Path, **changes: Any) -> Store:
    graphstore.build(described(folder, **changes), folder / "store", BuildConfig(encoder="hash:16"))
    return graphstore.open(str(folder / "store"))


def expected(i: int) -> Row:
    film = FILMS[i]
    minutes = 90 if i == 3 else film["minutes"]
    if minutes is not None and minutes == int(minutes):
        minutes = int(minutes)
    day = datetime.fromtimestamp(film["released"], UTC)
    row = {"released": f"{day:%Y-%m-%d}", "minutes": minutes, **{k: film[k] for k in ("genres", "title")}}
    return {name: value for name, value in row.items() if value not in (None, "", [])}


def test_a_document_is_the_named_columns_in_their_order(tmp_path: Path) -> None:
    store = built(tmp_path, document=["released", "minutes", "genres", "title"])
    document = document_of(store, "studio")
    shown = dict(documents(store, document, range(len(FILMS))))
    assert list(shown) == [film["film"] for film in FILMS] == list(store.ids)
    for i, text in enumerate(shown.values()):
        assert json.loads(text) == expected(i) and list(json.loads(text)) == list(expected(i))
    assert any("minutes" not in json.loads(text) for text in shown.values())
    assert [text for _, text in documents(store, document, [7, 2])] == [store.texts[7], store.texts[2]]
    assert free_fields(document).tolist() == [True, False, False, True]
    assert Schema.from_dict(json.loads(json.dumps(store.schema.to_dict()))) == store.schema


def test_by_default_it_is_texts_and_categories_the_last_text_cut_first(tmp_path: Path) -> None:
    document = document_of(built(tmp_path))
    cuts = {field.name: field.cut for field in document.fields}
    assert list(cuts.items()) == [("title", 2), ("genres", 0), ("studio", 0), ("plot", 1)]


def test_a_label_is_never_shown_and_none_is_refused(tmp_path: Path) -> None:
    store = built(tmp_path, document=["title", "minutes"])
    with pytest.raises(TrainerError, match=r"task\.label: found 'minutes', expected a column that prompts"):
        document_of(store, "minutes")
    (tmp_path / "other").mkdir()
    with pytest.raises(TrainerError, match="found no document of film"):
        document_of(built(tmp_path / "other", document=[]))


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (["title", "rating"], "tables.film.document: found 'rating', expected columns that are kept"),
        ("title", "tables.film.document: found 'title', expected a list of columns"),
    ],
)
def test_documents_that_cannot_be_meant_are_refused(document: Any, words: str, tmp_path: Path) -> None:
    path = described(tmp_path, document=document)
    with pytest.raises(StoreError) as caught:
        graphstore.build(path, tmp_path / "store", BuildConfig(encoder="hash:16"))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_the_schema_of_a_held_document_is_written_as_before() -> None:
    for document in xs_video().to_dict()["documents"]:
        assert all(field.keys() == {"name", "free", "cut", "items"} for field in document["fields"])
