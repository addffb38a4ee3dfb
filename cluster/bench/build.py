"""`netgpt bench build`: stores built, opened, checked and packed, beside the usual conversion in memory.

Two series: edge lists in random order through the out-of-core builder, and synthetic records in both
layouts. The peers do what loaders of graph libraries do with a COO, on the same edges in files:
`torch_geometric.utils.sort_edge_index` and a count, and torch's own COO to CSR (of the transpose).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from netgpt import graphstore
from netgpt.cluster.bench.measure import SYNTH, Measured, machine, measure
from netgpt.cluster.bench.reference import largest_within
from netgpt.graphstore.files import total_bytes
from netgpt.graphstore.schema import edge_name

_IMPORTS = "from netgpt import graphstore"
_BUILD_EDGES = """
import sys
from netgpt import graphstore
graphstore.build_edges(sys.argv[1], sys.argv[2], memory_bytes=int(sys.argv[3]))
"""
_OPEN = """
import pathlib, sys, time
from netgpt import graphstore
start = time.perf_counter()
store = graphstore.open(sys.argv[1])
for edge_type in store.edge_types:
    store.relation(edge_type)
pathlib.Path(sys.argv[2]).write_text(str(time.perf_counter() - start))
"""
_VERIFY = "import sys; from netgpt import graphstore; sys.exit(bool(graphstore.verify(sys.argv[1])))"
_PACK = "import sys; from netgpt import graphstore; graphstore.pack(sys.argv[1], sys.argv[2])"
_UNPACK = "import sys; from netgpt import graphstore; graphstore.unpack(sys.argv[1], sys.argv[2])"
_READ_PEER = """
import sys, numpy as np, torch
torch.set_num_threads(1)
num = int(sys.argv[3])
heads, tails = (torch.from_numpy(np.load(p)) for p in sys.argv[1:3])
"""
_WRITE_PEER = "np.save(sys.argv[4], indptr.numpy()); np.save(sys.argv[5], indices.numpy())"
_PEERS = {
    "pyg_sort_edge_index": _READ_PEER
    + """
from torch_geometric.utils import sort_edge_index
edge_index = sort_edge_index(torch.stack([heads, tails]), sort_by_row=False, num_nodes=num)
indices, indptr = edge_index[0], torch.zeros(num + 1, dtype=torch.int64)
torch.cumsum(torch.bincount(edge_index[1], minlength=num), 0, out=indptr[1:])
"""
    + _WRITE_PEER,
    "torch_coo_to_csr": _READ_PEER
    + """
ones = torch.ones(len(heads), dtype=torch.int8)
csr = torch.sparse_coo_tensor(torch.stack([tails, heads]), ones, (num, num)).to_sparse_csr()
indices, indptr = csr.col_indices(), csr.crow_indices()
"""
    + _WRITE_PEER,
}
_PIECE = 1 << 22


def _npy_header(file: Any, dtype: str, num: int) -> None:
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (num,)}
    np.lib.format.write_array_header_1_0(file, header)  # type: ignore[attr-defined]


def _write_edges(folder: Path, num_edges: int, num_nodes: int, dtype: str) -> None:
    """Two npy files: uniform heads, and tails of a skewed degree, in random order."""
    rng = np.random.default_rng(0)
    for name in ("heads", "tails"):
        with (folder / f"{name}.npy").open("wb") as file:
            _npy_header(file, dtype, num_edges)
            for first in range(0, num_edges, _PIECE):
                share = rng.random(min(_PIECE, num_edges - first))
                places = share if name == "heads" else share**3
                (places * num_nodes).astype(dtype).tofile(file)
    (folder / "graph.yaml").write_text(
        f"nodes: {{page: {{count: {num_nodes}}}}}\n"
        "edges: [{type: [page, links_to, page], path: [heads.npy, tails.npy]}]\n"
    )


def bench_edges(
    num_edges: list[int], memory_bytes: int, peer_edges: int, scratch: Path | None, dtype: str = "int64"
) -> Iterator[dict[str, Any]]:
    """One result a size of edge list. Peers run up to `peer_edges`: they need 80 bytes of memory an edge."""
    idle = measure(_IMPORTS)
    with tempfile.TemporaryDirectory(dir=scratch) as name:  # compile and cache the kernels
        _write_edges(Path(name), 1000, 1000, dtype)
        measure(_BUILD_EDGES, Path(name) / "graph.yaml", Path(name) / "store", 50_000)
    for number in num_edges:
        num_nodes = max(1000, number // 50)
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            folder = Path(name)
            _write_edges(folder, number, num_nodes, dtype)
            built = measure(_BUILD_EDGES, folder / "graph.yaml", folder / "store", memory_bytes)
            used = _used(folder, folder / "store") if built.ok else {}
            peers = _peers(folder, number, num_nodes) if number <= peer_edges else {}
            for peer in peers.values():  # of the same edges; beside `synth`, which makes far more, none
                if built.ok and peer["ok"]:
                    peer["times_slower"] = peer["wall_s"] / built.wall_s
            yield {
                "source": "edges",
                "num_edges": number,
                "num_nodes": num_nodes,
                "input_dtype": dtype,
                "memory_budget_bytes": memory_bytes,
                "build": rates(built, number)
                | {"peak_over_imports_bytes": built.peak_bytes - idle.peak_bytes},
                **used,
                **peers,
                "machine": machine(),
            }


def bench_synth(scales: list[float], peer_edges: int, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """One result a scale and layout of synthetic records. Peers take the largest relation within a type."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        measure(SYNTH, Path(name) / "store", 0.001, "csr")
    for scale in scales:
        for layout in ("prefix", "csr"):
            with tempfile.TemporaryDirectory(dir=scratch) as name:
                folder, path = Path(name), Path(name) / "store"
                built = measure(SYNTH, path, scale, layout)
                result = {"source": "synth", "scale": scale, "layout": layout}
                if not built.ok:
                    yield {**result, "build": asdict(built), "machine": machine()}
                    continue
                store = graphstore.open(str(path))
                num_edges = sum(store.num_edges.values())
                relation = largest_within(store)
                used, peers = _used(folder, path), {}
                if layout == "csr" and store.num_edges[relation] <= peer_edges:
                    _write_coo(folder, store.relation(relation))
                    peers = _peers(folder, store.num_edges[relation], store.num_nodes[relation[2]])
                yield {
                    **result,
                    "num_nodes": sum(store.num_nodes.values()),
                    "num_edges": num_edges,
                    "relation_bytes": sum(
                        total_bytes(path / "edges" / edge_name(e)) for e in store.edge_types
                    ),
                    "build": rates(built, num_edges),
                    **used,
                    **peers,
                    "machine": machine(),
                }


def _write_coo(folder: Path, relation: graphstore.Relation) -> None:
    """A relation's edges in random order as two npy files."""
    indptr, heads = relation.to_csr()
    order = np.random.default_rng(0).permutation(len(heads))
    np.save(folder / "heads.npy", heads[order].astype(np.int64))
    np.save(folder / "tails.npy", np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))[order])


def _used(folder: Path, store: Path) -> dict[str, Any]:
    """What can be done with a built store."""
    opened = measure(_OPEN, store, folder / "open_s")
    packed = measure(_PACK, store, folder / "pack")
    return {
        "store_bytes": total_bytes(store),
        "open": asdict(opened) | {"open_s": float((folder / "open_s").read_text())},
        "verify": asdict(measure(_VERIFY, store)),
        "pack": asdict(packed) | {"packed_bytes": total_bytes(folder / "pack")},
        "unpack": asdict(measure(_UNPACK, folder / "pack", folder / "unpacked")),
    }


def _peers(folder: Path, num_edges: int, num_nodes: int) -> dict[str, dict[str, Any]]:
    """What the peers do with the edges in heads.npy and tails.npy."""
    files = [folder / f"{n}.npy" for n in ("heads", "tails", "a", "b")]
    return {
        name: rates(measure(code, *files[:2], num_nodes, *files[2:]), num_edges)
        for name, code in _PEERS.items()
    }


def rates(cost: Measured, num_edges: int) -> dict[str, Any]:
    return asdict(cost) | (
        {"edges_per_s": num_edges / cost.wall_s, "edges_per_cpu_s": num_edges / cost.cpu_s} if cost.ok else {}
    )


def line(result: dict[str, Any]) -> str:
    """One result as text: seconds and peak memory of each step, and of the peers."""
    what = " ".join(str(result[key]) for key in ("source", "scale", "layout", "num_edges") if key in result)
    steps = [f"{what}:"]
    for name, step in result.items():
        if not isinstance(step, dict) or "wall_s" not in step:
            continue
        time = f"{step['open_s'] * 1e3:.1f} ms" if "open_s" in step else f"{step['wall_s']:.1f} s"
        rate = f", {step['edges_per_s'] / 1e6:.1f} M edges/s" if "edges_per_s" in step else ""
        failed = "" if step["ok"] else ", failed"
        steps.append(f"{name} {time} ({step['peak_bytes'] / 1e9:.2f} GB{rate}{failed})")
    return "  ".join(steps)
