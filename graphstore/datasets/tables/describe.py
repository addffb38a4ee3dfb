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
                                         # times; by default the one vector, or all texts; never the label
        document: [title, genres, runtime]  # what prompts show, in this order; by default all texts and
                                         # categories; never the label. Of its newest neighbours too:
                                         # {newest: 3, of: review, show: [text]}
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
      - {name: is_similar_to, of: movie, nearest: [title, cover], k: 10, bank: {part: train}, apart: studio}

A link `studio` of `movie` is the relation movie/studio/studio and, unless `reverse: false`, its reverse
studio/rev_studio/movie, by which a movie hears of its studio; with `reverse: only` that alone. A table of
edges is user/likes/movie and movie/rev_likes/user. A group makes the edges of each node to those of the same
value that are not later (`ties: strict`: earlier). With `tells` the heads are no rows but nodes of a type of
their own, here rating_stars, which have those numbers of the earlier rows: so a row is told what the earlier
ones came to, and not what it came to itself. `nearest` makes the edges from the k rows whose texts or vectors
are most alike: earlier ones by the table's time (`time:` another time column, or false), of the bank, which
is all rows or those with a value of a category, and no two with one value of the category `apart`. Each edge
has its score.

Paths are relative to the description.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from netgpt.graphstore.datasets.tables.retrieval import NearestDescription

Kind = Literal["text", "number", "time", "category", "categories", "vector"]
KINDS: tuple[str, ...] = get_args(Kind)
SUFFIXES = (".parquet", ".csv", ".tsv", ".txt", ".data", ".item", ".jsonl", ".ndjson")
"""Names of files end so; what is neither Parquet nor JSON lines is text with separators."""
JSON_LINES = (".jsonl", ".ndjson")


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
    """Columns that prompts show, and names in `newest`. None: all texts and categories."""
    newest: Mapping[str, NewestDescription] = field(default_factory=dict)
    """By the name that prompts show."""
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
class NewestDescription:
    """A field of a document: what the newest neighbours have."""

    of: str
    """A relation that ends in the table's rows, as RELATION or TYPE/RELATION, or the type of its heads."""
    num: int
    show: tuple[str, ...] | None = None
    """Columns of the neighbours. None: their document, what is told of them, or their value."""


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
    nearest: tuple[NearestDescription, ...] = ()

    @property
    def nodes(self) -> tuple[TableDescription, ...]:
        """Tables whose rows are nodes."""
        return tuple(table for table in self.tables.values() if not table.is_edges)

    @property
    def values(self) -> tuple[str, ...]:
        """Types of the distinct values of columns."""
        targets = [target for table in self.tables.values() for target in table.links.values()]
        return tuple(dict.fromkeys(target for target in targets if target not in self.tables))
