"""What a Ray of a command's own is spared, which ends with it."""

from __future__ import annotations

import pytest

from netgpt.cluster.workers.session import is_local, ray_session
from netgpt.cluster.workers.training import trainer_class


def test_only_a_ray_that_stays_is_cleaned_up_behind_a_dead_controller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with ray_session(num_cpus=1):
        assert is_local()  # also while it runs
        from ray.train import ScalingConfig

        def callbacks(local: bool) -> list[str]:
            trainer = trainer_class(local)(lambda: None, scaling_config=ScalingConfig(num_workers=2))
            return [type(one).__name__ for one in trainer._create_default_callbacks()]  # type: ignore[attr-defined]

        kept = [name for name in callbacks(False) if name != "PlacementGroupCleanerCallback"]
        assert callbacks(True) == kept != callbacks(False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.2:6379")
    assert not is_local()
