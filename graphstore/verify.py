"""Every byte of a store against its seal, and every number that points at another array.

Memory: some blocks, and for a relation some bytes for each tail; never for each edge.

Legend: N nodes of the destination type, E edges.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.arrays import map_array, read_blocks, read_meta
from netgpt.graphstore.errors import FormatError
from netgpt.graphstore.files import inside, read_json
from netgpt.graphstore.relation_types import SCORE
from netgpt.graphstore.schema import Column, edge_name
from netgpt.graphstore.seal import VERSION, file_problems, read_seal, store_files, within
from netgpt.graphstore.sort import Values
from netgpt.graphstore.store import Store

OnProgress = Callable[[int, int], None]
"""Is told that so many of so many are done."""
"""Called with (done, total) bytes."""

_TEXT_BYTES = 1 << 22


def verify(root: Path | str, progress: OnProgress | None = None) -> list[str]:
    """Read every byte of a store and say what is wrong: one line each, none for a sound store.

    Digests of all files, files that are missing or were added, links; then, where the bytes are those
    of the build, that offsets rise and stay inside their arrays, that node numbers name nodes, and that
    ranks say where each node stands. Raises FormatError for what is no sealed store at all.
    """
    root = Path(root)
    seal = read_seal(root)
    added = (name for name in store_files(root) if name not in seal.files)
    problems = [f"{name}: not part of the sealed store" for name in added]
    total, done = sum(seal.sizes.values()), 0
    for name in seal.files:
        problems += file_problems(root, name, seal)
        done += seal.sizes.get(name, 0)
        if progress:
            progress(done, total)
    if problems:
        return problems
    try:
        store = Store(root)
        return list(_array_problems(store)) or list(_pointer_problems(store))
    except FormatError as error:
        return [within(root, error)]


_Expected = dict[str, tuple[tuple[type | np.dtype[Any], ...], int | None]]


def _columns(store: Store) -> Iterator[tuple[str, Column]]:
    """Node type and column of those that the store has itself; an old one lacks some."""
    for node in store.schema.node_types:
        for column in node.columns:
            path = column.path(node.name)
            if store.seal.version == VERSION or path in store.seal.arrays:
                yield node.name, column


def _expected(store: Store) -> _Expected:
    """Arrays of one number a row that the attributes promise: their types and, where known, their rows."""
    num = store.num_nodes
    expected: _Expected = {}
    for edge_type in store.edge_types:
        name, num_tails = f"edges/{edge_name(edge_type)}", num[edge_type[2]]
        expected[f"{name}/indices"] = ((np.int32, np.int64), None)
        relation = store.attributes["relations"][edge_name(edge_type)]
        rule = store.schema.relation_type(edge_type)
        if relation["layout"] == "csr":
            expected[f"{name}/indptr"] = ((np.int64,), num_tails + 1)
            for path, kind in Values.of(rule).arrays:
                expected[f"{name}/{path}"] = ((kind.type,), relation["num_edges"])
        else:
            expected |= {f"{name}/{part}": ((np.int64,), num_tails) for part in ("begin", "end")}
            expected[f"{name}/rank"] = ((np.int32,), num_tails)
        for part, length in relation.get("held", {}).items():
            for end in ("heads", "tails"):
                expected[f"{rule.held_path(part)}/{end}"] = ((np.int64,), length)
    for node_type, column in _columns(store):
        path, length = column.path(node_type), num[node_type]
        if column.is_text:
            expected[f"{path}_offset"] = ((np.int64,), length + 1)
        elif column.kind == "category":
            expected[f"{path}/code"] = ((np.int32,), length)
            expected[f"{path}/value_offset"] = ((np.int64,), None)
        else:
            expected[path] = ((column.number_type,), length)
    for name in store.seal.arrays:
        if name.endswith("/x_row"):
            expected[name] = ((np.int32,), num.get(name.split("/")[1]))
        elif name.endswith("_offset"):
            expected.setdefault(name, ((np.int64,), None))
            expected[name.removesuffix("_offset")] = ((np.uint8,), None)
    return expected


def _array_problems(store: Store) -> Iterator[str]:
    """Arrays whose metadata is not of this format, and those of another length, type or shape."""
    for name in store.seal.arrays:
        try:
            if read_json(inside(store.path, f"{name}/zarr.json"))["node_type"] == "array":
                map_array(store.path, name)
        except FormatError as error:
            yield f"{name}: {within(store.path, error)}"
        except (ValueError, KeyError, TypeError) as error:
            yield f"{name}: {error}"
    for name, (dtypes, length) in _expected(store).items():
        try:
            meta = read_meta(store.path, name)
        except FormatError as error:
            yield f"{name}: {within(store.path, error)}"
            continue
        if meta.width is not None or meta.dtype not in dtypes:
            expected = " or ".join(np.dtype(t).name for t in dtypes)
            yield f"{name}: found {meta.dtype} {list(meta.shape)}, expected {expected}, one number a row"
        elif length is not None and meta.num_rows != length:
            yield f"{name}: found {meta.num_rows} rows, expected {length}"
    for node in store.schema.node_types:
        if node.encoding == "none":
            continue
        try:
            store.features(node.name)
            if f"nodes/{node.name}/x_key" in store.seal.arrays:
                keys, rows = (read_meta(store.path, f"nodes/{node.name}/{part}") for part in ("x_key", "x"))
                if keys.num_rows != rows.num_rows:
                    yield f"nodes/{node.name}/x_key: found {keys.num_rows} rows, expected {rows.num_rows}"
        except FormatError as error:
            yield within(store.path, error)


def _pointer_problems(store: Store) -> Iterator[str]:
    """Numbers that point outside the array or the nodes that they are of."""
    root = store.path
    for edge_type in store.edge_types:
        name = f"edges/{edge_name(edge_type)}"
        relation = store.attributes["relations"][edge_name(edge_type)]
        wrong = list(_numbers(root, f"{name}/indices", 0, store.num_nodes[edge_type[0]], "node numbers"))
        if relation["layout"] == "csr":
            wrong += _rising(root, f"{name}/indptr", read_meta(root, f"{name}/indices").num_rows)
        elif not wrong:
            wrong += _prefix_problems(root, name)
        rule = store.schema.relation_type(edge_type)
        if not wrong and f"{name}/time" in store.seal.arrays:
            wrong += _unordered(root, name, "time", np.less, "earlier")
        if not wrong and rule.nearest is not None:
            wrong += _long_rows(root, name, rule.nearest.k)
            wrong += _unordered(root, name, f"numbers/{SCORE}", np.greater, "greater")
        yield from wrong
        for part in rule.held:
            for end, node_type in (("heads", edge_type[0]), ("tails", edge_type[2])):
                path = f"{rule.held_path(part)}/{end}"
                yield from _numbers(root, path, 0, store.num_nodes[node_type], "node numbers")
        if not wrong and (found := store.relation(edge_type).num_edges) != relation["num_edges"]:
            yield f"{name}: found {found} edges, expected {relation['num_edges']}"
    for name in store.seal.arrays:
        if name.endswith("_offset"):
            text = name.removesuffix("_offset")
            wrong = list(_rising(root, name, read_meta(root, text).num_rows))
            yield from wrong or _texts(root, text)
        elif name.endswith("/x_row"):
            rows = read_meta(root, name.removesuffix("_row")).num_rows
            yield from _numbers(root, name, 0, rows, "rows")
    for node_type, column in _columns(store):
        path = column.path(node_type)
        if column.kind == "category":
            num = read_meta(root, f"{path}/value_offset").num_rows - 1
            yield from _numbers(root, f"{path}/code", -1, num, "values")
        elif column.kind == "number" and (column.low, column.high) != (None, None):
            yield from _bounded(root, path, column)


def _bounded(root: Path, name: str, column: Column) -> Iterator[str]:
    """Numbers of a column that are neither unknown nor within its bounds."""
    low = -np.inf if column.low is None else column.low
    high = np.inf if column.high is None else column.high
    for first, values in read_blocks(root, name):
        wrong = (values < low) | (values > high)
        if column.unknown is not None:
            wrong &= values != column.unknown
        if wrong.any():
            row = int(np.argmax(wrong))
            shown, unknown = low, ""
            if column.unknown is not None and column.unknown == low - 1:
                shown = column.unknown
            elif column.unknown is not None:
                unknown = f" (or {column.unknown}: unknown)"
            what = f"values outside {shown} to {high}{unknown}"
            yield f"{name}: {what}, such as {values[row]} at {first + row}"
            return


def _texts(root: Path, name: str) -> Iterator[str]:
    """All of it is UTF-8, and every text begins where a character does."""
    offset, total = map_array(root, f"{name}_offset"), read_meta(root, name).num_rows
    decoder = codecs.getincrementaldecoder("utf-8")()
    for first, block in read_blocks(root, name, _TEXT_BYTES):
        last = first + len(block)
        try:
            decoder.decode(block.tobytes(), final=last == total)
        except UnicodeDecodeError:
            yield f"{name}: not UTF-8 in bytes {first} to {last}"
            return
        starts = offset[np.searchsorted(offset, first) : np.searchsorted(offset, last)] - first
        if (block[starts] & 0xC0 == 0x80).any():
            yield f"{name}: a text begins inside a character in bytes {first} to {last}"
            return


def _numbers(root: Path, name: str, low: int, end: int, what: str) -> Iterator[str]:
    for first, values in read_blocks(root, name):
        wrong = (values < low) | (values >= end)
        if wrong.any():
            row = int(np.argmax(wrong))
            yield f"{name}: {what} outside {low} to {end - 1}, such as {values[row]} at {first + row}"
            return


def _rising(root: Path, name: str, last: int) -> Iterator[str]:
    """Offsets begin at 0, never fall, and end at the length of what they point into."""
    final = -1
    for first, values in read_blocks(root, name, overlap=1):
        if first == 0 and values[0] != 0:
            yield f"{name}: begins at {values[0]}, expected 0"
            return
        # No differences are taken: those of numbers far apart would wrap
        wrong = (values < 0) | (values > last)
        wrong[1:] |= values[1:] < values[:-1]
        if wrong.any():
            row = first + int(np.argmax(wrong))
            yield f"{name}: offsets fall or point outside (0 to {last}) at row {row}"
            return
        final = int(values[-1])
    if final != last:
        yield f"{name}: ends at {final}, expected {last}"


def _unordered(
    root: Path, name: str, values: str, is_wrong: Callable[..., np.ndarray], what: str
) -> Iterator[str]:
    """Rows are in the order of what their edges have: rising times, falling scores."""
    starts = np.asarray(map_array(root, f"{name}/indptr"))[:-1]
    for first, numbers in read_blocks(root, f"{name}/{values}", overlap=1):
        edges = first + 1 + np.flatnonzero(is_wrong(numbers[1:], numbers[:-1]))
        wrong = edges[~np.isin(edges, starts)]
        if len(wrong):
            yield f"{name}/{values}: edge {wrong[0]} is {what} than the one before it in its row"
            return


def _long_rows(root: Path, name: str, k: int) -> Iterator[str]:
    """Rows have at most k heads."""
    for first, starts in read_blocks(root, f"{name}/indptr", overlap=1):
        wrong = np.diff(starts) > k
        if wrong.any():
            row = int(np.argmax(wrong))
            num = starts[row + 1] - starts[row]
            yield f"{name}: found a row of {num} heads, expected {k} at most, at row {first + row}"
            return


def _prefix_problems(root: Path, name: str) -> Iterator[str]:
    begin, end, rank = (map_array(root, f"{name}/{part}") for part in ("begin", "end", "rank"))
    length = read_meta(root, f"{name}/indices").num_rows
    outside = (begin < 0) | (end < begin) | (end > length)
    if outside.any():
        yield f"{name}: rows outside indices, such as that of node {int(np.argmax(outside))}"
        return
    # Each member of a group stands once in its list, where its rank says. So the own node of a row is
    # either at its rank, or not in the row at all.
    for first, heads in read_blocks(root, f"{name}/indices"):
        wrong = begin[heads] + rank[heads] != np.arange(first, first + len(heads))
        if wrong.any():
            at = int(np.argmax(wrong))
            yield f"{name}/rank: node {heads[at]} stands at {first + at} of indices, its rank says elsewhere"
            return
    if (rank < 0).any():
        yield f"{name}/rank: below 0, such as that of node {int(np.argmax(rank < 0))}"
        return
    rows = np.flatnonzero(end > begin)
    own = begin[rows] + rank[rows]
    wrong = own >= length
    if not wrong.any():
        wrong = np.asarray(map_array(root, f"{name}/indices"))[own] != rows
    if wrong.any():
        yield f"{name}/rank: rank of node {rows[np.argmax(wrong)]} points at another node"
