"""Benchmarks run, say on what, and count what they say they count."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.bench.build import bench_edges, bench_synth, line
from cluster.bench.measure import measure


def test_a_failed_process_is_not_ok_and_memory_is_its_peak() -> None:
    assert not measure("raise SystemExit(3)").ok
    small, large = measure("pass"), measure("x = bytearray(200_000_000)")
    assert small.ok and large.ok
    assert 190e6 < large.peak_bytes - small.peak_bytes < 260e6


@pytest.mark.parametrize("peer_edges", [0, 10**6])
def test_build(peer_edges: int, tmp_path: Path) -> None:
    (result,) = bench_edges([20_000], 200_000, peer_edges, tmp_path)
    assert all(result[step]["ok"] for step in ("build", "open", "verify", "pack", "unpack"))
    assert result["build"]["edges_per_s"] == pytest.approx(20_000 / result["build"]["wall_s"])
    assert result["store_bytes"] > 20_000 * 4
    assert ("pyg_sort_edge_index" in result) == (peer_edges > 0)
    if peer_edges:
        for peer in ("pyg_sort_edge_index", "torch_coo_to_csr"):
            assert result[peer]["ok"] and result[peer]["times_slower"] > 0
    assert list(tmp_path.iterdir()) == []


def test_synthetic_stores_of_both_layouts(tmp_path: Path) -> None:
    prefix, csr = bench_synth([0.0005], 10**6, tmp_path)
    assert (prefix["layout"], csr["layout"]) == ("prefix", "csr")
    assert prefix["num_edges"] == csr["num_edges"] and prefix["relation_bytes"] < csr["store_bytes"]
    assert all(csr[step]["ok"] for step in ("build", "open", "verify", "pack", "unpack"))
    assert csr["pyg_sort_edge_index"]["ok"] and "pyg_sort_edge_index" not in prefix
    assert line(csr).startswith("synth 0.0005 csr ") and "pyg_sort_edge_index" in line(csr)
    assert "ms" in line(prefix) and "failed" not in line(prefix)
