"""Time of each stage, from measured rates on CPUs and from stated assumptions on GPUs.

A rate says where it is from and when it was taken; an assumption is called one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netgpt.cluster.config import RunConfig
from netgpt.cluster.plan.graphs import BatchSize
from netgpt.cluster.plan.shapes import DecoderShape
from netgpt.graphstore.dataset import GraphSize
from netgpt.trainers.graph.shape import ModelShape

CPU_FLOPS = 29e9
"""Speed of one core in the language stages: 7,580 tokens/s of stage 3 at width 128, 6 layers, on two
(docs/measurements.md)."""
STAGE1_SEEDS, STAGE1_WIDTH, STAGE1_EDGES = 395.0, 128, 1_737_622 / 512
"""Seeds a second on two cores at that width, and edges of a seed at fanout 50 (README: 370 to 420)."""
SAMPLED_EDGES = 50e6
"""Edges that one sampling thread samples and relabels a second, all relations (README: 44 to 59 million)."""
EMBED_LINEAR_S, EMBED_SQUARE_S = 0.0454, 7.87e-5
"""Seconds by width and by its square, full-size prefix store, two cores (README: 7.1 s at width 128, 129 s at
1,024)."""
EMBED_CSR_S = 168 / 128
"""More seconds by width that walking every row of the csr layout takes (README: 175 s at width 128)."""
RECORDS_S = 900.0
"""Records that one core tokenises a second, Qwen's tokenizer (released slice, CPU time, 2026-11-22)."""
MEASURED = "README, 2026-11-22"


@dataclass(frozen=True)
class Duration:
    """Seconds, and what they are reckoned from."""

    seconds: float
    basis: str
    assumed: bool
    """Whether the basis is an assumption and not a measurement."""


def stage_flops(
    shape: Mapping[str, int], lengths: list[int], *, trained_layers: int, vocab: int, response: int
) -> float:
    """Floating-point operations that a language stage cannot do without, for samples of these lengths.

    A frozen layer of N weights needs 4N a token: its output and the gradient of its input; a trained one 6N.
    Causal attention adds 2·L²·width a layer forwards and twice that backwards. Logits of the response alone.
    """
    hidden, head = shape["hidden"], shape["hidden"] // shape["heads"]
    attention = hidden * hidden * 2 + hidden * head * shape["kv_heads"] * 2
    weights = attention + 3 * hidden * shape["intermediate"]
    tokens, squares = sum(lengths), sum(n * n for n in lengths)
    linear = tokens * weights * (4 * (shape["layers"] - trained_layers) + 6 * trained_layers)
    logits = len(lengths) * response * hidden * vocab * 4
    return float(linear + shape["layers"] * 3 * 2 * squares * hidden + logits)


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What computes."""

    gpus: int
    """0: CPUs."""
    workers: int
    threads: int
    """CPU threads of a worker."""
    mfu: float
    gpu_flops: float

    @property
    def flops(self) -> tuple[float, str, bool]:
        """A second, of all workers; from what; whether that is assumed."""
        if self.gpus:
            basis = f"assumed: {self.mfu:.0%} of {self.gpu_flops / 1e12:,.0f} TFLOP/s a GPU"
            return self.gpus * self.mfu * self.gpu_flops, basis, True
        rate = CPU_FLOPS * self.workers * self.threads
        return rate, f"measured: {CPU_FLOPS / 1e9:.0f} GFLOP/s a core ({MEASURED})", False


def language_duration(
    shape: DecoderShape,
    machines: Machines,
    *,
    samples: int,
    tokens: int,
    epochs: int,
    trained_layers: int,
    response: int,
    checkpointing: bool,
) -> Duration:
    """Duration of all epochs of a stage over samples of a mean length; without validation."""
    dims = {name: getattr(shape, name) for name in ("hidden", "layers", "heads", "kv_heads", "intermediate")}
    one = stage_flops(
        dims, [tokens + response], trained_layers=trained_layers, vocab=shape.vocab, response=response
    )
    if checkpointing:  # every layer's forward once more
        one += 2 * (tokens + response) * shape.layers * shape.layer_products
    rate, basis, assumed = machines.flops
    return Duration(one * samples * epochs / rate, basis, assumed)


def stage1_duration(
    size: GraphSize,
    shape: ModelShape,
    batch: BatchSize,
    config: RunConfig,
    machines: Machines,
    samplers: int,
) -> Duration:
    """Duration of all epochs; early stopping may end before."""
    seeds = size.train_states * (1 - config.task.val_share) * config.graph.epochs
    per_seed = batch.edges / max(1, batch.seeds)
    sampling = seeds * per_seed / (SAMPLED_EDGES * machines.workers * max(1, samplers))
    if not machines.gpus:
        cores = machines.workers * machines.threads
        scale = (STAGE1_WIDTH / shape.hidden) ** 2 * (STAGE1_EDGES / per_seed) ** 0.5
        rate = STAGE1_SEEDS / 2 * cores * scale
        basis = f"measured: 395 seeds/s at width 128 on two cores ({MEASURED}); by width² and √edges: assumed"
        return Duration(seeds / rate, basis, False)
    # Products with D × D weights: of all states once, of the tails once a relation; forwards and twice back
    states = sum(batch.nodes[n] for n in shape.feature_dims)
    inputs = sum(batch.nodes[n] * dim for n, dim in shape.feature_dims.items())
    products = states * shape.hidden + len(shape.edge_types) * batch.tails * shape.hidden + inputs
    flops = 6 * products * shape.hidden / max(1, batch.seeds) * seeds
    rate, basis, _ = machines.flops
    computing = flops / rate
    if sampling > computing:
        return Duration(
            sampling, f"measured: {SAMPLED_EDGES / 1e6:.0f} M edges/s a sampler ({MEASURED})", False
        )
    return Duration(computing, basis, True)


def embedding_duration(size: GraphSize, width: int, threads: int, layout: str) -> Duration:
    """Duration of exact inference in blocks on the CPU, by one worker."""
    whole = 381_926
    seconds = EMBED_LINEAR_S * width + EMBED_SQUARE_S * width**2
    seconds += EMBED_CSR_S * width if layout == "csr" else 0
    expected = seconds * size.states / whole * 2 / threads
    return Duration(expected, f"measured: 7.1 s at width 128, 129 s at 1,024, two cores ({MEASURED})", False)


def token_duration(size: GraphSize, workers: int) -> Duration:
    basis = f"measured: {RECORDS_S:.0f} records/s a core, Qwen's tokenizer (2026-11-22)"
    return Duration(size.states / (RECORDS_S * workers), basis, False)
