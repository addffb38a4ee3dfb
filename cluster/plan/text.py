"""A plan as a table that people read."""

from __future__ import annotations

from netgpt.cluster.plan.memory import GPU_SLACK
from netgpt.cluster.plan.planner import Plan, StagePlan


def size(num_bytes: float) -> str:
    """10^9, 10^6 or 10^3 bytes."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.{1 if num_bytes >= 10 * unit else 2}f} {name}"
    return f"{num_bytes / 1e3:,.0f} kB"


def time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def table(plan: Plan) -> str:
    request, graph = plan.request, plan.graph
    where = (
        f"{request.gpus} GPU{'s' * (request.gpus > 1)} of {request.gpu_memory_gb:g} GB on "
        f"{request.nodes} node{'s' * (request.nodes > 1)}"
        if request.gpus
        else f"{request.workers} CPU workers"
    )
    lines = [
        f"{where}; {plan.shape.name}: {plan.shape.parameters:,} parameters, of them "
        f"{plan.shape.vision:,} of the vision tower",
        f"graph: {graph.source}: {sum(graph.nodes.values()):,} nodes, {graph.edges:,} edges, "
        f"{graph.states:,} states, {graph.train_states:,} of them train",
        "",
        f"{'stage':<12}{'workers':>10}{'trained':>15}{'frozen':>16}{'peak a worker':>16}{'sent a step':>14}"
        f"{'time':>10}",
    ]
    for s in plan.stages:
        workers = f"{s.workers} {'GPU' if s.device == 'cuda' else 'CPU'}"
        lines.append(
            f"{s.name:<12}{workers:>10}{s.trained:>15,}{s.frozen:>16,}{size(s.memory.peak_bytes):>16}"
            f"{size(s.sent_bytes) if s.sent_bytes else '-':>14}{time(s.duration.seconds):>10}"
        )
    for s in plan.stages:
        lines += ["", *_stage(s)]
    lines += ["", *_budget(plan)]
    lines += ["", "a node's host memory, besides " + ("GPUs" if request.gpus else "the workers above")]
    lines += [f"    {t.name:<58}{size(t.num_bytes):>10}" for t in plan.host if t.num_bytes]
    lines.append(f"    {'page cache that helps: the mapped store':<58}{size(graph.store_bytes):>10}")
    if request.gpus:
        lines.append(f"    {'page cache that helps: the base model':<58}{size(plan.shape.file_bytes):>10}")
    lines += ["", "disk"]
    lines += [f"    {t.name:<58}{size(t.num_bytes):>10}" for t in plan.disk]
    if plan.unpack_bytes:
        lines.append(f"network: each node reads the packed store once, {size(plan.unpack_bytes)}")
    lines += ["", *(f"note: {note}" for note in plan.notes)]
    return "\n".join(lines)


def _stage(s: StagePlan) -> list[str]:
    what = "a GPU" if s.device == "cuda" else "a process"
    lines = [f"{s.name}: {what}, at its largest ({s.memory.moment})"]
    lines += [f"    {t.name:<42}{size(t.num_bytes):>10}" for t in s.memory.terms]
    if s.with_checkpointing:
        lines.append(
            f"    activations: {size(s.without_checkpointing)} without activation checkpointing, "
            f"{size(s.with_checkpointing)} with it"
        )
    lines.append(f"    time: {time(s.duration.seconds)} ({s.duration.basis})")
    return lines


def _budget(plan: Plan) -> list[str]:
    if plan.budget is None:
        return []
    usable = f"{size(plan.request.usable_bytes)} of a GPU ({1 - GPU_SLACK:.0%}, assumed)"
    if not plan.budget.tokens:
        least = plan.request.config.language.max_tokens
        return [f"no pack of language.max_tokens ({least}) fits {usable}: {plan.budget.advice}"]
    return [f"largest token budget in {usable}: {plan.budget.advice}"]
