"""Released records said as tables: the same 17 relations, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from netgpt import graphstore
from netgpt.graphstore import EdgeType, Store
from netgpt.graphstore.datasets import names
from netgpt.graphstore.datasets.xsvideo.schema import SCALARS, Config

EACH = ("title", "description", "time", "ctime", *SCALARS)
RELATION = {"time": "is_post_time_of", "ctime": "is_current_time_of", "video_time": "is_duration_time_of"}
TEXTS = ("title", "description")


def table_of_each(name: str) -> str:
    """A row for each video, with what it has of one column, that links to it."""
    kind = "text" if name in TEXTS else "time" if name in ("time", "ctime") else "number"
    link = RELATION.get(name, f"is_{name}_of")
    return f"""
  {name}:
    path: video.parquet
    rows: nodes
    rename: {{id: {link}}}
    columns: {{{name}: {kind}}}
    features: [{name}]
    links: {{{link}: video}}
    reverse: false"""


DESCRIPTION = f"""
target: video
tables:
  video:
    path: video.parquet
    key: id
    time: ctime
    columns: {{label: number, url: category, author: category}}
    features: []
    links: {{platform: platform, topic: topic}}
  comment:
    path: comment.parquet
    rows: nodes
    columns: {{text: text, time: time}}
    links: {{is_comment_of: video}}
    reverse: false
{"".join(map(table_of_each, EACH))}
relations:
  - {{name: has_same_author_as, of: video, group: author, ties: TIES}}
  - {{name: has_same_topic_as, of: video, group: topic, ties: TIES}}
  - {{name: is_history_of, of: video, group: url, ties: strict}}
"""


def write_tables(records: Path, folder: Path, ties: str) -> Path:
    """What the reader of records gives, as two files of Parquet."""
    source = names.load("xsvideo").open(records, Config(ties=ties))
    columns: dict[str, dict[str, list[Any]]] = {"video": {}, "comment": {}}
    for block in source.blocks():
        for name, values in block.columns.items():
            columns[block.table].setdefault(name, []).extend(list(values))
    comments = columns["comment"]
    ids = columns["video"]["id"]
    comments["is_comment_of"] = [ids[i] for i in comments.pop("video")]
    for name, table in columns.items():
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
    (folder / "graph.yaml").write_text(DESCRIPTION.replace("TIES", ties))
    return folder / "graph.yaml"


def rows_of(store: Store, edge_type: EdgeType, heads: list[str] | None) -> list[list[Any]]:
    """Heads of each tail in their order, by name where they have names."""
    indptr, indices = store.relation(edge_type).to_csr(np.int64)
    named = indices.tolist() if heads is None else [heads[i] for i in indices.tolist()]
    return [named[a:b] for a, b in zip(indptr[:-1].tolist(), indptr[1:].tolist(), strict=True)]


@pytest.mark.parametrize("ties", ["include", "strict"])
def test_the_same_17_relations_row_by_row(ties: str, records_path: Path, tmp_path: Path) -> None:
    config = Config(encoder="hash:8", time_dim=4, video_dim=1, ties=ties)
    graphstore.build(records_path, tmp_path / "records", config)
    graphstore.build(write_tables(records_path, tmp_path, ties), tmp_path / "tables")
    records, tables = (graphstore.open(tmp_path / name) for name in ("records", "tables"))
    assert len(records.edge_types) == 17
    assert list(records.node_ids("video")) == list(tables.node_ids("video"))
    num_edges = 0
    for edge_type in records.edge_types:
        head, name, _ = edge_type
        if head in ("platform", "topic"):
            ours = rows_of(tables, (head, f"rev_{head}", "video"), list(tables.node_ids(head)))
            theirs = rows_of(records, edge_type, list(records.category("video", head)[1]))
        else:
            ours, theirs = (rows_of(store, edge_type, None) for store in (tables, records))
        assert ours == theirs, name
        num_edges += sum(map(len, ours))
    assert num_edges == sum(records.num_edges.values()) > 0
