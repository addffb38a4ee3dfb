"""GraphStorm's graph construction files (`gconstruct`, JSON) as descriptions of tables.

What each column becomes follows from what GraphStorm is told to make of it: a text of a tokenizer or a
language model, a category of `to_categorical`, a vector of Parquet's lists, else a number. Labels are columns
that are kept; how they are split is the recipe's. Links get their reverse relations, and types that no file
lists are the distinct values of links, known by themselves alone, as GraphStorm's learnt embeddings are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netgpt.graphstore.datasets.described import parquet_schema, require
from netgpt.graphstore.schema import usable

_TEXT = {"tokenize_hf", "bert_hf"}


def is_gconstruct(raw: Any) -> bool:
    """Whether a JSON file's content is a construction file: its nodes and edges are lists of files."""
    edges = raw.get("edges") if isinstance(raw, dict) else None
    return isinstance(edges, list) and any(
        "source_id_col" in edge for edge in edges if isinstance(edge, dict)
    )


def described(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """A description of tables; paths stay as they are. StoreError for what has no counterpart."""
    nodes, edges = raw.get("nodes") or [], raw["edges"]
    require(path, isinstance(nodes, list), "nodes", nodes, "a list of objects")
    tables: dict[str, Any] = {}
    target = ""
    for i, node in enumerate(nodes):
        place = f"nodes[{i}]"
        name = _text(path, place, node, "node_type")
        require(path, name not in tables, f"{place}.node_type", name, "each node type once")
        tables[name] = _node_table(path, place, node)
        target = target or (name if node.get("labels") else "")
    names = Counter(str(edge["relation"][1]) for edge in edges if isinstance(edge.get("relation"), list))
    for i, edge in enumerate(edges):
        place = f"edges[{i}]"
        relation = edge.get("relation")
        fits = isinstance(relation, list) and len(relation) == 3 and all(isinstance(r, str) for r in relation)
        require(path, fits, f"{place}.relation", relation, "[source, relation, destination]")
        src, name, dst = relation
        own = name if names[name] == 1 and name not in tables else "_".join(relation)
        require(path, own not in tables, f"{place}.relation", relation, "each relation once")
        tables[own] = _edge_table(path, place, edge)
        for end in (src, dst):
            tables.setdefault(end, {"features": []})
    return {"target": target or str(nodes[0]["node_type"] if nodes else ""), "tables": tables}


def _node_table(path: Path, place: str, node: Mapping[str, Any]) -> dict[str, Any]:
    table, types = _file(path, place, node)
    columns: dict[str, Any] = {}
    features, document = [], []
    for i, feature in enumerate(node.get("features") or []):
        for column in _columns(path, f"{place}.features[{i}]", feature):
            name = _named(table, column)
            columns[name] = _kind(feature, types.get(column))
            features.append(name)
            if columns[name] != "number" and columns[name] != "vector":
                document.append(name)
    for i, label in enumerate(node.get("labels") or []):
        if "label_col" in label:
            name = _named(table, _text(path, f"{place}.labels[{i}]", label, "label_col"))
            columns[name] = types.get(label["label_col"]) or "category"
            if label.get("task_type") == "regression":
                columns[name] = "number"
    if "node_id_col" in node:
        table["key"] = _named(table, _text(path, place, node, "node_id_col"))
    return {**table, "columns": columns, "features": features, "document": document, "rows": "nodes"}


def _edge_table(path: Path, place: str, edge: Mapping[str, Any]) -> dict[str, Any]:
    """Features and labels of edges are their numbers."""
    table, _ = _file(path, place, edge)
    src, name, dst = edge["relation"]
    ends = [_text(path, place, edge, key) for key in ("source_id_col", "dest_id_col")]
    wanted = [
        c
        for i, one in enumerate(edge.get("features") or [])
        for c in _columns(path, f"{place}.features[{i}]", one)
    ]
    wanted += [one["label_col"] for one in edge.get("labels") or [] if "label_col" in one]
    links = {_named(table, ends[0]): src, _named(table, ends[1]): dst}
    columns = {_named(table, column): "number" for column in wanted}
    return {**table, "rows": "edges", "columns": columns, "links": links, "relation": {"name": name}}


def _file(path: Path, place: str, one: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Where a table is; and of Parquet the kinds that its columns' types are."""
    form = one.get("format") or {}
    name = form.get("name")
    require(path, name in ("parquet", "csv"), f"{place}.format.name", name, "parquet or csv")
    files = one.get("files")
    table: dict[str, Any] = {"path": files}
    if name == "csv":
        return {**table, "separator": form.get("separator", ",")}, {}
    return table, _types(path, place, files)


def _types(path: Path, place: str, files: Any) -> dict[str, str]:
    from netgpt.graphstore.datasets.tables.parse import files_of
    from netgpt.graphstore.datasets.tables.read import guessed_kind

    first = files_of(path, f"{place}.files", files)[0]
    kinds = {field.name: guessed_kind(field.type) for field in parquet_schema(first)}
    return {name: "category" if kind == "text" else kind for name, kind in kinds.items() if kind}


def _columns(path: Path, place: str, feature: Mapping[str, Any]) -> Sequence[str]:
    column = feature.get("feature_col")
    columns = [column] if isinstance(column, str) else column
    fits = isinstance(columns, list) and len(columns) > 0 and all(isinstance(one, str) for one in columns)
    require(path, fits, f"{place}.feature_col", column, "a column, or a list of them")
    assert isinstance(columns, list)
    return columns


def _kind(feature: Mapping[str, Any], kind: str | None) -> Any:
    """What a column is. kind: by its type, where a file says types."""
    transform = feature.get("transform") or {}
    name = transform.get("name")
    if name in _TEXT:
        return "text"
    if name == "to_categorical":
        return {"categories": transform["separator"]} if transform.get("separator") else "category"
    return kind or "number"


def _named(table: dict[str, Any], column: str) -> str:
    """What a column is called here; noted in the table where the file calls it otherwise."""
    name = usable(column)
    if name != column:
        table.setdefault("rename", {})[column] = name
    return name


def _text(path: Path, place: str, value: Mapping[str, Any], key: str) -> str:
    found = value.get(key) if isinstance(value, dict) else None
    require(path, isinstance(found, str) and bool(found), f"{place}.{key}", found, "a text")
    return str(found)
