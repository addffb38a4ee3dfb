"""The progress file: JSON for any reader, whatever the values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from netgpt.trainers.progress import PROGRESS, Progress, read_progress


def test_values_that_are_not_finite_are_not_shown(tmp_path: Path) -> None:
    """Such as the best error before there is one."""
    Progress(tmp_path).update(1, 2, "step", loss=0.25, val_mae=math.inf, other=math.nan)
    text = (tmp_path / PROGRESS).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["values"] == {"loss": 0.25}
    progress = read_progress(tmp_path)
    assert progress is not None and progress.values == {"loss": 0.25}
