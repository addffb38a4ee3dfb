"""Benchmarks run, say on what, and count what they say they count."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.bench.build import bench_build
from cluster.bench.measure import measure


def test_a_failed_process_is_not_ok_and_memory_is_its_peak() -> None:
    assert not measure("raise SystemExit(3)").ok
    small, large = measure("pass"), measure("x = bytearray(200_000_000)")
    assert small.ok and large.ok
    assert 190e6 < large.peak_bytes - small.peak_bytes < 260e6


@pytest.mark.parametrize("peer_edges", [0, 10**6])
def test_build(peer_edges: int, tmp_path: Path) -> None:
    (result,) = bench_build([20_000], 200_000, peer_edges, tmp_path)
    assert result["netgpt"]["ok"]
    assert result["netgpt"]["edges_per_s"] == pytest.approx(20_000 / result["netgpt"]["wall_s"])
    assert result["store_bytes"] > 20_000 * 4
    assert ("pyg_sort_edge_index" in result) == (peer_edges > 0)
    if peer_edges:
        assert result["pyg_sort_edge_index"]["ok"]
        assert result["times_faster"] > 0
    assert list(tmp_path.iterdir()) == []
