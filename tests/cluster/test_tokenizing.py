"""The token cache by Ray Data against the same made in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from netgpt.cluster.stages import Resources
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.session import ray_session
from netgpt.cluster.workers.tokenizing import tokenize_on_ray
from netgpt.graphstore import Store
from netgpt.graphstore.files import read_json
from netgpt.trainers import stage
from netgpt.trainers.config import LanguageConfig, TinyConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.load import make_base, make_tokens
from netgpt.trainers.language.text import tokens as token_cache
from netgpt.trainers.settings import Settings, StageJob


def test_many_blocks_on_two_actors_are_the_cache_of_one_process(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = TinyConfig(hidden=32, heads=2, vocab=600)
    settings = Settings(language=LanguageConfig(max_tokens=700, token_budget=700, max_comments=3, tiny=tiny))
    (tmp_path / "base").mkdir()
    make_base(store, settings, tmp_path / "base")
    expected = tmp_path / "expected"
    expected.mkdir()
    counts = make_tokens(tmp_path, store, settings, expected)
    monkeypatch.setattr(token_cache, "BLOCK", 17)

    def job(changed: Settings) -> StageJob:
        return StageJob(stage="tokens", run=tmp_path, store=store.path, settings=changed, inputs={})

    pool, in_place = Resources(2, 1, 0, 0), NodeStore(str(store.path), store.digest)
    with ray_session(num_cpus=2):
        job(settings).prepare()
        tokenize_on_ray(job(settings), pool, in_place)
        manifest = stage.read_manifest(tmp_path / "tokens")
        assert manifest is not None and manifest["metrics"] == counts
        assert stage.is_done(tmp_path / "tokens", {})
        for name in token_cache.ARRAYS:
            found, whole = (folder / name / "c" / "0" for folder in (tmp_path / "tokens", expected))
            assert found.read_bytes() == whole.read_bytes(), name
        attributes = [read_json(p / "zarr.json")["attributes"] for p in (tmp_path / "tokens", expected)]
        assert attributes[0] == attributes[1]
        # A record too long for the limit: the worker's error, and no manifest
        short = Settings(language=LanguageConfig(max_tokens=300, token_budget=300, max_comments=3, tiny=tiny))
        job(short).prepare()
        with pytest.raises(TrainerError, match=r"record '\d+': found \d+ tokens without its comments"):
            tokenize_on_ray(job(short), pool, in_place)
        assert stage.read_manifest(tmp_path / "tokens") is None
