"""A whole run of the program, as tests of several files have it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SETTINGS = [
    *("build.encoder=hash:32", "build.time_dim=8", "build.video_dim=4", "sampler.fanout=5"),
    *("graph.hidden=8", "graph.epochs=8", "graph.patience=8", "graph.batch_size=32", "task.val_share=0.5"),
    "without=CV",
    *("language.max_tokens=700", "language.token_budget=1400", "language.max_comments=2"),
    *("language.tiny.hidden=32", "language.tiny.heads=2", "language.tiny.vocab=600"),
    *("language.tiny.warmup_steps=2", "stage2.epochs=1", "stage2.checkpoint_steps=3"),
    *("stage3.epochs=2", "stage3.checkpoint_steps=3"),
]
GPUS = ["cluster.device=cuda", "cluster.workers=512", "graph.batch_size=512", "language.packs_per_step=512"]
WEIGHTS = {
    "stage1": "model.safetensors",
    "base": "model/model.safetensors",
    "stage2": "netgpt.safetensors",
    "stage3": "netgpt.safetensors",
}


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "netgpt", *(str(a) for a in args)]


def netgpt(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=1700, cwd=cwd, check=False)


def alone(data: Path) -> dict[str, Any]:
    """New records, none of which speaks of another."""
    return {k: {**r, "历史状态": []} for k, r in json.loads(data.read_text(encoding="utf-8")).items()}
