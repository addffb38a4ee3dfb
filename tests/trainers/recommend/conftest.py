"""What the recommenders' tests share."""

from __future__ import annotations

import pytest

from netgpt.trainers.recommend.data import Interactions
from tests.recommend import store_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Interactions:
    return Interactions.of(store_of(tmp_path_factory.mktemp("pairs")))
