"""Pairs of users and items, in train, validation and test: what recommenders learn from.

Only pairs of train are edges. Those of validation and test are kept beside the rows, where nothing that reads
edges looks, so that no sampler, encoder or prompt can meet them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np

from netgpt.graphstore.dataset import Block, BuildConfig, Dataset, Facts, ReadReport, Source
from netgpt.graphstore.datasets.described import open_features
from netgpt.graphstore.datasets.interactions.describe import Described, describe, is_interactions
from netgpt.graphstore.datasets.interactions.pairs import ItemTable, Rows, kept_rows, read_items, read_rows
from netgpt.graphstore.datasets.interactions.splits import (
    NEED_TIMES,
    RULES,
    TEST,
    TRAIN,
    VAL,
    Rule,
    split_pairs,
)
from netgpt.graphstore.datasets.interactions.synthetic import made_rows, write_inter
from netgpt.graphstore.document_types import Document, Field
from netgpt.graphstore.errors import SourceError, StoreError
from netgpt.graphstore.files import Json, file_digest, value_digest
from netgpt.graphstore.schema import Column, EdgeType, NodeType, RelationType, Schema
from netgpt.graphstore.sort import CHUNK_EDGES, Piece
from netgpt.graphstore.store import Store

USER, ITEM = "user", "item"
TOOK: EdgeType = (USER, "took", ITEM)
TAKEN: EdgeType = (ITEM, "rev_took", USER)
HELD = {"val": VAL, "test": TEST}
_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class InteractionsConfig(BuildConfig):
    """How pairs are cut into parts, and which are left out before."""

    dataset: ClassVar[str] = "interactions"

    split: str = "auto"
    """random: of all pairs; user_random, user_time, last: of each user's; global_time: by one moment; given:
    as the source says; auto: given where it says it, else random."""
    ratio: str = "8:1:1"
    """Train, validation and test, of a split that is made."""
    split_seed: int = 0
    """Of a random split: another one, other parts."""
    least_stars: float = 0.0
    """Pairs with fewer are left out, where they have stars; 0: none are."""
    core: int = 0
    """Pairs that each user and item has at least; others are left out, again and again; 0: none are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("split", ("auto", "given", *RULES))
        if self.core < 0 or self.split_seed < 0:
            name = "core" if self.core < 0 else "split_seed"
            raise StoreError(f"{name}: found {getattr(self, name)}, expected a whole number from 0")
        _ = self.shares

    @property
    def shares(self) -> tuple[float, float, float]:
        """StoreError for what are no three parts."""
        try:
            numbers = [float(one) for one in self.ratio.split(":")]
        except ValueError:
            numbers = []
        total = sum(numbers)
        if len(numbers) != 3 or min(numbers) < 0 or not 0 < total < float("inf") or numbers[0] <= 0:
            raise StoreError(f"ratio: found {self.ratio!r}, expected such as 8:1:1")
        train, val, test = (one / total for one in numbers)
        return train, val, test


class Pairs(Source):
    """The pairs of a source, read whole: about 60 bytes a pair, and the ids of users and items."""

    def __init__(
        self,
        described: Described | None,
        config: InteractionsConfig,
        report: ReadReport | None = None,
        *,
        made: Rows | None = None,
        said: str = "",
    ) -> None:
        """made: rows that come from no file; said: what their digest is of."""
        self.described, self.config, self._made, self._said = described, config, made, said
        self.file = str(described.path) if described else said
        self.report = report if report is not None else ReadReport()
        timed, starred = (bool(described.time), bool(described.stars)) if described else (True, False)
        texts = described.items.texts if described else ()
        vectors = tuple(described.items.vectors) if described else ()
        self.schema = schema_of(texts, vectors, timed=timed, starred=starred)

    def digest(self) -> str:
        if self.described is None:
            return value_digest(self._said)
        return value_digest([file_digest(file) for file in self.described.sources])

    @property
    def _split(self) -> str:
        """The rule that is meant: given, or one of `RULES`. StoreError where the source cannot have it."""
        wanted, described = self.config.split, self.described
        is_given = described is not None and bool(described.split)
        if wanted == "auto":
            return "given" if is_given else "random"
        if wanted == "given" and not is_given:
            raise StoreError(f"split: found 'given', expected another: {self.file} says no parts")
        if wanted in NEED_TIMES and described is not None and not described.time:
            raise StoreError(f"split: found {wanted!r}, expected one without times: {self.file} has none")
        return wanted

    @cached_property
    def _items(self) -> ItemTable | None:
        return read_items(self.described) if self.described else None

    @cached_property
    def _rows(self) -> Rows:
        """What is kept, with its parts."""
        config, rule = self.config, self._split
        self.report.clear()
        if self.described is None:
            assert self._made is not None
            rows = self._made
        else:
            rows = read_rows(self.described, self._items, self.report)
        if rule != "given":
            rows = replace(rows, parts=None)
        fixed = self._items is not None
        rows = kept_rows(
            rows, least_stars=config.least_stars, core=config.core, fixed_items=fixed, report=self.report
        )
        parts = rows.parts
        if parts is None:
            pairs, shares = (rows.users, rows.items, rows.times), config.shares
            parts = split_pairs(*pairs, cast(Rule, rule), shares=shares, seed=config.split_seed)
        rows = replace(rows, parts=parts)
        if not (parts == TRAIN).any():
            raise SourceError(self.file, None, None, "no pair of train", "some")
        self._note(rows)
        return rows

    def _note(self, rows: Rows) -> None:
        """A line for what no model can learn from, or be measured on."""
        assert rows.parts is not None
        train = rows.parts == TRAIN
        of_user = np.bincount(rows.users[train], minlength=len(rows.user_ids))
        of_item = np.bincount(rows.items[train], minlength=len(rows.item_ids))
        for name, counts, ids in (("user", of_user, rows.user_ids), ("item", of_item, rows.item_ids)):
            if num := int((counts == 0).sum()):
                first = ids[int(np.argmin(counts))]
                some = f"{num:,} {name}s have" if num > 1 else f"1 {name} has"
                self.report.notes.append(
                    f"{some} no pair of train, such as {first!r}: measured apart, as cold"
                )
        if num := int((of_user == len(rows.item_ids)).sum()):
            first = rows.user_ids[int(np.argmax(of_user))]
            some = f"{num:,} users have" if num > 1 else "1 user has"
            self.report.notes.append(
                f"{some} all {len(rows.item_ids):,} items in train, such as {first!r}: left out of training, "
                "as no item is none of theirs"
            )

    @property
    def held_bytes(self) -> int:
        return 40 * len(self._rows)

    def attributes(self) -> Json:
        rows, counted = self._rows, dict(self.report.skipped)
        assert rows.parts is not None
        parts = {name: int((rows.parts == part).sum()) for name, part in (("train", TRAIN), *HELD.items())}
        return {"interactions": {"split": self._split, "pairs": parts, "left_out": counted}}

    def blocks(self) -> Iterator[Block]:
        rows, table = self._rows, self._items
        for first in range(0, len(rows.user_ids), _ROWS):
            yield Block(USER, {"id": rows.user_ids[first : first + _ROWS]})
        vectors = {name: open_features(str(file)) for name, file in (table.vectors if table else {}).items()}
        for first in range(0, len(rows.item_ids), _ROWS):
            last = min(first + _ROWS, len(rows.item_ids))
            columns: dict[str, Any] = {"id": rows.item_ids[first:last]}
            for name, texts in (table.texts if table else {}).items():
                columns[name] = texts[first:last]
            for name, x in vectors.items():
                values = x.read(first, last)
                if not np.isfinite(values).all():
                    row = first + int(np.argmin(np.isfinite(values).all(axis=1)))
                    raise SourceError(x.file, str(row), None, "a number that is not finite", "numbers")
                columns[name] = values
            yield Block(ITEM, columns)

    def edges(self, edge_type: EdgeType) -> Iterator[Piece]:
        rows = self._rows
        assert rows.parts is not None
        chosen = np.flatnonzero(rows.parts == TRAIN)
        for first in range(0, len(chosen), CHUNK_EDGES):
            own = chosen[first : first + CHUNK_EDGES]
            values = []
            if rows.times is not None and self.schema.relation_type(edge_type).time:
                values.append(rows.times[own])
            if rows.stars is not None:
                values.append(rows.stars[own].astype(np.float32))
            ends = (rows.users[own], rows.items[own])
            heads, tails = ends if edge_type == TOOK else ends[::-1]
            yield Piece(heads, tails, self.file, first, values=tuple(values))

    def held(self, edge_type: EdgeType, part: str) -> tuple[np.ndarray, np.ndarray]:
        rows = self._rows
        assert rows.parts is not None
        own = rows.parts == HELD[part]
        ends = (rows.users[own], rows.items[own])
        return ends if edge_type == TOOK else ends[::-1]


def schema_of(texts: tuple[str, ...], vectors: tuple[str, ...], *, timed: bool, starred: bool) -> Schema:
    """Users and items, what each item has as a node of its own, and the pairs in both directions."""
    columns = (Column("id", "id"), *(Column(name, "text") for name in texts))
    own = [NodeType(name=name, encoding="text", inputs=(name,), origin="each", of=ITEM) for name in texts]
    own += [NodeType(name=name, encoding="given", inputs=(name,), origin="each", of=ITEM) for name in vectors]
    time, numbers = "time" if timed else "", ("stars",) if starred else ()
    documents = (Document(ITEM, "", tuple(Field(name, cut=1) for name in texts)),) if texts else ()
    return Schema(
        target=USER,
        node_types=(
            NodeType(name=USER, columns=(Column("id", "id"),)),
            NodeType(name=ITEM, columns=columns),
            *own,
        ),
        relations=(
            RelationType(edge_type=TOOK, time=time, numbers=numbers, held=tuple(HELD)),
            RelationType(edge_type=TAKEN, time=time, numbers=numbers),
            *(RelationType(edge_type=(node.name, f"{node.name}_of", ITEM), column=node.name) for node in own),
        ),
        documents=documents,
    )


class Interactions(Dataset):
    """Users' pairs with items: MovieLens' files, NAME.inter, or any table with a column for each end."""

    name = "interactions"
    title = "pairs of users and items"
    unit = "pairs"
    Config = InteractionsConfig
    can_skip = False

    def reads(self, source: Path) -> bool:
        return is_interactions(source)

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
        settings = self._settings(config)
        return Pairs(describe(source), settings, report)

    def _settings(self, config: BuildConfig | None) -> InteractionsConfig:
        settings: InteractionsConfig = self.configured(config)
        if settings.on_error != "fail":
            raise StoreError(
                f"on_error: found {settings.on_error!r}, expected fail: no pair may be lost unsaid"
            )
        return settings

    def synthetic(self, scale: float, seed: int, config: BuildConfig | None = None) -> Source:
        said = f"interactions, scale {scale:g}, seed {seed}"
        return Pairs(None, self._settings(config), made=made_rows(scale, seed), said=said)

    def write_synthetic(self, path: Path, scale: float, seed: int) -> int:
        return write_inter(path, scale, seed)

    def facts(self, store: Store) -> Facts:
        counts = store.attributes["interactions"]
        shown = [(name, f"{store.num_nodes[name]:,}") for name in (USER, ITEM)]
        shown += [(f"pairs of {name}", f"{num:,}") for name, num in counts["pairs"].items()]
        return Facts(counts=(*shown, ("split", counts["split"])))
