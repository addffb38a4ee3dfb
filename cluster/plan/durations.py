"""Time of each stage, from measured rates on CPUs and from stated assumptions on GPUs.

A rate says where it is from and when it was taken; an assumption is called one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from time import perf_counter

from netgpt.cluster.config import RunConfig
from netgpt.cluster.plan.graphs import BatchSize
from netgpt.cluster.plan.shapes import DecoderShape
from netgpt.graphstore.dataset import GraphSize
from netgpt.trainers.graph.shape import ModelShape

HALF_WIDTH = 300
"""Hidden width at which the language stages run at half of the speed of products: 30% at width 128, 69% at
576 (stage 3)."""
STAGE1_LINEAR_S, STAGE1_SQUARE_S = 7.75e-4, 1.33e-6
"""Seconds of a step of 512 seeds by width and by its square, two cores: 0.12 at width 128, 2.2 at 1,024."""
STAGE1_SEEDS, STAGE1_EDGES = 512, 1_737_622 / 512
"""Of that step, and edges of a seed, at fanout 50 on the full-size store."""
SAMPLED_EDGES = 90e6
"""Edges that one sampling thread samples and relabels a second, all relations."""
EMBED_LINEAR_S, EMBED_SQUARE_S = 0.0192, 2.7e-5
"""Seconds by width and by its square, full-size prefix store, two cores: 2.9 at width 128, 48 at 1,024."""
EMBED_CSR_S = 168 / 128
"""More seconds by width that walking every row of the csr layout takes (175 s at width 128, 2026-11-22)."""
RECORDS_S = 900.0
"""Records that one core tokenises a second, Qwen's tokenizer (released slice, CPU time, 2026-11-22)."""
MEASURED = "docs/measurements.md, 2026-12-01"


PRODUCT, PRODUCTS = 1024, 8
"""Size of the square matrices that are multiplied to find a core's speed, and how often."""


@cache
def core_flops() -> float:
    """Floating-point operations a second of one of this machine's cores in float32 products: the fastest of
    some, since others may be at work."""
    import torch

    from netgpt.trainers.processor import use_cores

    threads = torch.get_num_threads()
    use_cores(1)
    try:
        a, times = torch.rand(PRODUCT, PRODUCT), []
        for _ in range(PRODUCTS):
            start = perf_counter()
            a @ a
            times.append(perf_counter() - start)
    finally:
        use_cores(threads)
    return 2 * PRODUCT**3 / min(times)


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
        core = core_flops()
        rate = core * self.workers * self.threads
        return rate, f"measured now: products of {core / 1e9:.0f} GFLOP/s a core here", False


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
    if not machines.gpus:
        share = shape.hidden / (shape.hidden + HALF_WIDTH)
        rate, basis = rate * share, f"{basis}, {share:.0%} of it at width {shape.hidden} ({MEASURED})"
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
        step = STAGE1_LINEAR_S * shape.hidden + STAGE1_SQUARE_S * shape.hidden**2
        step *= (per_seed / STAGE1_EDGES) ** 0.5
        basis = "measured: 0.12 s a step at width 128, 2.2 s at 1,024, two cores"
        basis += f" ({MEASURED}); by √edges: assumed"
        return Duration(seeds / STAGE1_SEEDS * step * 2 / cores, basis, False)
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
    return Duration(expected, f"measured: 2.9 s at width 128, 48 s at 1,024, two cores ({MEASURED})", False)


def token_duration(size: GraphSize, workers: int) -> Duration:
    basis = f"measured: {RECORDS_S:.0f} records/s a core, Qwen's tokenizer (2026-11-22)"
    return Duration(size.states / (RECORDS_S * workers), basis, False)
