"""Reads and checks a description: what it says, line by line, as what `describe.py` has names for."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from netgpt.graphstore.datasets.described import check_keys, read_described, require
from netgpt.graphstore.datasets.tables import graphstorm, relbench
from netgpt.graphstore.datasets.tables.describe import (
    JSON_LINES,
    KINDS,
    SUFFIXES,
    ColumnDescription,
    Description,
    GroupDescription,
    NewestDescription,
    TableDescription,
)
from netgpt.graphstore.datasets.tables.retrieval import NearestDescription, nearest_description
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.schema import NAME

_TABLE = (
    *("path", "key", "time", "columns", "features", "document", "links", "reverse", "rows", "relation"),
    *("separator", "header", "encoding", "rename", "join"),
)
_JOIN = ("path", "key", "columns", "separator", "header", "encoding", "rename")
_OPTIONS = {"time": "form", "categories": "separator", "vector": "file", "category": "constant"}
"""Kinds whose column may say more, and what."""


def read_description(path: Path) -> Description:
    """Read and check a description; paths in it become whole. StoreError for what it cannot mean."""
    raw = as_tables(path)
    check_keys(path, "", raw, ("target", "tables", "relations"))
    tables = raw.get("tables")
    require(path, isinstance(tables, dict) and bool(tables), "tables", tables, "tables by their names")
    values = {str(name): table for name, table in tables.items() if _is_of_values(table)}
    bare = frozenset(name for name, table in values.items() if _is_bare(path, name, table))
    described = {
        str(name): _table(path, str(name), table) for name, table in tables.items() if str(name) not in values
    }
    groups, nearest = _relations(path, raw.get("relations") or [], described)
    description = Description(path, "", described, groups, nearest=nearest)
    nodes = [table.name for table in description.nodes]
    require(path, bool(nodes), "tables", ", ".join(described), "a table with a key or columns")
    for table in described.values():
        for column, target in table.links.items():
            place = f"tables.{table.name}.links.{column}"
            require(
                path, bool(NAME.fullmatch(target)), place, target, "a name of letters, digits, _, - and ."
            )
            if target in described:
                keyed = bool(described[target].key)
                require(path, keyed, place, target, "a table that has a key, or a name that no table has")
    if lost := sorted(values.keys() - set(description.values)):
        place = f"tables.{lost[0]}"
        require(path, False, place, "neither a path nor a link to it", "one of them")
    target = str(raw.get("target") or nodes[0])
    edges = target in described and target not in nodes
    said = f"{target}, whose rows are edges" if edges else target
    also = f", or tables.{target}.rows: nodes" if edges else ""
    require(path, target in nodes, "target", said, f"one of {', '.join(nodes)}{also}")
    return Description(path, target, described, groups, bare, nearest)


def as_tables(path: Path) -> Any:
    """What a description says, and what RelBench's and GraphStorm's files say as one: keys and values."""
    if path.is_dir():
        return relbench.described(path)
    raw = read_described(path)
    return graphstorm.described(path, raw) if graphstorm.is_gconstruct(raw) else raw


def _is_of_values(raw: Any) -> bool:
    """Whether what is said of a table is of the distinct values of links to it: it has no rows of its own."""
    return isinstance(raw, dict) and raw.keys() <= {"features"}


def _is_bare(path: Path, name: str, raw: Any) -> bool:
    """Whether a type of the distinct values of links is said to have no features."""
    features = raw.get("features")
    ok = features is None or features == []
    require(path, ok, f"tables.{name}.features", features, "[], as a table without a path has values alone")
    return bool(features == [])


def _table(path: Path, name: str, raw: Any, joined_at: str = "") -> TableDescription:
    """joined_at: where the description is of a file that is joined."""
    place = joined_at or f"tables.{name}"
    check_keys(path, place, raw, _JOIN if joined_at else _TABLE)
    require(path, bool(NAME.fullmatch(name)), "tables", name, "a name of letters, digits, _, - and .")
    relation, rename = raw.get("relation", ""), raw.get("rename") or {}
    if isinstance(relation, dict):
        check_keys(path, f"{place}.relation", relation, ("name",))
        relation_name, relation = relation.get("name", ""), ""
        fits = isinstance(relation_name, str) and bool(NAME.fullmatch(relation_name))
        require(path, fits, f"{place}.relation.name", relation_name, "letters, digits, _, - and .")
    else:
        relation_name = ""
    require(path, isinstance(relation, str), f"{place}.relation", relation, "a column, or name: and a text")
    fits = isinstance(rename, dict) and all(isinstance(one, str) for one in (*rename, *rename.values()))
    fits = fits and len(set(rename.values())) == len(rename)
    require(path, fits, f"{place}.rename", rename, "a name by each column of the file, all different")
    for key in ("key", "time", "separator", "encoding", "rows"):
        value = raw.get(key, "")
        require(path, isinstance(value, str), f"{place}.{key}", value, "a text")
    header, reverse = raw.get("header") or [], raw.get("reverse", True)
    texts = isinstance(header, list) and all(isinstance(one, str) for one in header)
    require(path, texts and len(set(header)) == len(header), f"{place}.header", header, "distinct names")
    fits = isinstance(reverse, bool) or reverse == "only"
    require(path, fits, f"{place}.reverse", reverse, "true, false or only")
    features = _names(path, f"{place}.features", raw.get("features"))
    document, newest = _document(path, name, raw.get("document"))
    links = raw.get("links") or {}
    linked = isinstance(links, dict) and all(isinstance(to, str) for to in links.values())
    require(path, linked, f"{place}.links", links, "a type's name by each column")
    separator = raw.get("separator", ",")
    require(path, len(separator) > 0, f"{place}.separator", separator, "what is between two columns")
    table = TableDescription(
        name=name,
        paths=files_of(path, f"{place}.path", raw.get("path")),
        key=raw.get("key", ""),
        time=raw.get("time", ""),
        columns=_columns(path, f"{place}.columns", raw.get("columns")),
        links={str(column): to for column, to in links.items()},
        reverse=reverse,
        separator=separator,
        header=tuple(header),
        encoding=raw.get("encoding", "utf-8"),
        features=features,
        document=document,
        newest=newest,
        rows=raw.get("rows", ""),
        relation=relation,
        relation_name=relation_name,
        renamed={name: column for column, name in rename.items()},
    )
    _check_columns(path, place, table)
    joins = raw.get("join") or []
    require(path, isinstance(joins, list), f"{place}.join", joins, "a list of files with a key and columns")
    if joins:
        require(path, bool(table.key), f"{place}.join", f"{name} without a key", "a table that has one")
    made = tuple(_table(path, name, one, f"{place}.join[{i}]") for i, one in enumerate(joins))
    return _with_joins(path, place, table, made) if made else table


def _names(path: Path, place: str, raw: Any) -> tuple[str, ...] | None:
    """Columns, or None where nothing is said."""
    named = raw is None or (isinstance(raw, list) and all(isinstance(one, str) for one in raw))
    require(path, named, place, raw, "a list of columns")
    return None if raw is None else tuple(raw)


def _document(
    path: Path, table: str, raw: Any
) -> tuple[tuple[str, ...] | None, dict[str, NewestDescription]]:
    """The names of what prompts show, and those that are of neighbours."""
    place = f"tables.{table}.document"
    if raw is None:
        return None, {}
    require(path, isinstance(raw, list), place, raw, "a list of columns")
    names, newest = [], {}
    for i, one in enumerate(raw):
        if isinstance(one, str):
            names.append(one)
            continue
        at = f"{place}[{i}]"
        require(path, isinstance(one, dict), at, one, "a column, or newest: and of: of neighbours")
        check_keys(path, at, one, ("newest", "of", "show", "name"))
        num, of = one.get("newest"), one.get("of")
        require(path, type(num) is int and num > 0, f"{at}.newest", num, "how many, from 1")
        require(path, isinstance(of, str) and bool(of), f"{at}.of", of, "a relation to the table's rows")
        show = _names(path, f"{at}.show", one.get("show"))
        require(path, show is None or bool(show), f"{at}.show", [], "columns of the neighbours")
        name = one.get("name", of.removeprefix(f"{table}/").split("/")[0])
        require(path, isinstance(name, str) and bool(name), f"{at}.name", name, "what prompts call it")
        names.append(name)
        newest[name] = NewestDescription(of, num, show)
    twice = sorted({name for name in names if names.count(name) > 1})
    require(path, not twice, place, ", ".join(twice), "each name once; another by name:")
    return tuple(names), newest


def _with_joins(
    path: Path, place: str, table: TableDescription, joins: tuple[TableDescription, ...]
) -> TableDescription:
    """The table with the columns that others bring."""
    auto = table.columns is None
    require(path, not auto, f"{place}.columns", "auto", "columns by name, where some are joined")
    columns = {column.name: column for column in table.columns or ()}
    for i, join in enumerate(joins):
        at = f"{place}.join[{i}]"
        require(path, bool(join.key), f"{at}.key", join.key, "the column that has the table's keys")
        require(path, bool(join.columns), f"{at}.columns", "none", "columns by name")
        for column in join.columns or ():
            there = columns.setdefault(column.name, replace(column, joined=True, constant=""))
            fits = column.kind == there.kind and column.kind not in ("vector", "time") and not there.file
            fits = fits and column.name not in (table.key, table.time, *table.links)
            expected = "a text, a number or categories, of one kind wherever it is, and no key, time or link"
            require(path, fits, f"{at}.columns.{column.name}", column.kind, expected)
    return replace(table, columns=tuple(columns.values()), joins=joins)


def _check_columns(path: Path, place: str, table: TableDescription) -> None:
    names = [column.name for column in table.columns or ()]
    for name in (*names, *table.links, *filter(None, (table.key, table.time, table.relation))):
        require(path, bool(NAME.fullmatch(name)), place, name, "columns of letters, digits, _, - and .")
    if table.key:
        require(path, table.key not in names, f"{place}.columns", table.key, "columns beside the key")
    for column in table.columns or ():
        fits = column.kind in ("text", "category", "categories") and not column.constant
        linked = column.name in table.links and not fits
        expected = "categories, a category or a text, as it is a link"
        require(path, not linked, f"{place}.columns.{column.name}", column.kind, expected)
    require(path, table.rows in ("", "nodes", "edges"), f"{place}.rows", table.rows, "nodes or edges")
    if table.rows == "edges":
        fits = table.may_be_edges and table.columns is not None
        expected = "nodes, or no key, two links, and by name columns that are numbers or the time"
        require(path, fits, f"{place}.rows", "edges", expected)
    if table.relation:
        fits, expected = table.is_edges, "a table of edges: no key, two links, and numbers or the time alone"
        require(path, fits, f"{place}.relation", table.relation, expected)
        fits = table.relation not in (*names, *table.links, table.time)
        require(path, fits, f"{place}.relation", table.relation, "a column that is nothing else")
    if table.relation_name:
        expected = "a table of edges: no key, two links, and numbers or the time alone"
        require(path, table.is_edges, f"{place}.relation.name", table.relation_name, expected)
    if table.is_edges:
        own = [name for name in ("features", "document") if getattr(table, name)]
        require(path, not own, place, f"{' and '.join(own)} of edges", "rows: nodes, or none of them")
        times = [c.name for c in table.columns or () if c.kind == "time" and c.name != table.time]
        expected = (
            f"{place}.time that names it" if not table.time else f"no time of edges beside {table.time}"
        )
        require(path, not times, f"{place}.columns", ", ".join(times), expected)
    if table.time and table.columns:
        kind = next((column.kind for column in table.columns if column.name == table.time), "time")
        require(path, kind == "time", f"{place}.columns.{table.time}", kind, f"time, as {place}.time says")
    if table.columns is None:
        parquet = {one.suffix for one in table.paths} == {".parquet"}
        require(path, parquet, f"{place}.columns", "auto", "columns by name: only Parquet says their kinds")


def _columns(path: Path, place: str, raw: Any) -> tuple[ColumnDescription, ...] | None:
    if raw == "auto":
        return None
    if raw is None:
        return ()
    require(path, isinstance(raw, dict), place, raw, "a kind by each column, or auto")
    columns = []
    for name, value in raw.items():
        where, options = f"{place}.{name}", {}
        kind = value
        if isinstance(value, dict):
            check_keys(path, where, value, tuple(_OPTIONS))
            require(path, len(value) == 1, where, list(value), f"one of {', '.join(_OPTIONS)}")
            ((kind, option),) = value.items()
            require(path, isinstance(option, str) and option != "", f"{where}.{kind}", option, "a text")
            options[_OPTIONS[kind]] = option
        require(path, kind in KINDS, where, kind, f"one of {', '.join(KINDS)}")
        if "file" in options:
            file = path.absolute().parent / options["file"]
            npy = file.suffix == ".npy" and file.is_file()
            require(path, npy, f"{where}.vector", str(file), "an .npy file")
            options["file"] = str(file)
        columns.append(ColumnDescription(str(name), kind, **options))
    return tuple(columns)


def files_of(path: Path, place: str, raw: Any) -> tuple[Path, ...]:
    """The files of a table, those of a pattern in the order of their names."""
    names = [raw] if isinstance(raw, str) else raw
    listed = isinstance(names, list) and len(names) > 0 and all(isinstance(one, str) for one in names)
    require(path, listed, place, raw, "a file, a list of files, or a pattern")
    files: list[Path] = []
    folder = path.absolute().parent
    for one in names:
        matched = sorted(glob.glob(str(folder / one))) if glob.has_magic(one) else [folder / one]
        require(path, bool(matched), place, one, "a pattern that some file matches")
        files += map(Path, matched)
    for file in files:
        require(path, file.suffix in SUFFIXES, place, str(file), f"a name that ends in {', '.join(SUFFIXES)}")
        require(path, file.is_file(), place, str(file), "a file")
    kinds = {
        "parquet" if f.suffix == ".parquet" else "json" if f.suffix in JSON_LINES else "csv" for f in files
    }
    require(path, len(kinds) == 1, place, sorted(kinds), "files of one kind")
    return tuple(files)


def _relations(
    path: Path, raw: Any, tables: Mapping[str, TableDescription]
) -> tuple[tuple[GroupDescription, ...], tuple[NearestDescription, ...]]:
    """Those of groups, and those of what is nearest."""
    require(path, isinstance(raw, list), "relations", raw, "a list of objects")
    groups, nearest = [], []
    nodes = [table.name for table in tables.values() if not table.is_edges]
    for i, one in enumerate(raw):
        place = f"relations[{i}]"
        if isinstance(one, dict) and "nearest" in one:
            nearest.append(nearest_description(path, place, one, nodes))
            continue
        check_keys(path, place, one, ("name", "of", "group", "ties", "tells", "nearest"))
        for key in ("name", "of", "group"):
            value = one.get(key)
            require(path, isinstance(value, str) and bool(value), f"{place}.{key}", value, "a text")
        name, of, column, ties = one["name"], one["of"], one["group"], one.get("ties", "include")
        require(path, bool(NAME.fullmatch(name)), f"{place}.name", name, "letters, digits, _, - and .")
        also = f", or tables.{of}.rows: nodes" if of in tables and of not in nodes else ""
        require(path, of in nodes, f"{place}.of", of, f"one of {', '.join(nodes)}{also}")
        require(path, ties in ("include", "strict"), f"{place}.ties", ties, "include or strict")
        table = tables[of]
        if not table.time:
            raise StoreError(
                f"{path}: {place}.of: found {of!r}, which has no time, expected a table with one"
            )
        kept = {column.name: column.kind for column in table.columns or ()}
        known = (
            (column in table.links and table.several(column) is None)
            or kept.get(column) == "category"
            or table.columns is None
        )
        require(path, known, f"{place}.group", column, f"a link or a category of {of}")
        tells = _names(path, f"{place}.tells", one.get("tells")) or ()
        told_early = not tells or ties == "strict"
        require(path, told_early, f"{place}.ties", ties, "strict, where earlier rows tell something")
        groups.append(GroupDescription(name, of, column, ties == "strict", tells))
    return tuple(groups), tuple(nearest)
