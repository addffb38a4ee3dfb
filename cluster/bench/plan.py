"""What `netgpt plan` says of a stage's peak memory, beside what small stages take.

Each case is prepared and run in processes of its own; nothing is taken off either figure.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from netgpt.cluster.bench.measure import machine, measure
from netgpt.cluster.bench.plan_runs import run_peaks, stage_job
from netgpt.cluster.config import ClusterConfig, RunConfig, load_config
from netgpt.cluster.plan.planner import make_plan
from netgpt.cluster.plan.request import PlanRequest
from netgpt.cluster.plan.shapes import DecoderShape
from netgpt.trainers.config import GraphConfig, LanguageConfig

CLOSE = 0.15
"""The share that a prediction may be off."""
STATES = 0.0001
"""Scale of the store of a language case: 12 videos, a handful of packs."""
_A = DecoderShape(hidden=512, layers=12, heads=8, kv_heads=2, intermediate=1536, vocab=8192)
_B = DecoderShape(hidden=768, layers=6, heads=12, kv_heads=4, intermediate=3072, vocab=16384)
_C = DecoderShape(hidden=1024, layers=8, heads=8, kv_heads=8, intermediate=2816, vocab=32768)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A small stage."""

    name: str
    stage: str
    decoder: DecoderShape | None = None
    token_budget: int = 2048
    world_size: int = 1
    accumulation: int = 1
    activation_checkpointing: bool = False
    scale: float = STATES
    width: int = 64
    """Width of node embeddings."""
    batch_size: int = 64
    inference_gb: float = 1.0

    def config(self, root: Path) -> RunConfig:
        """The configuration that is planned, and run."""
        language = LanguageConfig(
            model=str(root / "model") if self.decoder else "tiny",
            max_tokens=1000,
            token_budget=self.token_budget,
            packs_per_step=self.world_size * self.accumulation,
            activation_checkpointing=self.activation_checkpointing,
        )
        graph = GraphConfig(
            hidden=self.width, batch_size=self.batch_size, epochs=1, inference_gb=self.inference_gb
        )
        return replace(
            load_config("sample", ["stage2.epochs=1", "stage3.epochs=1"]),
            graph=graph,
            language=language,
            cluster=ClusterConfig(workers=self.world_size, sampling_workers=0),
        )


CASES = (
    Case(name="process-graph", stage="stage1", width=8, scale=0.005, batch_size=16),
    Case(
        name="process-language",
        stage="stage3",
        decoder=replace(_A, hidden=64, layers=6, heads=2, intermediate=64, vocab=2560),
        token_budget=1024,
    ),
    Case(name="stage3-narrow", stage="stage3", decoder=_A),
    Case(name="stage3-two-ranks", stage="stage3", decoder=_B, world_size=2),
    Case(name="stage3-summed", stage="stage3", decoder=_B, token_budget=1536, accumulation=2),
    Case(name="stage3-checkpointing", stage="stage3", decoder=_C, activation_checkpointing=True),
    Case(name="stage2", stage="stage2", decoder=_B, token_budget=3072),
    Case(name="stage2-two-ranks", stage="stage2", decoder=_C, token_budget=1536, world_size=2),
    Case(name="stage1-wide", stage="stage1", width=1024, scale=0.01),
    Case(name="stage1-large-batch", stage="stage1", width=512, scale=0.01, batch_size=256),
    Case(name="embeddings", stage="embeddings", width=512, scale=0.2, inference_gb=2.0),
)
"""The first two are little more than the process itself, whose size is a constant of the plan."""

_PREPARE = """
import sys
from netgpt.cluster.bench.plan_runs import prepare
prepare(*sys.argv[1:])
"""


def bench_plan(cases: list[Case], scratch: Path | None) -> Iterator[dict[str, Any]]:
    """One result a case, as they come: predicted and measured bytes of the largest rank."""
    # Compiling kernels, once a checkout, takes memory that no later process takes
    for warm_up in CASES[:2]:
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            run_case(warm_up, Path(name))
    for case in cases:
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            yield run_case(case, Path(name))


def run_case(case: Case, root: Path) -> dict[str, Any]:
    config = case.config(root)
    settings = config.settings
    shape = json.dumps(asdict(case.decoder) if case.decoder else {})
    if not measure(_PREPARE, root, json.dumps(settings.to_dict()), case.stage, shape, case.scale).ok:
        raise RuntimeError(f"{case.name}: was not prepared")
    predicted = make_plan(PlanRequest(config=config, gpus=0, store=root / "store")).stage(case.stage).memory
    peaks = run_peaks(root, stage_job(root, settings, case.stage), case.world_size)
    error = predicted.peak_bytes / max(peaks) - 1
    return {
        "bench": "plan",
        **asdict(case),
        "machine": machine(),
        "predicted_bytes": predicted.peak_bytes,
        "moment": predicted.moment,
        "terms": {t.name: t.num_bytes for t in predicted.terms},
        "measured_bytes": peaks,
        "error": error,
        "close": abs(error) <= CLOSE,
    }


def line(result: dict[str, Any]) -> str:
    """A result as text."""
    measured = max(result["measured_bytes"])
    mark = "" if result["close"] else f"  more than {CLOSE:.0%} off"
    return (
        f"{result['name']:<22}predicted {result['predicted_bytes'] / 1e6:>6,.0f} MB  measured "
        f"{measured / 1e6:>6,.0f} MB  {result['error']:>+7.1%}  ({result['moment']}){mark}"
    )
