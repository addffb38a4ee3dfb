"""A stage of parts by a pool of actors, the token cache, against the same made in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from netgpt.cluster.config import load_config
from netgpt.cluster.workers.mapped import run_mapped
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.resources import Resources
from netgpt.cluster.workers.session import ray_session
from netgpt.graphstore import Store
from netgpt.graphstore.files import read_json
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.text import tokens as token_cache
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.base import MappedStage, StageJob
from netgpt.trainers.stages.session import run_stage


def settings(longest: int) -> Settings:
    changes = [
        *(f"language.max_tokens={longest}", f"language.token_budget={longest}", "language.max_comments=3"),
        *("language.tiny.hidden=32", "language.tiny.heads=2", "language.tiny.vocab=600"),
        *("language.tiny.warmup_steps=0", "task.val_share=0.3"),
    ]
    return load_config("demo", changes).settings


@pytest.mark.all
def test_many_blocks_on_two_actors_are_the_cache_of_one_process(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def job(run: str, stage: str, longest: int = 700) -> StageJob:
        made = StageJob(
            stage=stage, run=tmp_path / run, store=store.path, settings=settings(longest), inputs={}
        )
        made.prepare()
        return made

    for name in ("base", "tokens"):
        run_stage(job("here", name))
    expected, found = tmp_path / "here" / "tokens", tmp_path / "pool" / "tokens"
    shutil.copytree(tmp_path / "here" / "base", tmp_path / "pool" / "base")
    counts = folder.read_manifest(expected)
    assert counts is not None
    monkeypatch.setattr(token_cache, "BLOCK", 17)
    pool, in_place = Resources(2, 1, 0, 0), NodeStore(str(store.path), store.digest)

    def on_pool(made: StageJob) -> None:
        stage = made.described
        assert isinstance(stage, MappedStage) and len(stage.parts(store)) > 5
        run_mapped(stage, made, pool, in_place)

    with ray_session(num_cpus=2):
        on_pool(job("pool", "tokens"))
        manifest = folder.read_manifest(found)
        assert manifest is not None and manifest["metrics"] == counts["metrics"]
        assert folder.is_done(found, {}) and manifest["outputs"].keys() == counts["outputs"].keys()
        for name in token_cache.ARRAYS:
            mine, whole = (place / name / "c" / "0" for place in (found, expected))
            assert mine.read_bytes() == whole.read_bytes(), name
        attributes = [read_json(place / "zarr.json")["attributes"] for place in (found, expected)]
        assert attributes[0] == attributes[1]
        # A record too long for the limit: the worker's error, and no manifest
        with pytest.raises(
            TrainerError, match=r"record '\d+': found \d+ tokens without 评论, 描述, 标题, expected at most"
        ):
            on_pool(job("pool", "tokens", 300))
        assert folder.read_manifest(found) is None
