"""Shared fixtures: the released sample where it is, a small synthetic data set, and stores of both."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.datasets.xsvideo.synth import synthetic_records

# Before torch is imported: on the tests' small tensors two threads mostly wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers are nice by default and would wait for the tests of the other process
os.environ.setdefault("RAY_worker_niceness", "0")
# Ray reads it when it is imported, which a test may do before there is a session
os.environ.setdefault("RAY_AUTH_MODE", "token")

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "xs-video" / "sample.json"
SMALL = Config(encoder="hash:32", time_dim=8, video_dim=4)


@pytest.fixture(scope="session")
def sample_path() -> Path:
    if not SAMPLE.exists():
        pytest.skip("the released sample is not beside this checkout (../shared/data/xs-video/sample.json)")
    return SAMPLE


@pytest.fixture(scope="session")
def records() -> dict[str, Any]:
    """About 200 synthetic states in the released layout."""
    return dict(synthetic_records(0.0005, seed=1))


@pytest.fixture(scope="session")
def records_path(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "records.json"
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def store(records_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("stores") / "prefix"
    graphstore.build(records_path, out, SMALL)
    return graphstore.open(out)


@pytest.fixture(scope="session")
def csr_store(records_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("stores") / "csr"
    config = Config(encoder="hash:32", time_dim=8, video_dim=4, layout="csr")
    graphstore.build(records_path, out, config)
    return graphstore.open(out)
