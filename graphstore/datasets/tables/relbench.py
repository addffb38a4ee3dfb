"""RelBench's databases, folders of Parquet tables that say their keys, as descriptions of tables.

Each file's metadata has its primary key, its foreign keys and its time. Every row is a node, as in RelBench.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from netgpt.graphstore.datasets.described import parquet_schema, require
from netgpt.graphstore.schema import usable

_KEYS = (b"pkey_col", b"fkey_col_to_pkey_table", b"time_col")


def tables_of(folder: Path) -> list[Path]:
    """The Parquet files of a database: in the folder `db` of a data set, or in the folder itself."""
    for place in (folder / "db", folder):
        if files := sorted(place.glob("*.parquet")):
            return files
    return []


def is_database(folder: Path) -> bool:
    """Whether a folder's first table says its keys."""
    files = tables_of(folder) if folder.is_dir() else []
    return bool(files) and set(_KEYS) <= set(parquet_schema(files[0]).metadata or {})


def described(folder: Path) -> dict[str, Any]:
    """A description of tables, with paths from the folder's parent. StoreError for a table without keys."""
    tables: dict[str, Any] = {}
    for file in tables_of(folder):
        schema = parquet_schema(file)
        metadata = schema.metadata or {}
        for name in _KEYS:
            require(file, name in metadata, "metadata", "none", f"{name.decode()}, as RelBench writes it")
        key, links, time = (json.loads(metadata[name]) for name in _KEYS)
        renamed = {name: usable(name) for name in schema.names if usable(name) != name}
        table: dict[str, Any] = {
            "path": str(file.relative_to(folder.parent)),
            "columns": "auto",
            "rows": "nodes",
            "links": {renamed.get(column, column): usable(to) for column, to in links.items()},
        }
        for kind, column in (("key", key), ("time", time)):
            if column is not None:
                table[kind] = renamed.get(column, column)
        if renamed:
            table["rename"] = renamed
        tables[usable(file.stem)] = table
    return {"tables": tables}
