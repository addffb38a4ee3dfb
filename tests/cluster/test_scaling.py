"""Nested parts of a data set, fitted exponents, and the picture; the work itself is a benchmark's."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.cluster.bench.faults import FAULTS, bench_faults
from netgpt.cluster.bench.faults import SETTINGS as FAULT_SETTINGS
from netgpt.cluster.bench.faults import line as fault_line
from netgpt.cluster.bench.pipeline import line as pipeline_line
from netgpt.cluster.bench.scaling import STAGES, ScalingBench, exponent, keys, line, summary
from netgpt.cluster.bench.scaling_plot import plot
from netgpt.cluster.bench.subsample import BY, choose, write_parts
from netgpt.cluster.config import load_config
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import Store
from netgpt.graphstore.datasets.xsvideo.schema import Config

SHARES = [0.05, 0.2, 0.6, 1.0]


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_are_nested_and_keep_videos_together(store: Store, by: str, seed: int) -> None:
    parts = choose(store, by, SHARES, seed)
    urls = np.asarray(store.key("url")[0])
    for small, large in pairwise(parts):
        assert (large | ~small).all()
    for share, part in zip(SHARES, parts, strict=True):
        for url in np.unique(urls):
            assert len(set(part[urls == url].tolist())) == 1
        assert part.any() and part.sum() <= share * len(part) + 8  # a side may end within a video
    assert parts[-1].all()
    again = choose(store, by, SHARES, seed)
    assert all((a == b).all() for a, b in zip(parts, again, strict=True))


def test_topics_are_whole_and_times_are_nearest_to_the_split(store: Store) -> None:
    topics = np.asarray(store.key("topic")[0])
    for part in choose(store, "topic", SHARES, 0):
        for topic in np.unique(topics[topics >= 0]):
            assert len(set(part[topics == topic].tolist())) == 1
    post = np.asarray(store.post_time)
    train = np.isin(np.arange(len(post)), store.split("train"))
    for share, part in zip(SHARES[:-1], choose(store, "time", SHARES[:-1], 0), strict=True):
        assert post[part & train].min() >= post[~part & train].max()
        assert post[part & ~train].max() <= post[~part & ~train].min()
        for side in (train, ~train):
            assert 0 <= (part & side).sum() - share * side.sum() <= 4


def test_a_part_is_the_store_of_its_records(
    store: Store, records: dict[str, Any], records_path: Path, tmp_path: Path
) -> None:
    """Against picking the records by hand."""
    parts = {tmp_path / f"{i}.json": p for i, p in enumerate(choose(store, "topic", SHARES, 0))}
    parts[tmp_path / "none.json"] = np.zeros(len(store.ids), bool)
    write_parts(records_path, store, parts)
    for path, part in parts.items():
        expected = {name: raw for (name, raw), chosen in zip(records.items(), part, strict=True) if chosen}
        found = json.loads(path.read_text())
        assert found == expected and list(found) == list(expected)
    small = tmp_path / "store"
    graphstore.build(tmp_path / "1.json", small, Config(encoder="hash:8", video_dim=4, time_dim=8))
    assert graphstore.verify(small) == []


@given(st.floats(0.1, 2.5), st.floats(1e-3, 1e3), st.lists(st.integers(10, 10**8), min_size=2, unique=True))
def test_the_exponent_of_a_power_is_found(power: float, factor: float, sizes: list[int]) -> None:
    found = exponent([float(s) for s in sizes], [factor * s**power for s in sizes])
    assert found == pytest.approx(power, rel=1e-6, abs=1e-6)


def test_exponents_of_too_little_are_none() -> None:
    assert exponent([1.0], [2.0]) is None
    assert exponent([5.0, 5.0], [2.0, 3.0]) is None
    assert exponent([5.0, 6.0], [float("nan"), 3.0]) is None


def results() -> list[dict[str, Any]]:
    """Figures that grow with the square root of the nodes in time, and linearly in memory."""
    found = []
    for by, nodes in (("topic", 100), ("time", 100), ("topic", 1000), ("all", 10_000)):
        one = {"seconds": nodes**0.5, "peak_bytes": 5 * nodes}
        stages = {name: dict(one) for name in STAGES}
        stages["stage2"]["steps"] = 20
        stages["tokens"]["peak_bytes"] = None  # type: ignore[assignment]
        found.append(
            {
                **{"by": by, "share": nodes / 10_000, "nodes": nodes, "edges": 9 * nodes, "states": nodes},
                **{"train_states": nodes, "stages": {"build": one, "sample": one}},
                "workers": {"1": stages, "2": stages},
            }
        )
    return found


def test_the_summary_and_the_picture(tmp_path: Path) -> None:
    found = summary(ScalingBench(), results())
    json.dumps(found)
    for by in BY:
        assert set(found["exponents"][by]) == set(keys(results()))
        assert found["exponents"][by]["stage1/2"]["seconds"] == pytest.approx(0.5)
        assert found["exponents"][by]["build"]["peak_bytes"] == pytest.approx(1.0)
        assert found["exponents"][by]["tokens/1"]["peak_bytes"] is None
        assert found["last_exponents"][by]["stage1/2"]["seconds"] == pytest.approx(0.5)
        assert found["last_exponents"][by]["tokens/1"]["peak_bytes"] is None
    assert "stage1/2" in line(found) and "^0.50" in line(found)
    # the smallest part costs more than its share: the fit over all sizes is flatter than that of the last two
    start = results()
    for row in start[:2]:
        row["stages"]["build"] = {**row["stages"]["build"], "seconds": 100**0.5 + 10}
    fits = summary(ScalingBench(), start)
    assert fits["exponents"]["topic"]["build"]["seconds"] < 0.49
    assert fits["last_exponents"]["topic"]["build"]["seconds"] == pytest.approx(0.5)
    assert "10,000 nodes" in line(results()[-1])
    plot(results(), tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shares": (0.5, 0.1)}, "rising shares"),
        ({"shares": (0.5, 1.5)}, "at most 1"),
        ({"shares": ()}, "rising shares"),
        ({"workers": (0,)}, "numbers from 1"),
        ({"steps": 0}, "at least 1"),
    ],
)
def test_wrong_sizes_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        ScalingBench(**changes)


def test_settings_of_benchmarks_are_those_that_there_are() -> None:
    """A key that moved would end each of their runs."""
    assert load_config("demo", FAULT_SETTINGS).graph.epochs == 4
    assert load_config("sample", [*ScalingBench().settings, "task.val_share=0.5"]).stage2.max_steps == 20  # type: ignore[attr-defined]


def test_faults_and_pipelines_are_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="found 'flood', expected one of sampling, stage1"):
        next(bench_faults(["flood"], tmp_path))
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    told = {"fault": "stage1", "what": "a rank", "same_results": True, "as_expected": True, "restarts": 1}
    assert fault_line({**told, "commands": 1, "lost_s": 7.4, "wall_s": 9.0}) == (
        "a rank: same results, 1 restarts, 1 commands, +7 s"
    )
    assert "OTHER RESULTS" in fault_line(
        {**told, "same_results": False, "commands": 1, "lost_s": 0, "wall_s": 1}
    )
    assert "FAILED: gone" in fault_line({"fault": "x", "what": "a rank", "error": "gone"})
    ran = {"what": "netgpt run, 1 workers", "wall_s": 60.0, "stages": {"stage1": 30.0}}
    assert pipeline_line({**ran, "within": True, "over_direct_s": 9.0, "allowed_s": 35.0}) == (
        "netgpt run, 1 workers: 60 s (+9 s, allowed 35): stage1 30"
    )
