"""The token cache: every record of a store as tokens, made once, mapped by every rank.

A Zarr group of four arrays, ragged twice: records of fields, fields of tokens. Its attributes are the
digests of the store and of everything that the tokens depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from netgpt.graphstore import Store
from netgpt.graphstore.arrays import ArrayWriter, map_array
from netgpt.graphstore.documents import documents
from netgpt.graphstore.files import read_json
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.text.prompt import PromptBuilder, RecordTokens

ARRAYS: dict[str, Any] = {
    "ids": np.int32,
    "piece_end": np.int64,
    "piece_field": np.int8,
    "record_end": np.int64,
}
"""Tokens of all pieces; where each piece ends among them; its field; where each record's pieces end."""
BLOCK = 4096
"""Records tokenised at once."""
COUNTS = ("records", "tokens", "records_with_fewer_items", "records_with_cut_texts")


@dataclass(frozen=True)
class Tokens:
    """Tokens of the records of nodes `first`, `first` + 1, …"""

    ids: np.ndarray
    piece_end: np.ndarray
    piece_field: np.ndarray
    record_end: np.ndarray
    first: int = 0

    @staticmethod
    def of(records: Sequence[RecordTokens], first: int = 0) -> Tokens:
        """In memory: for states that are in no store."""
        ends = np.cumsum([0, *(len(r.ids) for r in records)])
        none: list[np.ndarray] = [np.empty(0, np.int64)]
        return Tokens(
            np.concatenate([*none, *(r.ids for r in records)]).astype(np.int32),
            np.concatenate([*none, *(r.ends + end for r, end in zip(records, ends, strict=False))]),
            np.concatenate([*none, *(r.fields for r in records)]).astype(np.int8),
            np.cumsum([len(r.ends) for r in records], dtype=np.int64),
            first,
        )

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray], first: int = 0) -> Tokens:
        """By the names of ARRAYS."""
        ids, piece_end, piece_field, record_end = (arrays[name] for name in ARRAYS)
        return Tokens(ids, piece_end, piece_field, record_end, first)

    def __len__(self) -> int:
        return len(self.record_end)

    def record(self, node: int) -> RecordTokens:
        """Tokens of one node, by its number."""
        row = node - self.first
        a, b = int(self.record_end[row - 1]) if row else 0, int(self.record_end[row])
        begin = int(self.piece_end[a - 1]) if a else 0
        ends = np.asarray(self.piece_end[a:b])
        end = int(ends[-1]) if b > a else begin
        return RecordTokens(np.asarray(self.ids[begin:end]), ends - begin, np.asarray(self.piece_field[a:b]))

    def prompt_lengths(
        self, nodes: np.ndarray, builder: PromptBuilder, hidden: np.ndarray | None = None
    ) -> np.ndarray:
        """Tokens of the prompts that `builder` makes of them: [n] int64, none of which is made for it.

        nodes [n]: node numbers. hidden [n, fields] bool: fields that are left out.
        """
        rows = nodes - self.first
        last = np.asarray(self.record_end)[rows]
        begin = np.where(rows > 0, np.asarray(self.record_end)[np.maximum(rows, 1) - 1], 0)
        num = last - begin
        sample = np.repeat(np.arange(len(rows)), num)
        piece = np.arange(int(num.sum())) + np.repeat(begin - (np.cumsum(num) - num), num)
        size = np.asarray(self.piece_end)[piece] - np.where(
            piece > 0, np.asarray(self.piece_end)[np.maximum(piece, 1) - 1], 0
        )
        kept = np.ones(len(piece), bool)
        if hidden is not None:
            kept = ~hidden[sample, np.asarray(self.piece_field)[piece]]
        total = np.bincount(sample[kept], size[kept], len(rows)).astype(np.int64)
        fields = np.bincount(sample[kept], minlength=len(rows))
        return builder.num_fixed + total + builder.num_between * np.maximum(fields - 1, 0)


@dataclass(frozen=True)
class TokenBlock:
    """Tokens of consecutive records, and how many of them were shortened."""

    tokens: Tokens
    fewer_items: int
    cut_texts: int


def tokenize_block(store: Store, builder: PromptBuilder, first: int, last: int) -> TokenBlock:
    """Tokens of the records of the nodes from `first`, below `last`."""
    records = builder.tokenize(documents(store, builder.document, range(first, last)))
    return TokenBlock(
        Tokens.of(records, first),
        sum(r.dropped_items for r in records),
        sum(r.cut_characters > 0 for r in records),
    )


def blocks_of(store: Store) -> list[tuple[int, int]]:
    """First and last node of the target's blocks, half open."""
    num = store.num_nodes[store.schema.target]
    return [(first, min(first + BLOCK, num)) for first in range(0, num, BLOCK)]


def cache_attributes(store: Store, builder: PromptBuilder) -> dict[str, str]:
    """What a token cache is of."""
    return {"store": store.digest, "tokens_of": builder.digest}


def write_tokens(folder: Path, blocks: Iterable[TokenBlock], attributes: dict[str, str]) -> dict[str, int]:
    """Write the cache under `folder`, a Zarr group, front to back; what was written, by COUNTS."""
    counts = dict.fromkeys(COUNTS, 0)
    num_tokens = num_pieces = 0
    with (
        ArrayWriter(folder, "ids", np.int32) as ids,
        ArrayWriter(folder, "piece_end", np.int64) as piece_end,
        ArrayWriter(folder, "piece_field", np.int8) as piece_field,
        ArrayWriter(folder, "record_end", np.int64) as record_end,
    ):
        for block in blocks:
            part = block.tokens
            ids.append(part.ids)
            piece_end.append(part.piece_end + num_tokens)
            piece_field.append(part.piece_field)
            record_end.append(part.record_end + num_pieces)
            num_tokens, num_pieces = num_tokens + len(part.ids), num_pieces + len(part.piece_end)
            counts["records"] += len(part)
            counts["records_with_fewer_items"] += block.fewer_items
            counts["records_with_cut_texts"] += block.cut_texts
    counts["tokens"] = num_tokens
    zarr.open_group(str(folder), mode="a").attrs.update(attributes)
    return counts


def open_tokens(folder: Path, attributes: dict[str, str]) -> Tokens:
    """Map a cache. TrainerError where it is of another store, tokenizer, template or limit."""
    path = folder / "zarr.json"
    kept = read_json(path).get("attributes", {}) if path.exists() else {}
    for name, digest in attributes.items():
        if kept.get(name) != digest:
            what = "store" if name == "store" else "tokenizer, template or limits"
            raise TrainerError(
                f"{folder}: found tokens of another {what} ({str(kept.get(name))[:12]}), expected "
                f"{digest[:12]}; run again: netgpt tokenize"
            )
    return Tokens.from_arrays({name: map_array(folder, name) for name in ARRAYS})
