"""Graphs that Python holds, as files with a description: tables of pandas and Arrow, PyG's, networkx's.

What is written is what one would write by hand, so that `netgpt data|build|run` take it, and so that
features, documents and links can be changed in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import atomic_dir, refuse_existing
from netgpt.graphstore.schema import usable

if TYPE_CHECKING:
    import networkx
    import pandas
    import pyarrow
    from torch_geometric.data import Data, HeteroData

    Table: TypeAlias = pandas.DataFrame | pyarrow.Table | Mapping[str, Sequence[Any] | np.ndarray]

_SPLITS = ("train", "val", "test")


def write_tables(
    folder: Path | str, tables: Mapping[str, Table], description: Mapping[str, Any] | None = None
) -> Path:
    """Write tables as Parquet, and `graph.yaml` beside them; returns its path.

    tables: by name pandas' data frames (without their index), Arrow's tables, or columns by name.
    description: `target`, `tables` and `relations` as the file has them, without paths; a table of which
    nothing is said has all columns by their types. StoreError where the folder is taken, and for what the
    file could not say.
    """
    said = dict(description or {})
    about = dict(said.get("tables") or {})
    for name in tables:
        about[name] = {"columns": "auto", **about.get(name, {})}
    return _write(Path(folder), {**said, "tables": about}, tables, {})


def write_hetero_data(folder: Path | str, data: HeteroData | Data, target: str | None = None) -> Path:
    """Write PyG's graph as tables and a description; returns its path.

    Of nodes: `x` [N, D] are the features; other tensors [N] are number columns, `time` a time, lists of N
    texts are texts, and `train_mask`, `val_mask` and `test_mask` become the column `split` of train, val and
    test. Of edges: `edge_index`, `time`, and tensors [E] or [E, k] as numbers. Edges stay as they are: none
    is made in the other direction. Nodes are called by their numbers. target: by default the first type with
    `y`, or the first. StoreError for attributes of other kinds.
    """
    if not hasattr(data, "node_types"):
        data = data.to_heterogeneous(node_type_names=["node"], edge_type_names=[("node", "to", "node")])
    tables: dict[str, Table] = {}
    vectors: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    for name in data.node_types:
        tables[name], kinds = _node_columns(name, data[name], vectors)
        features = ["x"] if "x" in kinds else []
        about[name] = {"key": "id", "columns": kinds, "features": features, "rows": "nodes", **_time(kinds)}
    for edge_type in data.edge_types:
        name = "_".join(edge_type)
        tables[name], kinds = _edge_columns(edge_type, data[edge_type])
        about[name] = _edge_table(edge_type, kinds, reverse=False)
    labelled = [name for name in data.node_types if "y" in data[name]]
    first = target or (labelled or list(data.node_types))[0]
    return _write(Path(folder), {"target": first, "tables": about}, tables, vectors)


def write_networkx(
    folder: Path | str, graph: networkx.Graph, target: str | None = None, *, type_attribute: str = "type"
) -> Path:
    """Write networkx's graph as tables and a description; returns its path.

    type_attribute: of nodes and edges what they are, by default `node` and `edge`. Nodes are called by their
    names as texts. Their attributes are number columns, texts or, where they are lists of numbers, features;
    those of edges are numbers, and `time` a time. An edge without direction is there both ways. target: by
    default the first node's type. StoreError for attributes of other kinds.
    """
    type_of = {node: str(d.get(type_attribute, "node")) for node, d in graph.nodes(data=True)}
    if not type_of:
        raise StoreError("networkx: found a graph without nodes, expected some")
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for node, attributes in graph.nodes(data=True):
        own = {k: v for k, v in attributes.items() if k != type_attribute}
        rows.setdefault(type_of[node], {})[str(node)] = own
    tables: dict[str, Table] = {}
    vectors: dict[str, np.ndarray] = {}
    about: dict[str, Any] = {}
    for name, nodes in rows.items():
        columns: dict[str, Any] = {"id": list(nodes)}
        kinds: dict[str, Any] = {}
        for attribute in dict.fromkeys(key for values in nodes.values() for key in values):
            values = [one.get(attribute) for one in nodes.values()]
            kind = kinds[usable(attribute)] = _kind(f"{name}.{attribute}", values)
            if kind == "vector":
                file = f"{name}.{usable(attribute)}.npy"
                vectors[file] = _vectors(f"{name}.{attribute}", values)
                kinds[usable(attribute)] = {"vector": file}
            else:
                columns[usable(attribute)] = values
        tables[name] = columns
        about[name] = {"key": "id", "columns": kinds, "rows": "nodes"}
    edges: dict[tuple[str, str, str], list[tuple[str, str, Mapping[str, Any]]]] = {}
    for one, other, attributes in graph.edges(data=True):
        ends = [(type_of[one], str(one)), (type_of[other], str(other))]
        if not graph.is_directed():
            ends.sort()
        (src, head), (dst, tail) = ends
        list_of = edges.setdefault((src, str(attributes.get(type_attribute, "edge")), dst), [])
        list_of.append((head, tail, attributes))
        if not graph.is_directed() and src == dst and head != tail:
            list_of.append((tail, head, attributes))
    for (src, relation, dst), list_of in edges.items():
        name = "_".join((src, relation, dst))
        columns = {"src": [e[0] for e in list_of], "dst": [e[1] for e in list_of]}
        kinds = {}
        for attribute in dict.fromkeys(key for e in list_of for key in e[2] if key != type_attribute):
            values = [e[2].get(attribute) for e in list_of]
            if (kind := _kind(f"{name}.{attribute}", values)) != "number":
                raise StoreError(f"networkx: edges {name}: {attribute}: found {kind}, expected numbers")
            kinds[usable(attribute)] = _kind_of_numbers(attribute)
            columns[usable(attribute)] = values
        reverse = graph.is_directed() or src != dst
        about[name] = _edge_table((src, usable(relation), dst), kinds, reverse=reverse)
        tables[name] = columns
    return _write(Path(folder), {"target": target or next(iter(rows)), "tables": about}, tables, vectors)


def _edge_table(
    edge_type: tuple[str, str, str], kinds: Mapping[str, Any], *, reverse: bool
) -> dict[str, Any]:
    """What is said of a table of edges whose ends are its columns src and dst."""
    src, relation, dst = edge_type
    return {
        "rows": "edges",
        "columns": kinds,
        "links": {"src": src, "dst": dst},
        "relation": {"name": relation},
        "reverse": reverse,
        **_time(kinds),
    }


def _time(kinds: Mapping[str, Any]) -> dict[str, str]:
    return {"time": "time"} if "time" in kinds else {}


def _kind_of_numbers(name: str) -> str:
    return "time" if name == "time" else "number"


def _write(
    folder: Path,
    description: Mapping[str, Any],
    tables: Mapping[str, Table],
    vectors: Mapping[str, np.ndarray],
) -> Path:
    """All files at once, once the description was read and found to mean something."""
    import pyarrow.parquet as pq
    import yaml

    from netgpt.graphstore.datasets.tables.parse import read_description

    refuse_existing(folder)
    about = {
        name: {"path": f"{name}.parquet", **table} if name in tables else table
        for name, table in description["tables"].items()
    }
    said = {**description, "tables": about}
    with atomic_dir(folder) as root:
        for name, table in tables.items():
            pq.write_table(_arrow(name, table), root / f"{name}.parquet")
        for name, x in vectors.items():
            np.save(root / name, x)
        path = root / "graph.yaml"
        path.write_text(yaml.safe_dump(said, sort_keys=False, allow_unicode=True), encoding="utf-8")
        try:
            read_description(path)
        except StoreError as error:
            raise StoreError(str(error).replace(str(root), str(folder))) from error
    return folder / "graph.yaml"


def _arrow(name: str, table: Table) -> pyarrow.Table:
    import pyarrow as pa

    if isinstance(table, pa.Table):
        return table
    try:
        if isinstance(table, Mapping):
            return pa.table({column: pa.array(values) for column, values in table.items()})
        return pa.Table.from_pandas(table, preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise StoreError(
            f"table {name}: found {' '.join(str(error).split())[:200]}, expected columns"
        ) from error


def _node_columns(
    name: str, store: Any, vectors: dict[str, np.ndarray]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Columns of a type's nodes, and their kinds; `x` goes to the vectors, by file."""
    num = store.num_nodes
    if num is None:
        raise StoreError(f"{name}: found no x and no num_nodes, expected the number of nodes")
    columns: dict[str, Any] = {"id": np.arange(num)}
    kinds: dict[str, Any] = {}
    split = np.full(num, "", object)
    for key, value in store.items():
        place = f"{name}.{key}"
        if key == "x":
            vectors[f"{name}.npy"] = _array(place, value, num, 2).astype(np.float32)
            kinds["x"] = {"vector": f"{name}.npy"}
        elif key in ("num_nodes", "n_id"):
            continue
        elif key.removesuffix("_mask") in _SPLITS and key.endswith("_mask"):
            split[_array(place, value, num, 1).astype(bool)] = key.removesuffix("_mask")
            columns["split"], kinds["split"] = split, "category"
        elif isinstance(value, list | tuple) and len(value) == num and all(isinstance(v, str) for v in value):
            columns[usable(key)], kinds[usable(key)] = list(value), "text"
        else:
            columns[usable(key)] = _array(place, value, num, 1)
            kinds[usable(key)] = _kind_of_numbers(key)
    return columns, kinds


def _edge_columns(edge_type: tuple[str, str, str], store: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    place = "/".join(edge_type)
    if "edge_index" not in store:
        raise StoreError(f"{place}: found no edge_index, expected one [2, edges] (adj_t is not read)")
    src, dst = np.asarray(store["edge_index"])
    columns: dict[str, Any] = {"src": src, "dst": dst}
    kinds: dict[str, Any] = {}
    for key, value in store.items():
        if key == "edge_index":
            continue
        x = value if hasattr(value, "detach") else np.asarray(value)
        if x.ndim == 2 and x.shape[1] > 1:
            for k in range(x.shape[1]):
                columns[f"{usable(key)}_{k}"] = _array(f"{place}.{key}", x[:, k], len(src), 1)
                kinds[f"{usable(key)}_{k}"] = "number"
        else:
            columns[usable(key)] = _array(f"{place}.{key}", x, len(src), 1)
            kinds[usable(key)] = _kind_of_numbers(key)
    return columns, kinds


def _array(place: str, value: Any, num: int, ndim: int) -> np.ndarray:
    """A tensor or array of numbers with a row for each of `num`."""
    x = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if x.ndim == ndim + 1 and x.shape[-1] == 1 and ndim == 1:
        x = x[:, 0]
    if x.ndim != ndim or len(x) != num or x.dtype.kind not in "biuf":
        shape = f"[{num}, width]" if ndim == 2 else f"[{num}]"
        raise StoreError(f"{place}: found {x.dtype} {list(x.shape)}, expected numbers {shape}")
    return x


def _kind(place: str, values: Iterable[Any]) -> str:
    """What attributes are; None is no value."""
    kinds = {
        "number"
        if isinstance(value, bool | int | float | np.number)
        else "text"
        if isinstance(value, str)
        else "vector"
        if isinstance(value, list | tuple | np.ndarray)
        else type(value).__name__
        for value in values
        if value is not None
    }
    if kinds == {"number"} or kinds == {"text"} or kinds == {"vector"}:
        return kinds.pop()
    raise StoreError(
        f"{place}: found {', '.join(sorted(kinds)) or 'no value'}, expected numbers, texts or lists of "
        "numbers"
    )


def _vectors(place: str, values: Sequence[Any]) -> np.ndarray:
    try:
        x = np.array(values, np.float32)
    except (TypeError, ValueError):
        x = np.empty(0, np.float32)
    if x.ndim != 2:
        raise StoreError(
            f"{place}: found lists of several lengths or none, expected one of the same for each"
        )
    return x
