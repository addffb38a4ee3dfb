"""What a data set brings: the contract, and what its reports and sources are made of.

A data set is a class with the methods of `Dataset`, in a module of its own, found by a name of
`datasets/names.py` or as `package.module:Name`. It knows neither tasks nor models. It gives a `Source`: a
schema, blocks of columns, and edges where relations list them. All else (features, rows, appending, joining
in memory, checking) follows from the schema.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from netgpt.graphstore.errors import RecordError, StoreError
from netgpt.graphstore.features import Values
from netgpt.graphstore.files import Json
from netgpt.graphstore.json_stream import is_text
from netgpt.graphstore.relations import Layout
from netgpt.graphstore.schema import EdgeType, RelationType, Schema

if TYPE_CHECKING:
    from netgpt.graphstore.sort import Piece, Policy, RowStats
    from netgpt.graphstore.store import Graph, Store

OnError = Literal["fail", "skip"]


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """How a store is built, whatever the data set; a data set's own `Config` adds to it."""

    dataset: ClassVar[str] = ""
    """What the data set is found by, where a configuration is of one."""
    later: ClassVar[tuple[str, ...]] = ()
    """Settings that stores of before do not know: a store says them where they are not the default."""
    layout: Layout = "prefix"
    """Rows of groups: prefix: one list a group that rows are beginnings of; csr: each row written out."""
    encoder: str = "hash:256"
    """Text encoder: hash:DIM."""
    time_dim: int = 32
    """Width of encoded times, even."""
    on_error: OnError = "fail"
    """fail: the first bad record ends the build; skip: bad records are left out and counted."""

    def __post_init__(self) -> None:
        self.require("layout", ("csr", "prefix"))
        self.require("on_error", ("fail", "skip"))

    def said(self) -> dict[str, Any]:
        """As a store says it, by name."""
        default = {one.name: one.default for one in fields(self)}
        said = asdict(self)
        return {name: said[name] for name in said if name not in self.later or said[name] != default[name]}

    def require(self, name: str, allowed: tuple[str, ...]) -> None:
        """StoreError where a setting is none of those allowed."""
        if (value := getattr(self, name)) not in allowed:
            raise StoreError(f"{name}: found {value!r}, expected one of {', '.join(allowed)}")


@dataclass
class ReadReport:
    """What a read saw; `skipped` counts records left out, by field."""

    num_read: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    skipped_ids: set[str] = field(default_factory=set)
    first_skipped: str | None = None
    dangling: dict[str, int] = field(default_factory=dict)
    """Links to rows that are not there, which were left out, by their column."""
    imputed: dict[str, int] = field(default_factory=dict)
    """Numbers that were not there, and are 0, by field."""
    edges: dict[str, RowStats] = field(default_factory=dict)
    """What became of listed edges, by the relation's name."""
    notes: list[str] = field(default_factory=list)
    """What a person should know of rows that were taken, one line each."""

    @property
    def num_skipped(self) -> int:
        return sum(self.skipped.values())

    def skip(self, error: RecordError) -> None:
        """Count a record that is left out, by its id, which a later one must not have. An id that is no text
        (half of a surrogate pair) no later one can have."""
        self.count(error)
        if error.record is not None and is_text(error.record):
            self.skipped_ids.add(error.record)

    def count(self, error: RecordError) -> None:
        """Count a record that is left out and has no id."""
        key = error.field or "record"
        self.skipped[key] = self.skipped.get(key, 0) + 1
        self.first_skipped = self.first_skipped or str(error)

    def dangles(self, error: RecordError, num: int) -> None:
        """Count links that are left out; error: of the first of so many."""
        key = error.field or "link"
        self.dangling[key] = self.dangling.get(key, 0) + num
        self.first_skipped = self.first_skipped or str(error)

    def keep(self, imputed: Sequence[str] = ()) -> None:
        """Count a record that is taken, and its numbers that were not there."""
        self.num_read += 1
        for key in imputed:
            self.imputed[key] = self.imputed.get(key, 0) + 1

    def clear(self) -> None:
        """Count anew."""
        self.num_read, self.first_skipped = 0, None
        for counted in (self.skipped, self.skipped_ids, self.dangling, self.imputed, self.edges):
            counted.clear()
        self.notes.clear()


@dataclass(frozen=True)
class Block:
    """Some rows of a table: columns of one length, by name.

    The columns are those of the schema that the table's node type keeps, and the inputs of all types that are
    made of its rows. Texts are str; times, numbers and vectors arrays or lists; a category's empty text is no
    value. Rows of a child table give the number of the parent's row, counted from 0 in this source.
    """

    table: str
    columns: Mapping[str, Values]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


class Source:
    """One data set's rows, from a file or made. `blocks` may be called again and gives the same."""

    schema: Schema
    file: str
    """What messages call it."""
    report: ReadReport
    """Counts of the last pass over the blocks."""
    joins_store: bool = False
    """Whether `edges` and `group` are of a store's nodes and these rows' together, edges those alone that end
    in new nodes, so that rows of listed relations can join."""
    scratch: Path | None = None
    """A folder for what is worth keeping on disk while a store is built; the builder makes and removes it."""

    @property
    def held_bytes(self) -> int:
        """Memory that `edges` needs, so that the builder leaves it free."""
        return 0

    def attributes(self) -> Json:
        """What a store should keep of the source besides."""
        return {}

    def digest(self) -> str:
        """SHA-256 of what the rows come from."""
        raise NotImplementedError

    def blocks(self) -> Iterator[Block]:
        """The rows, parents before their children. Raises RecordError and SourceError for bad ones."""
        raise NotImplementedError

    def num_nodes(self) -> dict[str, int]:
        """Nodes of the types whose rows no block brings."""
        return {}

    def edges(self, edge_type: EdgeType) -> Iterator[Piece]:
        """The edges of a listed relation, the same in each call."""
        raise NotImplementedError

    def held(self, edge_type: EdgeType, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Heads and tails [n] of the pairs of a listed relation's part that are no edges; each once."""
        raise NotImplementedError

    def policy(self, edge_type: EdgeType) -> Policy:
        """What becomes of equal edges and self-loops of a listed relation."""
        from netgpt.graphstore.sort import Policy

        return Policy(same_type=edge_type[0] == edge_type[2])

    def group(
        self, relation: RelationType, num_nodes: int, memory_bytes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Key (−1 none) and time of all nodes, [N] int64 each, of a group that is no stored column's; of rows
        that join a store of those alone."""
        raise NotImplementedError


class HeldSource(Source):
    """Another source's rows, read once and kept in memory: for the few of a prediction."""

    def __init__(self, source: Source) -> None:
        self.schema, self.file, self.report = source.schema, source.file, source.report
        self.joins_store = source.joins_store
        self._source, self._blocks = source, list(source.blocks())

    def digest(self) -> str:
        return self._source.digest()

    def edges(self, edge_type: EdgeType) -> Iterator[Piece]:
        return self._source.edges(edge_type)

    def group(
        self, relation: RelationType, num_nodes: int, memory_bytes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._source.group(relation, num_nodes, memory_bytes)

    def blocks(self) -> Iterator[Block]:
        return iter(self._blocks)


@dataclass(frozen=True)
class Facts:
    """What a report shows of a store's data."""

    counts: tuple[tuple[str, str], ...] = ()
    """What there is, and how much of it, as text."""
    quantile_names: tuple[str, ...] = ()
    quantiles: tuple[tuple[str, tuple[float | None, ...]], ...] = ()
    """A measure, and its value at each quantile."""
    categories: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By title the nodes of each value as it is shown, the most frequent first."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published result on the test split; figures keep the digits that were printed."""

    name: str
    reads: str
    """What its model is given."""
    figures: Mapping[str, str]
    """By the metric's name."""
    main: bool = False
    """The row that is the reference for a run's own result."""


@dataclass(frozen=True)
class BatchNodes:
    """A mini-batch of one rank."""

    tails: int
    """Seeds and what is found before the last hop: nodes whose neighbours are sampled."""
    nodes: dict[str, int]
    edges: int


@dataclass(frozen=True, kw_only=True)
class GraphSize:
    """How large a graph is, for plans: a store's own numbers, or the published ones of a data set."""

    source: str
    """What the numbers are of, as a plan says it."""
    nodes: dict[str, int]
    rows: dict[str, int]
    """Distinct contents by node type."""
    dims: dict[str, int]
    item: dict[str, int]
    """Bytes of a stored number of the features."""
    schema: Schema
    train_states: int
    """Labelled examples of the train period."""
    longest_indices: int
    """Heads that the longest relation stores."""
    store_bytes: int
    edges: int
    batch: Callable[[int, int], BatchNodes]
    """One rank's mini-batch of so many seeds and fanout."""

    @property
    def target(self) -> str:
        return self.schema.target

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        return self.schema.edge_types

    @property
    def states(self) -> int:
        """Nodes of the target."""
        return self.nodes[self.target]


class Dataset:
    """The contract of a data set. What has a body here, most leave as it is."""

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str] = "rows"
    """What a build counts while it runs."""
    Config: ClassVar[type[BuildConfig]] = BuildConfig
    can_skip: ClassVar[bool] = True
    """Whether its sources know `on_error: skip`."""
    can_join: ClassVar[bool] = True
    """Whether new rows may join a store: not where its nodes are what lists of edges name."""
    thing: ClassVar[str] = ""
    """Category of the target whose values are things that several rows may be of, with one label: no row's
    history may show another of its own."""
    label_days: ClassVar[float] = 0.0
    """Days after a row came to be until its label is final."""
    published: ClassVar[tuple[Published, ...]] = ()

    def reads(self, source: Path) -> bool:
        """Whether a path is a source of this kind, by its name or its beginning."""
        return False

    def open(
        self,
        source: Path,
        config: BuildConfig | None = None,
        *,
        report: ReadReport | None = None,
        require_labels: bool = True,
        known_ids: Collection[str] = frozenset(),
        check_history: bool = True,
    ) -> Source:
        """The rows of a file. Nothing is read yet but what says the schema.

        require_labels: rows without a label are bad. known_ids: of the store that the rows join; they must
        not come again. check_history: rows that are referred to have to be there.
        """
        raise NotImplementedError

    def open_new(
        self, store: Store, source: Path, config: BuildConfig, report: ReadReport | None = None
    ) -> Source:
        """Rows of a file that join a store for prediction; their label may be absent."""
        known_ids = store.id_set(store.schema.target)
        return self.open(source, config, report=report, require_labels=False, known_ids=known_ids)

    def record_file(self, record: Mapping[str, Any], name: str) -> tuple[str, bytes]:
        """Suffix and bytes of a file that `open_new` reads one row from. record: the row as JSON; name: what
        messages call it. RecordError for one that no file can have."""
        return ".jsonl", json.dumps(record, ensure_ascii=False).encode() + b"\n"

    def is_synthetic(self, store: Store) -> bool:
        """Whether a store's rows are made ones, as far as they say so themselves."""
        return False

    def synthetic(self, scale: float, seed: int, config: BuildConfig | None = None) -> Source:
        """Made rows of the data set's shape, a pure function of scale and seed."""
        raise StoreError(f"{self.name}: found no synthetic rows of {self.title}, expected a file of its own")

    def write_synthetic(self, path: Path, scale: float, seed: int) -> int:
        """Write them as a file that `open` reads; returns the number of nodes of the target type."""
        raise StoreError(f"{self.name}: found no synthetic rows of {self.title}, expected a file of its own")

    def configured(self, config: BuildConfig | None) -> Any:
        """The settings as this data set's own `Config`, defaults for what they lack."""
        if config is None:
            return self.Config()
        if type(config) is self.Config:
            return config
        if type(config) is BuildConfig:
            return self.Config(**vars(config))
        raise StoreError(
            f"{type(config).__module__}.{type(config).__name__}: found settings of another data set, "
            f"expected those of {self.title}"
        )

    def upgrade(self, attributes: dict[str, Any]) -> dict[str, Any]:
        """Attributes of a store of format 1 or 2 as format 3 has them. ValueError, KeyError or TypeError
        where they are no such store's."""
        return attributes

    def derive(self, store: Store, node_type: str, name: str) -> np.ndarray:
        """A column that an older store does not have, from what it has. KeyError where it cannot be told."""
        raise KeyError(name)

    def cells(self, graph: Graph, nodes: np.ndarray) -> tuple[np.ndarray, ...] | None:
        """Cells that a lookup takes the median truth of, the finest first: [n] each; None without."""
        return None

    def statistics(self, store: Store, tokenizer: Path | None = None) -> dict[str, Any] | None:
        """The data set's own statistics of a store, as JSON."""
        return None

    def statistics_table(self, statistics: dict[str, Any]) -> str:
        """The same as text."""
        return ""

    def write_plots(self, statistics: dict[str, Any], folder: Path) -> list[Path]:
        """The same as PNG files; returns them."""
        raise StoreError(f"{self.name}: found no plots of {self.title}")

    def facts(self, store: Store) -> Facts:
        """What a report shows of a store's data. By default its nodes, and its target's categories."""
        node = store.schema.node_type(store.schema.target)
        categories = {}
        for column in (c for c in node.columns if c.kind == "category"):
            codes, values = store.category(node.name, column.name)
            counts = np.bincount(codes[codes >= 0], minlength=len(values))
            order = np.argsort(-counts, kind="stable")[:20].tolist()
            shown = {self.shown(column.name, values[i]): int(counts[i]) for i in order}
            categories[node.title_of(column.name)] = shown
        counts_shown = tuple((name, f"{num:,}") for name, num in store.num_nodes.items())
        return Facts(counts=counts_shown, categories=categories)

    def shown(self, column: str, value: str) -> str:
        """A category's value as a report shows it."""
        return value or "none"

    def sizes(
        self, config: BuildConfig, text_dim: int | None = None, video_dim: int | None = None
    ) -> GraphSize | None:
        """The published size, with features as the settings, or encoders of these widths, make them."""
        return None

    def commands(self) -> dict[str, Callable[..., None]]:
        """Commands of its own, by name: functions that typer reads."""
        return {}
