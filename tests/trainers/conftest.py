"""What the trainers' tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from netgpt.trainers.worker import use_process_group


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    """A group of this process alone, which ZeRO-2 wants. It is made once, and notes its rank in the
    environment, which commands of later files would inherit."""
    before = dict(os.environ)
    use_process_group("cpu")
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    yield
    os.environ.clear()
    os.environ.update(before)
