"""GraphBolt as a peer of the sampler, in a Python of its own: it is built for torch releases of then.

One relation is a graph of one node type there. Several are one graph of all nodes, with a type for each
edge and a fanout for each type; rows are in the order of the types, as it wants them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import EdgeType, Graph

_SCRIPT = """
import json, sys
import numpy as np
import torch
import dgl.graphbolt as gb
torch.set_num_threads(1)
folder = sys.argv[1]
asked = json.load(open(folder + "/asked.json"))
first = dict(zip(asked["num_nodes"], np.cumsum([0, *asked["num_nodes"].values()]).tolist()))
num_nodes = sum(asked["num_nodes"].values())
def csr(i):
    return [np.load(f"{folder}/{name}-{i}.npy", mmap_mode="c") for name in ("indptr", "indices")]
relations, target = asked["relations"], asked["target"]
if len(relations) == 1:
    indptr, indices = map(torch.from_numpy, csr(0))
    graph, fanouts = gb.fused_csc_sampling_graph(indptr, indices), torch.tensor([asked["fanout"]])
else:
    degree = np.zeros(num_nodes + 1, np.int64)
    for i, (src, _, dst) in enumerate(relations):
        begin = first[dst] + 1
        degree[begin : begin + asked["num_nodes"][dst]] += np.diff(csr(i)[0])
    whole = np.cumsum(degree)
    heads, kinds = np.empty(whole[-1], np.int64), np.empty(whole[-1], np.uint8)
    cursor = whole[:-1].copy()
    for i, (src, _, dst) in enumerate(relations):
        indptr, indices = csr(i)
        num = np.diff(indptr)
        own = slice(first[dst], first[dst] + len(num))
        at = np.repeat(cursor[own] - indptr[:-1], num) + np.arange(len(indices))
        heads[at], kinds[at] = np.asarray(indices) + first[src], i
        cursor[own] += num
        del at
    graph = gb.fused_csc_sampling_graph(
        torch.from_numpy(whole),
        torch.from_numpy(heads),
        node_type_offset=torch.tensor([*first.values(), num_nodes]),
        type_per_edge=torch.from_numpy(kinds),
        node_type_to_id={name: i for i, name in enumerate(first)},
        edge_type_to_id={":".join(relation): i for i, relation in enumerate(relations)},
    )
    fanouts = torch.full((len(relations),), asked["fanout"])
def sample(seeds):
    nodes = torch.from_numpy(seeds)
    nodes, num = nodes if len(relations) == 1 else {target: nodes}, 0
    for _ in range(asked["hops"]):
        sampled = graph.sample_neighbors(nodes, fanouts).sampled_csc
        nodes, compacted = gb.unique_and_compact_csc_formats(sampled, nodes)[:2]
        parts = [compacted] if len(relations) == 1 else compacted.values()
        num += sum(part.indices.numel() for part in parts)
    return num
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    print(json.dumps(sum(sample(seeds) for seeds in np.load(line.strip()))), flush=True)
"""


class GraphBolt:
    """A process that samples when it is asked: `sample` gives the edges of batches of seeds."""

    def __init__(
        self,
        python: str,
        graph: Graph,
        edge_types: Sequence[EdgeType],
        arrays: Callable[[EdgeType], tuple[np.ndarray, np.ndarray]],
        folder: Path,
        *,
        fanout: int,
        hops: int,
    ) -> None:
        """arrays: indptr and heads of a relation, int64. ClusterError where the Python has no GraphBolt."""
        ends = {name for src, _, dst in edge_types for name in (src, dst)}
        asked = {
            "num_nodes": {name: num for name, num in graph.num_nodes.items() if name in ends},
            "relations": edge_types,
            "target": graph.schema.target,
            "fanout": fanout,
            "hops": hops,
        }
        (folder / "asked.json").write_text(json.dumps(asked))
        for i, edge_type in enumerate(edge_types):
            for name, array in zip(("indptr", "indices"), arrays(edge_type), strict=True):
                np.save(folder / f"{name}-{i}.npy", array)
        self._folder, self._log = folder, folder / "log"
        try:
            with self._log.open("w") as log:
                self._process = subprocess.Popen(
                    [python, "-c", _SCRIPT, str(folder)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        except OSError as error:
            raise ClusterError(f"--graphbolt: {python} cannot be run ({error})") from error
        self._said()

    def sample(self, seeds: Sequence[np.ndarray]) -> int:
        """Edges sampled around batches [n] int64 each, all of one length."""
        assert self._process.stdin is not None
        path = self._folder / "seeds.npy"
        np.save(path, np.stack(seeds))
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return int(self._said())

    def _said(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        reason = (self._log.read_text(errors="replace").strip().splitlines() or ["no reason"])[-1][:200]
        raise ClusterError(f"--graphbolt: {reason}")

    def close(self) -> None:
        self._process.terminate()
        self._process.communicate()
