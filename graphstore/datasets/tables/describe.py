"""The description of a graph as tables: a small YAML (or JSON) file.

    target: movie                        # the type that is asked about; by default the first table of nodes
    tables:
      movie:
        path: movies.parquet             # Parquet, CSV or JSON lines; one file, a list of files, or a pattern
        key: movie_id                    # any strings or whole numbers, each once; without: the row's number
        time: released                   # when a row came to be: the order of rows of groups
        columns:                         # what is kept; or `auto`: all of Parquet, by their types
          title: text
          genres: {categories: "|"}      # several values in one text, and what is between them; or lists
          runtime: number
          released: {time: "%d-%b-%Y"}   # a form of strptime; without: seconds since 1970, or ISO 8601
          cover: {vector: covers.npy}    # [rows, width]; without a file: lists of numbers
        features: [title, genres, runtime]  # texts and categories, or the vector; beside them numbers and
                                         # times; by default the vector, or all texts; never the label
        document: [title, genres, runtime]  # what prompts show, in this order; by default all texts and
                                         # categories; never the label
        links: {studio: studio}          # a foreign key: of a table, or else of a type of the distinct
                                         # values; of a column of categories a link for each of them
        join:                            # further columns by the key; of one that is there, what is missing
          - {path: plots.csv, key: movie, columns: {plot: text, title: text}}
          - {path: test_ids.txt, header: [id], key: id, columns: {part: {category: test}}}  # what all are
        rename: {"Run time": runtime}    # columns that the files call otherwise than is said here
      likes:                             # no key, two links, and numbers and a time alone: edges
        path: likes.csv
        separator: "\\t"                  # of CSV; header: [user, movie] where the file has none; encoding
        time: at                         # of each edge: rows of neighbours are in its order
        columns: {seconds: number}       # of each edge
        links: {user: user, movie: movie}
      fact:                              # of edges: a relation for each value of a column
        {path: facts.tsv, separator: "\\t", links: {head: entity, tail: entity}, relation: predicate}
      rating:
        path: ratings.parquet
        rows: nodes                      # and not edges: each is asked about, or has features
        time: at
        columns: {stars: number}
        links: {user: user, movie: movie}
        reverse: only                    # a rating hears of its user and movie, and they of no rating
      user: {features: []}               # no path: the distinct values of links; without features they are
                                         # known by themselves alone, else by their texts
    relations:
      - {name: same_studio_as, of: movie, group: studio, ties: strict}
      - {name: by_same_user, of: rating, group: user, ties: strict, tells: [stars]}

A link `studio` of `movie` is the relation movie/studio/studio and, unless `reverse: false`, its reverse
studio/rev_studio/movie, by which a movie hears of its studio; with `reverse: only` that alone. A table of
edges is user/likes/movie and movie/rev_likes/user. A group makes the edges of each node to those of the same
value that are not later (`ties: strict`: earlier). With `tells` the heads are no rows but nodes of a type of
their own, here rating_stars, which have those numbers of the earlier rows: so a row is told what the earlier
ones came to, and not what it came to itself.

Paths are relative to the description.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from netgpt.graphstore.datasets.described import check_keys, read_described, require
from netgpt.graphstore.datasets.tables import graphstorm, relbench
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.schema import NAME

Kind = Literal["text", "number", "time", "category", "categories", "vector"]
KINDS: tuple[str, ...] = get_args(Kind)
SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".data", ".item", ".jsonl", ".ndjson")
"""Names of files end so; what is neither Parquet nor JSON lines is text with separators."""
JSON_LINES = (".jsonl", ".ndjson")
_OPTIONS = {"time": "form", "categories": "separator", "vector": "file", "category": "constant"}
"""Kinds whose column may say more, and what."""


@dataclass(frozen=True)
class ColumnDescription:
    """A column that is kept."""

    name: str
    kind: Kind
    form: str = ""
    """Of a time: as strptime has it; empty: seconds since 1970, or ISO 8601."""
    separator: str = ""
    """Of categories: between the values of a text; empty: they are lists."""
    file: str = ""
    """Of a vector: the .npy file that has it."""
    constant: str = ""
    """Of a category: what it is in all rows of a file that has no such column."""
    joined: bool = False
    """Only in files that are joined."""
    absent: bool = False
    """In no file: of new rows that are to be predicted."""

    @property
    def is_read(self) -> bool:
        """Whether the table's files have it."""
        return not self.file and not self.constant and not self.absent


@dataclass(frozen=True, kw_only=True)
class TableDescription:
    name: str
    paths: tuple[Path, ...]
    key: str = ""
    time: str = ""
    columns: tuple[ColumnDescription, ...] | None = ()
    """None: all that there are, by their types."""
    links: Mapping[str, str]
    """By column the type that its values are keys of."""
    reverse: bool | str = True
    """Whether links have relations both ways; `only`: those alone by which rows hear of what they link to."""
    separator: str = ","
    header: tuple[str, ...] = ()
    encoding: str = "utf-8"
    features: tuple[str, ...] | None = None
    """Columns that become features: texts and categories, or the vector. None: the vector, else all texts."""
    document: tuple[str, ...] | None = None
    """Columns that prompts show. None: all texts and categories."""
    joins: tuple[TableDescription, ...] = ()
    """Further files whose columns are found by key; of a column that is there already, what is missing."""

    def several(self, link: str) -> ColumnDescription | None:
        """The column of categories that a link is of, where a row may link to several."""
        return next((c for c in self.columns or () if c.name == link and c.kind == "categories"), None)

    relation: str = ""
    """Of edges: the column whose values are relations, one each."""
    relation_name: str = ""
    """Of edges: what their one relation is called; by default as the table."""
    relations: tuple[tuple[str, str], ...] = ()
    """Its values, in the order of their texts, and what the relations are called."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Columns that the files call otherwise, and how."""
    rows: str = ""
    """nodes or edges; empty: edges where the table has no key, two links, and numbers and times alone."""

    @property
    def is_edges(self) -> bool:
        """Rows are edges between two other types, and no nodes."""
        if self.rows:
            return self.rows == "edges"
        return self.may_be_edges and self.columns is not None

    @property
    def may_be_edges(self) -> bool:
        kinds = {column.kind for column in self.columns or ()}
        return not self.key and len(self.links) == 2 and kinds <= {"number", "time"}


@dataclass(frozen=True)
class GroupDescription:
    name: str
    of: str
    group: str
    strict: bool
    tells: tuple[str, ...] = ()
    """Numbers and times of the earlier rows that are all that is told of them; none: what they are."""


@dataclass(frozen=True)
class Description:
    path: Path
    target: str
    tables: Mapping[str, TableDescription]
    groups: tuple[GroupDescription, ...]
    bare: frozenset[str] = frozenset()
    """Types of the distinct values of columns that have no features."""

    @property
    def nodes(self) -> tuple[TableDescription, ...]:
        """Tables whose rows are nodes."""
        return tuple(table for table in self.tables.values() if not table.is_edges)

    @property
    def values(self) -> tuple[str, ...]:
        """Types of the distinct values of columns."""
        targets = [target for table in self.tables.values() for target in table.links.values()]
        return tuple(dict.fromkeys(target for target in targets if target not in self.tables))


_TABLE = (
    *("path", "key", "time", "columns", "features", "document", "links", "reverse", "rows", "relation"),
    *("separator", "header", "encoding", "rename", "join"),
)
_JOIN = ("path", "key", "columns", "separator", "header", "encoding", "rename")


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
    description = Description(path, "", described, _groups(path, raw.get("relations") or [], described))
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
    return Description(path, target, described, description.groups, bare)


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
    features, document = (_names(path, f"{place}.{key}", raw.get(key)) for key in ("features", "document"))
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
    vectors = [column for column in table.columns or () if column.kind == "vector"]
    require(path, len(vectors) < 2, f"{place}.columns", [v.name for v in vectors], "one vector at most")
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
            file = path.parent / options["file"]
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
    for one in names:
        matched = sorted(glob.glob(str(path.parent / one))) if glob.has_magic(one) else [path.parent / one]
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


def _groups(path: Path, raw: Any, tables: Mapping[str, TableDescription]) -> tuple[GroupDescription, ...]:
    require(path, isinstance(raw, list), "relations", raw, "a list of objects")
    groups = []
    for i, one in enumerate(raw):
        place = f"relations[{i}]"
        check_keys(path, place, one, ("name", "of", "group", "ties", "tells"))
        for key in ("name", "of", "group"):
            value = one.get(key)
            require(path, isinstance(value, str) and bool(value), f"{place}.{key}", value, "a text")
        name, of, column, ties = one["name"], one["of"], one["group"], one.get("ties", "include")
        require(path, bool(NAME.fullmatch(name)), f"{place}.name", name, "letters, digits, _, - and .")
        nodes = [table.name for table in tables.values() if not table.is_edges]
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
    return tuple(groups)
