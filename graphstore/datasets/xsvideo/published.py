"""What is published of XS-Video: results as printed, and the size of the full release.

Source: "Short-video Propagation Influence Rating: A New Real-world Dataset and A New Large Graph Model".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from netgpt.graphstore.dataset import BatchNodes, GraphSize, Published
from netgpt.graphstore.datasets.xsvideo.schema import SCALARS, Config, xs_video
from netgpt.graphstore.datasets.xsvideo.synth import world


def _row(name: str, reads: str, acc: str, mse: str, mae: str, *, main: bool = False) -> Published:
    return Published(name=name, reads=reads, figures={"acc": acc, "mse": mse, "mae": mae}, main=main)


PUBLISHED = (
    _row("GCN", "graph", "0.4474", "1.0623", "0.7599"),
    _row("HAN", "graph", "0.2619", "2.6666", "1.2724"),
    _row("HetSANN", "graph", "0.5078", "0.8917", "0.6803"),
    _row("RGCN", "graph", "0.6313", "0.7801", "0.5844"),
    _row("Mistral-v0.3, LoRA", "text", "0.539", "2.10", "0.81"),
    _row("InternLM2.5, LoRA", "text", "0.527", "2.11", "0.81"),
    _row("Llama-3.1, LoRA", "text", "0.529", "2.12", "0.81"),
    _row("Qwen2.5, LoRA", "text", "0.547", "2.08", "0.77"),
    _row("Llava-Next-Video, LoRA", "text, video", "0.569", "1.85", "0.73"),
    _row("Qwen2-VL, LoRA", "text, video", "0.588", "1.68", "0.66"),
    _row("NetGPT", "graph, text", "0.6777", "0.7169", "0.5457", main=True),
    _row("V: NetGPT, video features zero", "graph, text", "0.6564", "0.7415", "0.5669"),
    _row("VV: without video–video relations", "graph, text", "0.5889", "0.8935", "0.6386"),
    _row("IV: without dates and counters", "graph, text", "0.2805", "2.2839", "1.1688"),
    _row("CV: without comments", "graph, text", "0.6464", "0.8249", "0.5868"),
    _row("SLF: without stage 2", "graph, text", "0.6552", "0.7366", "0.5605"),
    _row("2B: Qwen2-VL-2B", "graph, text", "0.6695", "0.7307", "0.5563"),
)
"""The published results on the full data's test split: for reading beside a run's own."""

STATES, TRAIN_STATES = 381_926, 304_362
"""States of the full release (paper, table of the data set; the split by post date)."""
_HISTORY_EDGES = 484_364
_DISTINCT = {"title": 94_145, "description": 117_720, "time": 115_507, "ctime": 79}
"""Distinct contents of a type with one node a state (synthetic store of the published size, 2026-11-22)."""
_RECORD_BYTES = 507_000_000
"""Texts of the records: those of the released JSON."""
_SEEDS, _FANOUTS = (16, 64, 512, 2048), (10, 50)
_VIDEOS = ((2_063, 23_406), (9_038, 60_527), (55_650, 176_068), (128_261, 255_536))
_TAILS = ((208, 907), (943, 3_504), (7_436, 26_362), (28_013, 85_662))
_EDGES = ((5_484, 61_422), (25_609, 236_373), (202_463, 1_737_622), (762_054, 5_707_004))
"""Video nodes of a batch over two hops, those of its first hop and seeds, and edges: by seeds and fanout
(synthetic store of the published size, all relations, random train seeds, 2026-11-22)."""


def published_size(config: Config, text_dim: int | None, video_dim: int | None) -> GraphSize:
    """The full release, with features as the settings, or encoders of these widths, make them."""
    schema = xs_video()
    nodes = {n.name: STATES for n in schema.node_types}
    nodes |= {"platform": len(world.PLATFORMS), "topic": world.FULL_TOPICS, "comment": world.FULL_COMMENTS}
    text = int(config.encoder.partition(":")[2] or 256) if text_dim is None else text_dim
    video = config.video_dim if video_dim is None else video_dim
    dims = {"video": video, "time": config.time_dim, "ctime": config.time_dim}
    dims |= dict.fromkeys(("platform", "topic", "title", "description"), text)
    dims |= {"comment": text + config.time_dim, **dict.fromkeys(SCALARS, 1)}
    # No videos are released: with them there is a row a video
    rows = {**nodes, **_DISTINCT, "video": world.FULL_VIDEOS}
    item = {name: 4 if name in (*SCALARS, "time", "ctime") else 2 for name in nodes}
    features = sum(rows[n] * dims[n] * item[n] + 4 * nodes[n] for n in nodes)
    edges = world.FULL_TOPIC_EDGES + world.FULL_AUTHOR_EDGES + _HISTORY_EDGES
    edges += (len(nodes) - 2) * STATES + world.FULL_COMMENTS
    is_prefix = config.layout == "prefix"
    relations = 107_000_000 if is_prefix else 6_730_000_000  # measured on 2026-11-22
    return GraphSize(
        source="published size of XS-Video",
        nodes=nodes,
        rows=rows,
        dims=dims,
        item=item,
        schema=schema,
        train_states=TRAIN_STATES,
        longest_indices=STATES if is_prefix else world.FULL_TOPIC_EDGES,
        store_bytes=features + relations + _RECORD_BYTES,
        edges=edges,
        batch=published_batch,
    )


def published_batch(seeds: int, fanout: int) -> BatchNodes:
    """One rank's mini-batch over the published size, from the table of measured ones."""
    videos = min(STATES, round(_between(_VIDEOS, seeds, fanout)))
    tails = min(videos, round(_between(_TAILS, seeds, fanout)))
    # A node a state, but for the types whose nodes are shared or several
    nodes = {n.name: tails for n in xs_video().node_types}
    nodes |= {
        "platform": len(world.PLATFORMS),
        "topic": min(world.FULL_TOPICS, videos),
        "comment": min(world.FULL_COMMENTS, round(1.3 * tails)),
        "video": videos,
    }
    return BatchNodes(tails, nodes, round(_between(_EDGES, seeds, fanout)))


def _between(table: tuple[tuple[int, ...], ...], seeds: int, fanout: int) -> float:
    """Linear between the logarithms, and beyond the table along its last pieces."""
    by_fanout = [_line(_SEEDS, [row[i] for row in table], seeds) for i in range(len(_FANOUTS))]
    return max(float(seeds), _line(_FANOUTS, by_fanout, fanout))


def _line(x: tuple[int, ...], y: list[Any], at: float) -> float:
    i = min(max(int(np.searchsorted(x, at)) - 1, 0), len(x) - 2)
    share = np.log(at / x[i]) / np.log(x[i + 1] / x[i])
    return float(np.exp(np.log(y[i]) + share * np.log(y[i + 1] / y[i])))
