"""One whole run, for the tests of `test_run.py` and those that it takes in (`…_cases.py`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from runs import SETTINGS, netgpt

pytest.register_assert_rewrite("place_cases", "service_cases")


@pytest.fixture(scope="session")
def data(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(records of most videos, records of the last videos without their level)."""
    root = tmp_path_factory.mktemp("run-data")
    urls = list(dict.fromkeys(r["url"] for r in records.values()))
    new_urls = set(urls[-3:])
    old = {k: r for k, r in records.items() if r["url"] not in new_urls}
    new = {
        k: {key: value for key, value in r.items() if key != "影响力等级"}
        for k, r in records.items()
        if r["url"] in new_urls
    }
    for name, value in (("old", old), ("new", new)):
        (root / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return root / "old.json", root / "new.json"


@pytest.fixture(scope="session")
def whole(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = netgpt("run", "--config", "demo", "--data", data[0], "--out", run, *SETTINGS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RGCN" in done.stdout and "lookup" in done.stdout and "NetGPT" in done.stdout
    return run
