"""New states join a store's graph in memory, for prediction.

The store's own rows stay as they are: no new head enters them, so what was computed for its nodes
stays true. Rows of new states run over the store's states and the new ones together, by the same
rule and in the same order as if all had been built at once.

Legend: N states of the store, M new states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from netgpt.graphstore.errors import RecordError
from netgpt.graphstore.features import (
    Features,
    NoVideos,
    TextEncoder,
    VideoEncoder,
    encode_scalar,
    encode_time,
    text_encoder,
)
from netgpt.graphstore.relations import Relation, prefix_rows
from netgpt.graphstore.schema import EdgeType, RelationType
from netgpt.graphstore.store import RECORD_KEYS as KEYS
from netgpt.graphstore.store import Graph, Store
from netgpt.graphstore.xsvideo.nodes import (
    RecordColumns,
    Vocabulary,
    comment_features,
    require_encoders,
    video_features,
)
from netgpt.graphstore.xsvideo.records import Record
from netgpt.graphstore.xsvideo.schema import PER_STATE, SCALARS


class _Chained(Sequence[str]):
    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        n = len(self._first)
        return self._first[index] if index < n else self._second[index - n]

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class ExtendedGraph(Graph):
    """A store with M new video nodes, numbered N to N + M − 1 in the order of `records`.

    Raises RecordError for an id that the store already has. `file` names the records' source in
    messages. `text` and `video` make the new states' vectors; StoreError where they are not the store's
    encoders. By default the text encoder that the store names, and no videos.
    """

    def __init__(
        self,
        store: Store,
        records: Sequence[Record],
        *,
        file: str,
        text: TextEncoder | None = None,
        video: VideoEncoder | None = None,
    ) -> None:
        self._text = text or text_encoder(store.attributes["encoders"]["text"])
        self._video = video or NoVideos(store.features("video").dim)
        require_encoders(store, self._text.name, self._video.name if video else None)
        known = set(store.ids)
        for record in records:
            if record.id in known:
                found = "an id that the store already has"
                raise RecordError(file, record.id, "id", found, "ids of new states")
        self.store, self.schema = store, store.schema
        self.columns = RecordColumns(tuple(records))
        self.num_old, self.num_new = store.num_nodes["video"], len(records)
        self.new = np.arange(self.num_old, self.num_old + self.num_new)
        """Node numbers of the new states: [M]."""
        self.ids = _Chained(store.ids, [r.id for r in records])
        self.texts = _Chained(store.texts, [r.text for r in records])
        self._keys = {name: self._joined_key(name) for name in KEYS}
        self._time = np.concatenate([store.sampling_time, self.columns.int64(lambda r: r.sampling_time)])
        self.num_nodes = {
            "video": self.num_old + self.num_new,
            **dict.fromkeys(PER_STATE, self.num_old + self.num_new),
            **{name: len(self._keys[name][1]) for name in ("platform", "topic")},
            "comment": store.num_nodes["comment"] + sum(len(r.comments) for r in records),
        }
        self._features = {name: self._joined_features(name) for name in self.node_types}
        self._relations = {r.edge_type: self._joined_relation(r) for r in self.schema.relations}

    def relation(self, edge_type: EdgeType) -> Relation:
        return self._relations[edge_type]

    def features(self, node_type: str) -> Features:
        return self._features[node_type]

    @property
    def times(self) -> dict[str, np.ndarray]:
        return {"video": self._time}

    def check_unchanged(self) -> None:
        self.store.check_unchanged()

    def _joined_key(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Codes of all states [N + M] and the vocabulary; new values follow the store's."""
        codes, values = self.store.key(name)
        vocabulary = Vocabulary(values)
        new = [vocabulary.code(getattr(r, name)) for r in self.columns.records]
        return np.concatenate([codes, np.array(new, np.int32)]), list(vocabulary.codes)

    def _joined_features(self, name: str) -> Features:
        old = self.store.features(name)
        x = self._new_rows(name).astype(old.dtype)
        # The store's distinct rows are copied: prediction is the one place that pays for it
        rows = None if old.x_row is None else np.concatenate([old.x_row, old.num_rows + np.arange(len(x))])
        return Features(self.num_nodes[name], np.concatenate([old.x, x]), rows)

    def _new_rows(self, name: str) -> np.ndarray:
        records, dim = self.columns.records, self.store.features(name).dim
        if name == "video":
            return video_features([r.url for r in records], self._video)
        if name in SCALARS:
            return encode_scalar(self.columns.scalar(name))
        if name == "time":
            return encode_time(self.columns.int64(lambda r: r.post_time), dim)
        if name == "ctime":
            return encode_time(self.columns.int64(lambda r: r.sampling_time), dim)
        text = self._text
        if name == "comment":
            return comment_features(records, text, self.store.attributes["time_dim"])
        if name in ("platform", "topic"):
            return text.encode(self._keys[name][1][self.store.num_nodes[name] :])
        return text.encode([getattr(r, name) for r in records])

    def _joined_relation(self, relation: RelationType) -> Relation:
        """The store's rows over its own `indices`, then the new rows over a second part of it."""
        old = self.store.relation(relation.edge_type)
        src = relation.edge_type[0]
        rank = None
        if relation.group_by is not None:
            code = self._keys[relation.group_by][0]
            touched = np.isin(code, np.unique(code[self.new]))
            rows = prefix_rows(np.where(touched, code, -1), self._time, strict=relation.strict)
            indices, begin, end = rows.indices, rows.begin[self.new], rows.end[self.new]
            rank = rows.rank[self.new]
        else:
            if src in ("platform", "topic"):
                code = self._keys[src][0][self.new]
                indices, length = code[code >= 0], (code >= 0).astype(np.int64)
            elif src == "comment":
                length = np.array([len(r.comments) for r in self.columns.records], np.int64)
                indices = self.store.num_nodes["comment"] + np.arange(length.sum())
            else:
                indices, length = self.new, np.ones(self.num_new, np.int64)
            end = np.cumsum(length)
            begin = end - length
        offset = len(old.indices)
        if old.rank is None and rank is None:
            joined_rank = None
        else:  # a csr row holds no own node: a rank behind every row's end says so
            none = np.full(self.num_old, np.iinfo(np.int32).max, np.int32)
            joined_rank = np.concatenate([none if old.rank is None else old.rank, rank])  # type: ignore[list-item]
        return Relation(
            relation.edge_type,
            old.layout if joined_rank is None else "prefix",
            np.concatenate([old.indices, indices.astype(old.indices.dtype)]),
            np.concatenate([old.begin, begin + offset]),
            np.concatenate([old.end, end + offset]),
            joined_rank,
        )
