"""The description of a graph as edge lists: a small YAML (or JSON) file.

    target: item                       # node type that is rated; needed by training alone
    nodes:
      user: {count: 1000}              # without a count: the greatest number + 1
      item: {features: item.npy}       # [count, width] float16 or float32
    edges:
      - type: [user, buys, item]
        path: [buys-0.parquet, buys-1.parquet]     # Parquet, CSV (with a header) or npy
        columns: [src, dst]            # heads and tails, of Parquet and CSV
        duplicates: drop               # keep (default), drop (the first stays) or error
        self_loops: error              # keep (default), drop or error
      - type: [item, next_to, item]
        path: [heads.npy, tails.npy]   # a pair of [E] arrays, or one [E, 2] array
      - type: [item, same_brand_as, item]
        group: {path: items.parquet, key: brand, time: day, ties: strict}   # row i: node i; or two .npy files
      - type: [item, is_similar_to, item]
        nearest: {k: 10, path: items.parquet, time: day, apart: brand, bank: sold}   # or three .npy files

A `group` makes the edges: every node's heads are the nodes of the same key (−1 or no text: none) whose
time is not later (`ties: strict`: earlier). So does `nearest`: the k nodes whose features are most alike,
with a score; `time`: earlier ones alone; `apart`: one of each value, none of the node's own; `bank`: those
alone where it is true, or not 0. Each of the three may be left out. Times are dates, or seconds.

Paths are relative to the description.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from netgpt.graphstore.datasets.described import (
    check_keys,
    first_lines,
    has_pairs,
    has_tables,
    is_described,
    read_described,
    require,
)
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.schema import NAME, EdgeType, edge_name

_TEXTS = {
    *("target", "features", "type", "path", "columns", "duplicates", "self_loops"),
    *("key", "time", "ties", "apart", "bank"),
}
"""Keys whose values are texts, or lists of them: YAML takes a plain 1 or true for something else."""
Require = Callable[[bool, str, object, str], None]
"""Condition, place, value found, what was expected."""

POLICIES = ("keep", "drop", "error")
SUFFIXES = (".parquet", ".csv", ".npy")


@dataclass
class NodeDescription:
    count: int | None = None
    features: str | None = None


@dataclass
class GroupDescription:
    key: str = ""
    time: str = ""
    path: str | None = None
    ties: str = "include"


@dataclass
class NearestDescription:
    k: int = 10
    path: str | None = None
    time: str = ""
    apart: str = ""
    bank: str = ""


@dataclass
class EdgeDescription:
    type: list[str] = field(default_factory=list)
    path: Any = None
    group: GroupDescription | None = None
    nearest: NearestDescription | None = None
    columns: list[str] = field(default_factory=lambda: ["src", "dst"])
    duplicates: str = "keep"
    self_loops: str = "keep"

    @property
    def edge_type(self) -> EdgeType:
        src, relation, dst = self.type
        return src, relation, dst

    @property
    def rule(self) -> str | None:
        """What makes the edges, where no list does."""
        return "group" if self.group is not None else "nearest" if self.nearest is not None else None


_DEFAULT = asdict(EdgeDescription())


@dataclass
class Description:
    nodes: dict[str, NodeDescription] = field(default_factory=dict)
    edges: list[EdgeDescription] = field(default_factory=list)
    target: str | None = None


def is_description(path: Path) -> bool:
    """Whether a file describes a graph as lists of edges."""
    return is_described(path) and not has_tables(path) and not has_pairs(path)


def read_description(path: Path) -> Description:
    """Read and check a description; paths in it become absolute. Raises StoreError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    raw = read_described(path)
    _check_keys(path, raw)
    try:
        description = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Description), raw))
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise StoreError(f"{path}: {first_lines(error)}") from error
    assert isinstance(description, Description)
    _check(path, description)
    return description


def _check_keys(path: Path, raw: Any) -> None:
    """StoreError for what is no object where one belongs, and for unknown keys, with the nearest that there
    is."""

    def check(place: str, value: Any, kind: type) -> None:
        check_keys(path, place, value, [one.name for one in fields(kind)])
        for name in _TEXTS & value.keys():
            for text in value[name] if isinstance(value[name], list) else [value[name]]:
                where = f"{place}.{name}" if place else name
                require(path, text is None or isinstance(text, str), where, text, "a text; in quotes")

    check("", raw, Description)
    nodes, edges = raw.get("nodes", {}), raw.get("edges", [])
    if not isinstance(nodes, dict) or not isinstance(edges, list):
        value = edges if isinstance(nodes, dict) else nodes
        raise StoreError(
            f"{path}: found {value!r:.60}, expected nodes: an object by name, and edges: a list of objects"
        )
    for name, node in nodes.items():
        check(f"nodes.{name}", node, NodeDescription)
    for i, edge in enumerate(edges):
        check(f"edges[{i}]", edge, EdgeDescription)
        for rule, kind in (("group", GroupDescription), ("nearest", NearestDescription)):
            if edge.get(rule) is not None:
                check(f"edges[{i}].{rule}", edge[rule], kind)


def _check(path: Path, description: Description) -> None:
    def require(condition: bool, where: str, value: object, expected: str) -> None:
        if not condition:
            raise StoreError(f"{path}: {where}: found {value!r}, expected {expected}")

    require(bool(description.nodes), "nodes", dict(description.nodes), "at least one node type")
    require(bool(description.edges), "edges", description.edges, "at least one relation")
    for name, node in description.nodes.items():
        require(bool(NAME.fullmatch(name)), "nodes", name, "a name of letters, digits, _, - and .")
        if node.count is not None:
            require(node.count >= 1, f"nodes.{name}.count", node.count, "at least 1")
        if node.features is not None:
            node.features = str(path.absolute().parent / node.features)
            ok = node.features.endswith(".npy") and Path(node.features).is_file()
            require(ok, f"nodes.{name}.features", node.features, "an .npy file")
    known, target = ", ".join(description.nodes), description.target
    require(target is None or target in description.nodes, "target", target, f"one of {known}")
    seen: set[EdgeType] = set()
    for i, edge in enumerate(description.edges):
        where = f"edges[{i}]"
        require(len(edge.type) == 3, f"{where}.type", edge.type, "[source, relation, destination]")
        src, relation, dst = edge.type
        for end in (src, dst):
            require(end in description.nodes, f"{where}.type", end, f"one of {known}")
        require(bool(NAME.fullmatch(relation)), f"{where}.type", relation, "letters, digits, _, - and .")
        require(edge.edge_type not in seen, f"{where}.type", edge_name(edge.edge_type), "each relation once")
        seen.add(edge.edge_type)
        require(len(edge.columns) == 2, f"{where}.columns", edge.columns, "[heads, tails]")
        for policy in ("duplicates", "self_loops"):
            value = getattr(edge, policy)
            require(value in POLICIES, f"{where}.{policy}", value, f"one of {', '.join(POLICIES)}")
        rule = edge.rule
        number = sum(said is not None for said in (edge.path, edge.group, edge.nearest))
        require(number == 1, where, edge.edge_type, "either a path, a group or nearest")
        if rule is not None:
            require(src == dst, f"{where}.{rule}", edge.type, "heads and tails of one type")
            given = [n for n in ("columns", "duplicates", "self_loops") if getattr(edge, n) != _DEFAULT[n]]
            require(not given, where, ", ".join(given), f"no options of edge lists beside {rule}")
        if edge.group is not None:
            _check_group(path, f"{where}.group", edge.group, require)
            continue
        if edge.nearest is not None:
            has_features = description.nodes[dst].features is not None
            require(has_features, f"{where}.nearest", dst, "a type with features")
            _check_nearest(path, f"{where}.nearest", edge.nearest, require)
            continue
        paths = [edge.path] if isinstance(edge.path, str) else edge.path
        listed = isinstance(paths, list) and len(paths) > 0 and all(isinstance(p, str) for p in paths)
        require(listed, f"{where}.path", edge.path, "a file or a list of files")
        edge.path = [str(path.absolute().parent / p) for p in paths]
        for p in edge.path:
            require(p.endswith(SUFFIXES), f"{where}.path", p, f"a name that ends in {', '.join(SUFFIXES)}")
            require(Path(p).is_file(), f"{where}.path", p, "a file")
        kinds = {Path(p).suffix for p in edge.path}
        require(len(kinds) == 1, f"{where}.path", sorted(kinds), "files of one kind")
        if kinds == {".npy"}:
            require(len(edge.path) <= 2, f"{where}.path", edge.path, "one [E, 2] array or a pair of [E]")


def _check_group(path: Path, where: str, group: GroupDescription, require: Require) -> None:
    require(group.ties in ("include", "strict"), f"{where}.ties", group.ties, "include or strict")
    for name in ("key", "time"):
        require(bool(getattr(group, name)), f"{where}.{name}", getattr(group, name), "a column or .npy file")
    _check_columns(path, where, group, ("key", "time"), require)


def _check_nearest(path: Path, where: str, nearest: NearestDescription, require: Require) -> None:
    require(1 <= nearest.k < 1 << 20, f"{where}.k", nearest.k, "how many heads, from 1, below 2^20")
    names = [name for name in ("time", "apart", "bank") if getattr(nearest, name)]
    ok = nearest.path is None or bool(names)
    require(ok, f"{where}.path", nearest.path, "a column of it: time, apart or bank")
    _check_columns(path, where, nearest, names, require)


def _check_columns(
    path: Path,
    where: str,
    said: GroupDescription | NearestDescription,
    names: Sequence[str],
    require: Require,
) -> None:
    """Columns of nodes: of the file `path`, or each a file of its own; paths become absolute."""
    if said.path is not None:
        said.path = str(path.absolute().parent / said.path)
        ok = said.path.endswith((".parquet", ".csv")) and Path(said.path).is_file()
        require(ok, f"{where}.path", said.path, "a .parquet or .csv file")
        return
    for name in names:
        file = str(path.absolute().parent / getattr(said, name))
        setattr(said, name, file)
        require(file.endswith(".npy") and Path(file).is_file(), f"{where}.{name}", file, "an .npy file")
