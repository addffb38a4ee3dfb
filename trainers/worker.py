"""Runs one stage in this process, which may be one of several ranks. Knows nothing of who started it.

Ray's workers call `run_stage`; `torchrun -m netgpt.trainers.worker JOB.json` and
`python -m netgpt.trainers.worker JOB.json` do the same without Ray.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.files import atomic_file, write_json
from netgpt.sampler import SamplingEngine
from netgpt.trainers import distributed, stage
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.evaluate import PREDICTIONS, Scores, all_metrics, write_predictions
from netgpt.trainers.graph.encoders import TITLES
from netgpt.trainers.graph.exact import cache_digests, open_cache, write_cache
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import MODEL, SAMPLED, GraphTrainer, load_model, sampled_scores
from netgpt.trainers.logs import stage_log
from netgpt.trainers.progress import Progress
from netgpt.trainers.settings import SINGLE_WORKER_STAGES, StageJob
from netgpt.trainers.splits import make_splits

METRICS = "metrics.json"
COLLECTIVE_HOURS = 12
"""How long ranks wait for each other: rank 0 alone evaluates, and that may take long on a large graph."""
Made = tuple[list[str], dict[str, Any]]
"""What a stage made: files or folders in its folder, and its metrics."""


def run_stage(job: StageJob, engine: SamplingEngine | None = None) -> None:
    """Run a prepared stage to its manifest. `engine` samples for stage 1; without one this process does."""
    with stage_log(job.run, job.stage, distributed.rank()) as log:
        log.info("%s: %d ranks, %s, from %s", job.stage, distributed.world_size(), job.device, job.store)
        _run_stage(job, engine)
        log.info("%s: done", job.stage)


def _run_stage(job: StageJob, engine: SamplingEngine | None) -> None:
    start = time.perf_counter()
    torch.set_num_threads(job.num_threads)
    # Same bits in every run: forbid the few operations that have no deterministic form
    torch.use_deterministic_algorithms(True, warn_only=job.device == "cuda")
    # … but do not fill fresh memory: nothing here reads it, and filling costs more than training
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    store = graphstore.open(str(job.store))
    if job.stage not in _STAGES:
        raise TrainerError(f"stage: found {job.stage!r}, expected one of {', '.join(_STAGES)}")
    if job.stage in SINGLE_WORKER_STAGES and distributed.world_size() > 1:
        raise TrainerError(f"{job.stage}: found {distributed.world_size()} processes, expected one")
    outputs, metrics = _STAGES[job.stage](job, store, engine)
    cost = _cost(job, time.perf_counter() - start)
    if distributed.rank() == 0:
        stage.finish(job.folder, job.inputs, outputs, metrics, cost)
    distributed.barrier()


def _cost(job: StageJob, seconds: float) -> dict[str, Any]:
    """What a stage took: seconds of this process, start-up not counted; bytes of the rank that took most,
    resident (pages of mapped files too) and on its device."""
    device = torch.cuda.max_memory_allocated() if job.device == "cuda" else 0
    mine = [distributed.peak_resident_bytes(), device]
    peak = torch.tensor(mine, dtype=torch.int64, device=distributed.device(job.device))
    resident, allocated = distributed.max_across_ranks(peak).tolist()
    found = {"seconds": seconds, "peak_bytes": resident}
    return {**found, **({"device_peak_bytes": allocated} if job.device == "cuda" else {})}


def _progress(job: StageJob, unit: str) -> Callable[[int, int], None]:
    progress = Progress(job.folder if distributed.rank() == 0 else None)
    return lambda done, total: progress.update(done, total, unit)


def _pretrain(job: StageJob, store: Store, engine: SamplingEngine | None) -> Made:
    settings = job.settings
    splits = make_splits(store, settings.graph.val_share)
    trainer = GraphTrainer(
        settings.graph,
        settings.sampler,
        store,
        splits,
        job.folder,
        seed=settings.seed,
        evaluation=settings.evaluation,
        key=job.key,
        device=distributed.device(job.device),
        engine=engine,
    )
    metrics = trainer.run()
    return [name for name in (MODEL, SAMPLED) if (job.folder / name).exists()], metrics


def _embed(job: StageJob, store: Store, engine: SamplingEngine | None) -> Made:
    device = distributed.device(job.device)
    pretrained = job.run / "stage1"
    model = load_model(pretrained, store, device)
    digests = cache_digests(pretrained / MODEL, store)
    tables = FeatureTables(store, device, max_bytes=0, hidden_types=model.shape.hidden_types)
    memory_bytes = job.settings.graph.inference_bytes
    progress = _progress(job, "relation")
    write_cache(job.folder, model, tables, digests, memory_bytes=memory_bytes, progress=progress)
    return ["zarr.json", "h", "score"], {}


def _make_base(job: StageJob, store: Store, engine: SamplingEngine | None) -> Made:
    from netgpt.trainers.language.load import make_base

    return ["model"], make_base(store, job.settings, job.folder)


def _make_tokens(job: StageJob, store: Store, engine: SamplingEngine | None) -> Made:
    from netgpt.trainers.language.load import make_tokens
    from netgpt.trainers.language.text.tokens import ARRAYS

    return ["zarr.json", *ARRAYS], make_tokens(job.run, store, job.settings, job.folder)


def _language(job: StageJob, store: Store, engine: SamplingEngine | None) -> Made:
    from netgpt.trainers.language import load
    from netgpt.trainers.language.curve import Groups
    from netgpt.trainers.language.train import WEIGHTS, LanguageTrainer, load_weights

    settings, device = job.settings, distributed.device(job.device)
    splits = make_splits(store, settings.graph.val_share)
    with_graph = job.stage != load.LORA
    graph = load.graph_states(job.run, store, settings) if with_graph else None
    builder = load.prompt_builder(job.run, settings, with_graph=with_graph)
    levels = np.asarray(store.labels).astype(np.int64)
    model: Any
    if graph is None:
        model = load.make_lora(job.run, settings, builder, device)
    else:
        model = load.make_netgpt(job.run, settings, builder, len(graph.mean), device)
        if job.stage == "stage3":
            load_weights(model, job.run / "stage2" / WEIGHTS, model.stage_parameters("stage2"))
            starts_at = 0.0 if settings.stage3.start == "graph" else float(levels[splits.train].mean())
            model.start_head_at(starts_at)
    trainer = LanguageTrainer(
        job.stage,
        settings.language,
        {"stage2": settings.stage2, "stage3": settings.stage3, load.LORA: settings.lora}[job.stage],
        model,
        load.trained_parameters(model, job.stage, settings),
        load.make_samples(job.run, store, settings, builder, splits.train, graph, device),
        load.make_samples(job.run, store, settings, builder, splits.val, graph, device),
        levels,
        job.folder,
        seed=settings.seed,
        key=job.key,
        groups=Groups(*store.key("platform")),
    )
    return [WEIGHTS], trainer.run()


def _evaluate(job: StageJob, store: Store, engine: SamplingEngine | None) -> Made:
    from netgpt.trainers.language.evaluate import language_scores

    settings = job.settings
    splits = make_splits(store, settings.graph.val_share)
    found = Scores()
    measured = job.inputs.get("measured", ("embeddings", "stage2", "stage3"))
    if "embeddings" in measured:
        _, rgcn = open_cache(job.run / "embeddings", cache_digests(job.run / "stage1" / MODEL, store))
        found.add("stage1", np.asarray(rgcn, np.float64))
        if (sampled := sampled_scores(job.run / "stage1")) is not None:
            found.add("stage1_sampled", sampled, parts=("val", "test"))
    device = distributed.device(job.device)
    stages = [name for name in ("stage2", "stage3", "lora") if name in measured]
    language_scores(job.run, store, settings, stages, device, found, _progress(job, "pack"))
    metrics: dict[str, Any] = {}
    if distributed.rank() == 0:
        metrics = all_metrics(
            store,
            splits,
            found,
            encoder=TITLES[settings.graph.encoder],
            period_days=settings.evaluation.period_days,
        )
        with atomic_file(job.folder / PREDICTIONS) as temporary:
            write_predictions(temporary, store, splits, found)
        write_json(job.folder / METRICS, metrics)
    return [PREDICTIONS, METRICS], metrics


_STAGES: dict[str, Callable[[StageJob, Store, SamplingEngine | None], Made]] = {
    "stage1": _pretrain,
    "embeddings": _embed,
    "base": _make_base,
    "tokens": _make_tokens,
    "stage2": _language,
    "stage3": _language,
    "lora": _language,
    "evaluation": _evaluate,
}


def use_process_group(device: str) -> None:
    """Join torchrun's process group, or make one of this process alone (DeepSpeed wants one)."""
    # DeepSpeed builds kernels with ninja, which lies beside this Python and need not be on the PATH
    os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    if dist.is_initialized():
        return
    backend = "nccl" if device == "cuda" else "gloo"
    timeout = timedelta(hours=COLLECTIVE_HOURS)
    if "RANK" in os.environ:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend, timeout=timeout)
    else:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)


def main() -> None:
    job = StageJob.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    use_process_group(job.device)
    try:
        done = distributed.broadcast_object(stage.is_done(job.folder, job.inputs))
        if done:
            return
        if distributed.rank() == 0:
            job.prepare()
        distributed.barrier()
        run_stage(job)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
