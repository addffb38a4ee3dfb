"""`netgpt bench build`: edge lists in random order to a store, beside the usual conversion in memory.

The peer is what loaders of graph libraries do with a COO: PyG's `to_csc`-style sort by destination,
here `torch_geometric.utils.sort_edge_index` and a count, on the same two files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cluster.bench.measure import Measured, machine, measure

_OURS = """
import sys, graphstore
graphstore.build_edges(sys.argv[1], sys.argv[2], memory_bytes=int(sys.argv[3]))
"""
_IMPORTS = "import graphstore.edgelist.sort"
_PEER = """
import sys, numpy as np, torch
from torch_geometric.utils import sort_edge_index
torch.set_num_threads(1)
heads, tails = (torch.from_numpy(np.load(p)) for p in sys.argv[1:3])
edge_index = sort_edge_index(torch.stack([heads, tails]), sort_by_row=False, num_nodes=int(sys.argv[3]))
indptr = torch.zeros(int(sys.argv[3]) + 1, dtype=torch.int64)
torch.cumsum(torch.bincount(edge_index[1], minlength=int(sys.argv[3])), 0, out=indptr[1:])
np.save(sys.argv[4], edge_index[0].numpy()); np.save(sys.argv[5], indptr.numpy())
"""
_PIECE = 1 << 22


def _write_edges(folder: Path, num_edges: int, num_nodes: int, seed: int) -> None:
    """Two int64 npy files: uniform heads, and tails of a skewed degree, in random order."""
    rng = np.random.default_rng(seed)
    for name in ("heads", "tails"):
        with (folder / f"{name}.npy").open("wb") as file:
            header = {"descr": "<i8", "fortran_order": False, "shape": (num_edges,)}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[attr-defined]
            for first in range(0, num_edges, _PIECE):
                share = rng.random(min(_PIECE, num_edges - first))
                places = share if name == "heads" else share**3
                (places * num_nodes).astype(np.int64).tofile(file)
    (folder / "graph.yaml").write_text(
        f"nodes: {{page: {{count: {num_nodes}}}}}\n"
        "edges: [{type: [page, links_to, page], path: [heads.npy, tails.npy]}]\n"
    )


def bench_build(
    num_edges: list[int], memory_bytes: int, peer_edges: int, scratch: Path | None
) -> Iterator[dict[str, Any]]:
    """One result a size. Peers run up to `peer_edges` edges: they need 80 bytes of memory an edge."""
    idle = measure(_IMPORTS)
    with tempfile.TemporaryDirectory(dir=scratch) as name:  # compile and cache the kernels
        _write_edges(Path(name), 1000, 1000, seed=0)
        measure(_OURS, Path(name) / "graph.yaml", Path(name) / "store", 50_000)
    for number in num_edges:
        num_nodes = max(1000, number // 50)
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            folder = Path(name)
            _write_edges(folder, number, num_nodes, seed=0)
            ours = measure(_OURS, folder / "graph.yaml", folder / "store", memory_bytes)
            stored = sum(f.stat().st_size for f in (folder / "store").rglob("*") if f.is_file())
            result: dict[str, Any] = {
                "num_edges": number,
                "num_nodes": num_nodes,
                "memory_budget_bytes": memory_bytes,
                "store_bytes": stored,
                "netgpt": _figures(ours, number)
                | {"peak_over_imports_bytes": ours.peak_bytes - idle.peak_bytes},
            }
            if number <= peer_edges:
                files = [folder / f"{n}.npy" for n in ("heads", "tails")]
                peer = measure(_PEER, *files, num_nodes, folder / "a.npy", folder / "b.npy")
                result["pyg_sort_edge_index"] = _figures(peer, number)
                result["times_faster"] = peer.wall_s / ours.wall_s
            yield {**result, "machine": machine()}


def _figures(found: Measured, num_edges: int) -> dict[str, Any]:
    return {
        **asdict(found),
        "edges_per_s": num_edges / found.wall_s,
        "edges_per_cpu_s": num_edges / found.cpu_s,
    }
