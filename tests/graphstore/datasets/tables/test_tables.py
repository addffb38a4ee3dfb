"""Stores from tables against naive joins, in every kind of file; faults in descriptions and in rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from netgpt import graphstore
from netgpt.graphstore import Store, StoreError
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets import names
from tests.films import Row, made

CONFIG = BuildConfig(encoder="hash:16")


DESCRIPTION: Row = {
    "target": "film",
    "tables": {
        "film": {
            "key": "film",
            "time": "released",
            "columns": {"title": "text", "genres": "categories", "minutes": "number", "kind": "category"},
            "features": ["title", "genres"],
            "links": {"studio": "studio"},
        },
        "user": {"key": "user", "links": {"town": "town", "friend": "user"}},
        "likes": {"links": {"who": "user", "what": "film"}},
    },
    "relations": [
        {"name": "same_studio", "of": "film", "group": "studio", "ties": "strict"},
        {"name": "same_kind", "of": "film", "group": "kind"},
    ],
}


def as_parquet(path: Path, rows: list[Row], table: Row) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    table["path"] = path.with_suffix(".parquet").name


def as_json(path: Path, rows: list[Row], table: Row) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.with_suffix(".jsonl").write_text("".join(lines), encoding="utf-8")
    table["path"] = path.with_suffix(".jsonl").name


def as_csv(
    path: Path, rows: list[Row], table: Row, *, bom: str = "", end: str = "\n", **options: Any
) -> None:
    """genres as a text with | between them."""
    named = path.with_suffix(".csv")
    separator = options.get("separator", ",")
    with named.open("w", encoding=options.get("encoding", "utf-8"), newline="") as file:
        file.write(bom)
        writer = csv.writer(file, delimiter=separator, lineterminator=end)
        if "header" not in options:
            writer.writerow(rows[0])
        for row in rows:
            cells = ["|".join(v) if isinstance(v, list) else "" if v is None else v for v in row.values()]
            writer.writerow(cells)
    if "genres" in rows[0]:
        table["columns"]["genres"] = {"categories": "|"}
    if "header" in options:
        options["header"] = list(rows[0])
    table.update({"path": named.name, **options})


def as_csv_of_a_spreadsheet(path: Path, rows: list[Row], table: Row) -> None:
    as_csv(path, rows, table, bom="\ufeff", end="\r\n")


def as_text_without_header(path: Path, rows: list[Row], table: Row) -> None:
    as_csv(path, rows, table, separator="\t", header=True, encoding="latin-1")


def in_parts(path: Path, rows: list[Row], table: Row) -> None:
    for i, part in enumerate((rows[:3], rows[3:])):
        as_parquet(path.with_name(f"{path.name}-{i}"), part, table)
    table["path"] = f"{path.name}-*.parquet"


KINDS: list[Callable[[Path, list[Row], Row], None]] = [
    *(as_parquet, as_json, as_csv, as_csv_of_a_spreadsheet, as_text_without_header, in_parts),
]


def write(
    folder: Path, data: dict[str, list[Row]], how: Any = as_parquet, description: Row = DESCRIPTION
) -> Path:
    folder.mkdir(exist_ok=True)
    described = json.loads(json.dumps(description))
    for name, rows in data.items():
        if rows:
            how(folder / name, rows, described["tables"][name])
    path = folder / "graph.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    return path


def built(path: Path, out: Path, **options: Any) -> Store:
    graphstore.build(path, out, BuildConfig(encoder="hash:16", **options))
    return graphstore.open(out)


def edges_of(store: Store, edge_type: tuple[str, str, str]) -> set[tuple[int, int]]:
    relation = store.relation(edge_type)
    return {(int(u), v) for v in range(relation.num_dst) for u in relation.neighbors(v)}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("tables")
    return built(write(folder, made()), folder / "store")


def test_columns_and_keys_are_those_of_the_rows(store: Store) -> None:
    films, users = made()["film"], made()["user"]
    assert store.schema.target == "film" and store.dataset.name == "tables"
    assert list(store.strings("film", "film")) == [row["film"] for row in films]
    assert list(store.strings("user", "user")) == [str(row["user"]) for row in users]
    assert list(store.strings("film", "title")) == [row["title"] for row in films]
    assert [json.loads(text) for text in store.strings("film", "genres")] == [row["genres"] for row in films]
    minutes = [np.nan if row["minutes"] is None else row["minutes"] for row in films]
    np.testing.assert_array_equal(store.column("film", "minutes"), minutes)
    np.testing.assert_array_equal(store.column("film", "released"), [row["released"] for row in films])
    codes, values = store.category("film", "kind")
    assert ["" if c < 0 else values[c] for c in codes] == [row["kind"] for row in films]


def test_features_are_made_of_the_named_columns(store: Store) -> None:
    texts = [". ".join(filter(None, [row["title"], ", ".join(row["genres"])])) for row in made()["film"]]
    encoder = graphstore.features.HashEncoder(16)
    np.testing.assert_array_equal(store.features("film").gather(np.arange(40)), encoder.encode(texts))
    assert store.schema.node_type("user").encoding == "none"
    towns = list(store.strings("town", "value"))
    np.testing.assert_array_equal(store.features("town").gather(np.arange(len(towns))), encoder.encode(towns))


def test_links_are_the_joins_of_keys_in_both_directions(store: Store) -> None:
    data = made()
    film = {row["film"]: i for i, row in enumerate(data["film"])}
    user = {row["user"]: i for i, row in enumerate(data["user"])}
    studio = {name: i for i, name in enumerate(store.strings("studio", "value"))}
    town = {name: i for i, name in enumerate(store.strings("town", "value"))}
    assert set(studio) == {"A24", "Pixar", "Gaumont"} and len(town) == len({r["town"] for r in data["user"]})
    joins = {
        ("film", "studio", "studio"): {
            (i, studio[row["studio"]]) for i, row in enumerate(data["film"]) if row["studio"]
        },
        ("user", "town", "town"): {(i, town[row["town"]]) for i, row in enumerate(data["user"])},
        ("user", "friend", "user"): {(i, user[row["friend"]]) for i, row in enumerate(data["user"])},
        ("user", "likes", "film"): {(user[row["who"]], film[row["what"]]) for row in data["likes"]},
    }
    for (src, name, dst), expected in joins.items():
        assert edges_of(store, (src, name, dst)) == expected, name
        assert edges_of(store, (dst, f"rev_{name}", src)) == {(v, u) for u, v in expected}, name
    assert store.num_edges["user", "likes", "film"] == len(data["likes"])  # the same like twice stays twice
    assert graphstore.verify(store.path) == []


@pytest.mark.parametrize(
    ("name", "column", "strict"), [("same_studio", "studio", True), ("same_kind", "kind", False)]
)
def test_groups_are_earlier_rows_of_the_same_value(
    store: Store, name: str, column: str, strict: bool
) -> None:
    films = made()["film"]
    expected = {
        (u, v)
        for v, b in enumerate(films)
        for u, a in enumerate(films)
        if u != v
        and a[column]
        and a[column] == b[column]
        and (a["released"] < b["released"] or (a["released"] == b["released"] and not strict))
    }
    assert edges_of(store, ("film", name, "film")) == expected


@pytest.mark.parametrize("how", KINDS)
def test_every_kind_of_file_gives_the_same_store(how: Any, store: Store, tmp_path: Path) -> None:
    data = made()
    if how is as_text_without_header:  # which has no quotes here for a line's end
        assert "two\nlines" in {row["title"] for row in data["film"]}
    other = built(write(tmp_path / "t", data, how), tmp_path / "s")
    one, same = store.seal.files, other.seal.files
    assert one.keys() == same.keys() and {n for n in one if one[n] != same[n]} <= {"zarr.json"}


def test_a_long_separator_and_dates_of_a_form(tmp_path: Path) -> None:
    (tmp_path / "m.dat.csv").write_text(
        "1::Heat::01-Feb-1995\n2::Amélie, 2::31-Dec-2001\n", encoding="latin-1"
    )
    table = {"path": "m.dat.csv", "separator": "::", "encoding": "latin-1", "header": ["id", "title", "day"]}
    table |= {"key": "id", "time": "day", "columns": {"title": "text", "day": {"time": "%d-%b-%Y"}}}
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump({"tables": {"m": table}}))
    store = built(path, tmp_path / "s")
    assert list(store.strings("m", "title")) == ["Heat", "Amélie, 2"]
    days = [datetime(1995, 2, 1, tzinfo=UTC), datetime(2001, 12, 31, tzinfo=UTC)]
    assert list(store.column("m", "day")) == [int(day.timestamp()) for day in days]


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        (["2024-01-31", "2024-01-31 10:00:01"], [1706659200, 1706695201]),
        (["2024-01-31T10:00:01", "2024-01-31T10:00:01Z"], [1706695201, 1706695201]),
        (["1706695201", " 99999 "], [1706695201, 99999]),
        ([1706695201, 5], [1706695201, 5]),
        ([datetime(2024, 1, 31, 10, 0, 1), datetime(1970, 1, 1)], [1706695201, 0]),
        ([datetime(2024, 1, 31).date(), datetime(1970, 1, 2).date()], [1706659200, 86400]),
    ],
)
def test_times_in_all_their_forms(values: list[Any], seconds: list[int], tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1, 2], "at": values}), tmp_path / "t.parquet")
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump({"tables": {"t": {"path": "t.parquet", "key": "id", "time": "at"}}}))
    assert list(built(path, tmp_path / "s").column("t", "at")) == seconds


def test_auto_takes_the_columns_of_parquet_by_their_types(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "title": ["x", None, "z"],
            "tags": [["p", "q"], [], ["p"]],
            "kind": pa.array(["u", "v", "u"]).dictionary_encode(),
            "on": [True, False, True],
            "at": pa.array([1, 2, 3], pa.timestamp("s")),
            "x": pa.array(x.tolist(), pa.list_(pa.float32())),
            "other": ["a", "a", None],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    described = {"path": "t.parquet", "key": "id", "columns": "auto", "links": {"other": "t"}}
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump({"tables": {"t": described}}))
    store = built(path, tmp_path / "s")
    kinds = {column.name: column.kind for column in store.schema.node_type("t").columns}
    assert kinds == {
        "id": "id",
        "title": "text",
        "tags": "text",
        "kind": "category",
        "on": "number",
        "at": "time",
    }
    np.testing.assert_array_equal(store.features("t").gather(np.arange(3)), x)
    assert edges_of(store, ("t", "other", "t")) == {(0, 0), (1, 0)}


def test_vectors_of_a_file_are_the_features(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    pq.write_table(pa.table({"id": [3, 1, 2]}), tmp_path / "t.parquet")
    table = {"path": "t.parquet", "key": "id", "columns": {"cover": {"vector": "x.npy"}}}
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump({"tables": {"t": table}}))
    np.testing.assert_array_equal(built(path, tmp_path / "s").features("t").gather(np.arange(3)), x)


def change(data: dict[str, list[Row]], table: str, row: int, **cells: Any) -> None:
    data[table][row] |= cells


def test_bad_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    """The store is the one of the rows that are good."""
    data = made()
    change(data, "film", 4, minutes="long")
    change(data, "film", 7, film=data["film"][6]["film"])
    change(data, "film", 39, released="soon")
    change(data, "user", 3, friend=77)
    change(data, "likes", 5, what="no film")
    path = write(tmp_path / "bad", data, as_csv)
    report = graphstore.build(path, tmp_path / "s", BuildConfig(encoder="hash:16", on_error="skip"))
    gone = {made()["film"][i]["film"] for i in (4, 7, 39)}
    lost = sum(row["what"] in gone for row in data["likes"]) + 1
    assert report.skipped == {"minutes": 1, "film": 1, "released": 1}
    assert report.dangling == {"friend": 1, "what": lost}
    assert report.num_read == 37 + 25 and "minutes" in str(report.first_skipped)
    good = made()
    good["film"] = [row for i, row in enumerate(good["film"]) if i not in (4, 7, 39)]
    good["user"][3]["friend"] = None
    left = {row["film"] for row in good["film"]}
    good["likes"] = [row for i, row in enumerate(good["likes"]) if i != 5 and row["what"] in left]
    one = graphstore.open(tmp_path / "s")
    other = built(write(tmp_path / "good", good, as_csv), tmp_path / "s2")
    assert {n for n, d in one.seal.files.items() if other.seal.files[n] != d} <= {"zarr.json"}
    assert graphstore.verify(one.path) == []


def _table(name: str, **changes: Any) -> Any:
    return lambda described, data: described["tables"][name].update(changes)


def _column(table: str, **changes: Any) -> Any:
    return lambda described, data: described["tables"][table]["columns"].update(changes)


def _row(table: str, row: int, **cells: Any) -> Any:
    return lambda described, data: change(data, table, row, **cells)


FAULTS: dict[str, tuple[Any, str]] = {
    "a dangling link": (
        _row("likes", 8, what="gone"),
        "record '8': field 'what': found 'gone', expected a film",
    ),
    "a dangling link of a row": (
        _row("user", 2, friend=5),
        "record '2': field 'friend': found '5', expected a user",
    ),
    "a key twice": (
        _row("user", 9, user=1000),
        "record '9': field 'user': found '1000', expected each key once",
    ),
    "no key": (_row("film", 9, film=""), "record '9': field 'film': found nothing, expected a key"),
    "a number with text": (
        _row("film", 3, minutes="x"),
        "record '3': field 'minutes': found 'x', expected a number",
    ),
    "no finite number": (
        _row("film", 3, minutes="1e999"),
        "record '3': field 'minutes': found '1e999', expected a fin",
    ),
    "no time": (_row("film", 3, released=""), "record '3': field 'released': found ''"),
    "a time that is none": (
        _row("film", 3, released="2024-02-30"),
        "record '3': field 'released': found '2024-02-30'",
    ),
    "an unknown key": (
        _table("film", link={}),
        "found the unknown key tables.film.link; did you mean links?",
    ),
    "an unknown kind": (
        _column("film", title="string"),
        "tables.film.columns.title: found 'string', expected one of",
    ),
    "an unknown option": (
        _column("film", title={"txt": "x"}),
        "found the unknown key tables.film.columns.title.txt",
    ),
    "a link to a table without a key": (
        _table("user", links={"friend": "likes"}),
        "tables.user.links.friend: found 'likes', expected a table that has a key",
    ),
    "a column that is not there": (_column("film", name="text"), "expected 'name' once among them"),
    "a link that is not there": (_table("user", links={"foe": "user"}), "expected 'foe' once among them"),
    "a file that is not there": (_table("user", path="u.csv"), "u.csv', expected a file"),
    "a pattern of nothing": (
        _table("user", path="u-*.csv"),
        "found 'u-*.csv', expected a pattern that some file",
    ),
    "a file of another kind": (_table("user", path="graph.xlsx"), "expected a name that ends in"),
    "another target": (
        lambda d, _: d.update(target="likes"),
        "target: found 'likes, whose rows are edges', expected one of film, user",
    ),
    "a group without a time": (
        lambda d, _: d["relations"].append({"name": "r", "of": "user", "group": "town"}),
        "relations[2].of: found 'user', which has no time",
    ),
    "a group of no column": (
        lambda d, _: d["relations"].append({"name": "r", "of": "film", "group": "title"}),
        "relations[2].group: found 'title', expected a link or a category of film",
    ),
    "one relation twice": (
        lambda d, _: d["relations"].append({"name": "same_kind", "of": "film", "group": "studio"}),
        "a node type or relation twice",
    ),
    "features that are not kept": (
        _table("film", features=["minute"]),
        "tables.film.features: found 'minute', expected columns that are kept",
    ),
    "a name that leaves the store": (
        _table("user", links={"town": "../x"}),
        "found '../x', expected a name of",
    ),
    "auto of CSV": (_table("film", columns="auto"), "found 'auto', expected columns by name: only Parquet"),
    "unequal rows": (_table("likes", header=["who", "what", "when"]), "Expected 3 columns, got 2"),
    "another encoding": (_table("film", encoding="ascii"), "cannot be read as text"),
    "an encoding that is none": (_table("film", encoding="klingon"), "cannot be read as text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_in_one_line_and_leaves_no_store(fault: str, tmp_path: Path) -> None:
    spoil, words = FAULTS[fault]
    data, folder = made(), tmp_path / "t"
    described = json.loads(json.dumps(DESCRIPTION))
    for name in ("film", "user", "likes"):
        described["tables"][name]["path"] = f"{name}.csv"
    described["tables"]["film"]["columns"]["genres"] = {"categories": "|"}
    spoil(described, data)
    folder.mkdir()
    for name, rows in data.items():
        as_csv(folder / name, rows, {"columns": {}})
    path = folder / "graph.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False))
    with pytest.raises(StoreError) as caught:
        built(path, tmp_path / "s")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("write_rows", [as_csv, as_json])
def test_columns_that_nobody_asked_for_hold_anything(write_rows: Any, tmp_path: Path) -> None:
    """Also behind the first block, of which types are guessed; a header may be in another encoding."""
    path = write(tmp_path / "t", made(), write_rows)
    before = built(path, tmp_path / "before")
    for file in path.parent.glob("likes.*"):
        lines = file.read_bytes().splitlines()
        notes = [b"1" * 500_000] * 40 + [b"1"] * (len(lines) - 41) + [b'"a text"']
        told = list(zip(notes, lines, strict=True))
        if file.suffix == ".csv":
            spoiled = [b"w\xe4," + lines[0], *(note + b"," + line for note, line in told[1:])]
        else:
            spoiled = [line[:-1] + b', "note": ' + note + b"}" for note, line in told]
        file.write_bytes(b"\n".join(spoiled) + b"\n")
        assert file.stat().st_size > 17e6
    after = built(path, tmp_path / "after")
    for edge_type in before.edge_types:
        rows, others = before.relation(edge_type), after.relation(edge_type)
        assert np.array_equal(rows.indices, others.indices) and np.array_equal(rows.end, others.end)


def test_a_column_of_json_that_nobody_asked_for_may_change_at_once(tmp_path: Path) -> None:
    lines = [{"id": 1, "name": "a", "note": 1}, {"id": 2, "name": "b", "note": "x"}, {"id": 3, "name": "c"}]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = tmp_path / "graph.yaml"
    path.write_text("tables: {one: {path: t.jsonl, key: id, columns: {name: text}}}\n")
    store = built(path, tmp_path / "s")
    assert list(store.strings("one", "name")) == ["a", "b", "c"]
    (tmp_path / "t.jsonl").write_text('{"id": 1, "name": "a"}\nno json\n')
    with pytest.raises(StoreError, match=r"t\.jsonl: cannot be read as JSON lines"):
        built(path, tmp_path / "broken")


def test_two_tables_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t", made())
    path.write_text(path.read_text() + "\ntables: {}\n")
    with pytest.raises(StoreError, match="duplicate key"):
        built(path, tmp_path / "s")


@pytest.mark.parametrize("table", ["film", "user", "likes"])
def test_a_table_without_rows_is_refused(table: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t", made(), as_csv)
    file = path.parent / f"{table}.csv"
    header, found = file.read_text().splitlines()[0], f"found no rows, expected at least one of {table}"
    for end in ("", "\n"):
        file.write_text(header + end)
        with pytest.raises(StoreError, match=rf"{table}\.csv: {found}"):
            built(path, tmp_path / "s")


@pytest.mark.parametrize("table", ["film", "likes"])
def test_a_file_that_changes_while_it_is_read_is_refused(table: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t", made())
    opened = names.load("tables").open(path, CONFIG)
    blocks = opened.blocks()
    next(blocks)
    as_parquet(path.parent / table, made(1)[table], {})
    with pytest.raises(StoreError, match=rf"{table}\.parquet: found a file that changed while it was read"):
        list(blocks)
        for edge_type in opened.schema.edge_types:
            list(opened.edges(edge_type))


def test_descriptions_go_to_their_own_reader(tmp_path: Path) -> None:
    tables = write(tmp_path / "t", made())
    edges = tmp_path / "edges.yaml"
    edges.write_text("nodes: {a: {count: 2}}\nedges: []\n")
    as_json_text = tmp_path / "graph.json"
    as_json_text.write_text(json.dumps({"target": "x", "tables": {}}))
    assert [names.of_source(p).name for p in (tables, edges, as_json_text)] == ["tables", "edges", "tables"]
