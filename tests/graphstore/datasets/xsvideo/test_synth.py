"""Synthetic data has the published numbers, and comes to a store the same way records do."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import StoreError
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.datasets.xsvideo.synth import build_synthetic, synthetic_records, write_synthetic
from netgpt.graphstore.datasets.xsvideo.synth.world import group_edges, make_world, quotas

PUBLISHED_NODES = {"video": 381_926, "topic": 535, "comment": 923_045}
PUBLISHED_EDGES = {
    "topic/is_topic_of/video": 381_926,
    "comment/is_comment_of/video": 923_045,
    "video/has_same_author_as/video": 5_372_152,
    "video/has_same_topic_as/video": 1_655_971_954,
    "video/is_history_of/video": 484_364,
}
SMALL = {"encoder": "hash:8", "time_dim": 4, "video_dim": 2}


@pytest.fixture(scope="module")
def twentieth(tmp_path_factory: pytest.TempPathFactory) -> graphstore.Store:
    path = tmp_path_factory.mktemp("synth") / "store"
    build_synthetic(path, 0.05, 3, Config(**SMALL))  # type: ignore[arg-type]
    return graphstore.open(path)


def test_nodes_and_edges_are_the_published_ones_times_the_scale(twentieth: graphstore.Store) -> None:
    for name, number in PUBLISHED_NODES.items():
        assert twentieth.num_nodes[name] == pytest.approx(0.05 * number, rel=0.01), name
    assert twentieth.num_nodes["platform"] == 5
    edges = {"/".join(e): n for e, n in twentieth.num_edges.items()}
    for name, number in PUBLISHED_EDGES.items():
        assert edges[name] == pytest.approx(0.05 * number, rel=0.01), name
    assert len(twentieth.split("train")) == pytest.approx(0.05 * 304_362, rel=0.01)
    assert graphstore.verify(twentieth.path) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_full_scale_numbers(seed: int) -> None:
    world = make_world(1.0, np.random.default_rng(seed))
    num_states = np.diff(world.first_state)
    video_of = np.repeat(np.arange(len(num_states)), num_states)
    day = world.post_s[video_of] // 86_400 + world.age
    assert len(num_states) == 117_720 and len(video_of) == pytest.approx(381_926, rel=1e-3)
    assert world.num_topics == 535 and len(np.unique(world.topic)) == 535
    assert world.num_authors + world.num_commenters == 419_374
    for group, num, target in (
        (world.topic, world.num_topics, 1_655_971_954),
        (world.author, world.num_authors, 5_372_152),
    ):
        assert group_edges(group[video_of], day, num) == pytest.approx(target, rel=1e-3)
    assert int((num_states * (num_states - 1) // 2).sum()) == pytest.approx(484_364, rel=1e-3)
    assert world.num_comments.sum() == pytest.approx(923_045, rel=1e-3)
    # Levels: one peak, at 3, and a long upper tail
    levels = np.bincount(world.level[video_of], minlength=10)
    assert levels.argmax() == 3 and (np.diff(levels[:4]) > 0).all() and (np.diff(levels[3:]) < 0).all()
    assert levels[8] > 0
    # Durations: peaks at 7 and at 38 seconds, none above 5 minutes
    counts, edges = np.histogram(world.duration_s, bins=np.arange(1, 80, 2))
    assert 5 <= edges[counts.argmax()] <= 8 and world.duration_s.max() <= 300
    assert 30 <= edges[8:][counts[8:].argmax()] <= 45
    # States of a video are two days apart or more, the last of several over two weeks old
    same = np.diff(video_of) == 0
    assert np.diff(world.age)[same].min() >= 2
    assert world.age[world.first_state[1:] - 1][num_states > 1].min() >= 14


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=1, max_size=30))
def test_group_edges_counts_pairs(states: list[tuple[int, int]]) -> None:
    group, day = (np.array(column) for column in zip(*states, strict=True))
    naive = sum(
        u != v and states[u][0] == states[v][0] and states[u][1] <= states[v][1]
        for u, v in itertools.product(range(len(states)), repeat=2)
    )
    assert group_edges(group, day, 4) == naive


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=20), st.integers(20, 500), st.integers(0, 1))
def test_quotas_add_up(share: list[float], total: int, least: int) -> None:
    found = quotas(np.array(share), total, least)
    assert found.sum() == total and found.min() >= least
    exact = np.array(share) / sum(share) * (total - least * len(share)) + least
    assert (np.abs(found - exact) < 1 + 1e-9).all()


@pytest.mark.parametrize("layout", ["prefix", "csr"])
def test_straight_to_a_store_equals_the_records(layout: Any, tmp_path: Path) -> None:
    config = Config(**SMALL, layout=layout)
    num = build_synthetic(tmp_path / "a", 0.001, 5, config, json_file=tmp_path / "a.json")
    assert write_synthetic(tmp_path / "b.json", 0.001, 5) == num
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    graphstore.build(tmp_path / "a.json", tmp_path / "b", config)
    one, other = (graphstore.open(tmp_path / n).seal.files for n in "ab")
    assert {n for n in one if one[n] != other[n]} == {"zarr.json"} and one.keys() == other.keys()


def test_records_keep_the_conditions_of_the_release(records: dict[str, Any]) -> None:
    videos: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for state, record in records.items():
        videos.setdefault(record["url"], []).append((state, record))
    for states in videos.values():
        dates = [datetime.fromisoformat(r["当前时间"]) for _, r in states]
        assert all((b - a).days >= 2 for a, b in itertools.pairwise(dates))
        assert dates[0].date() >= datetime.fromisoformat(states[0][1]["发布时间"]).date()
        for i, (_, r) in enumerate(states):
            assert [str(h) for h in r["历史状态"]] == [s for s, _ in states[:i]]
            assert r["影响力等级"] == states[0][1]["影响力等级"]
            for earlier in (e for _, e in states[:i]):  # counters never fall
                assert all(r[k] >= earlier[k] for k in ("当前点赞量", "当前播放量", "当前评论量"))
            for comment in r["评论"].values():
                assert r["发布时间"] < comment["评论时间"] <= r["当前时间"] + " 24"
    assert Counter(r["平台"] for r in records.values()).most_common(1)[0][0] == "抖音"


def test_a_pure_function_of_scale_and_seed(tmp_path: Path) -> None:
    first = list(itertools.islice(synthetic_records(0.001, 7), 50))
    assert first == list(itertools.islice(synthetic_records(0.001, 7), 50))
    assert first != list(itertools.islice(synthetic_records(0.001, 8), 50))
    assert json.loads(json.dumps(first[0][1], ensure_ascii=False)) == first[0][1]
    for inside in ("s", "s/records.json"):
        with pytest.raises(StoreError, match="inside the store"):
            build_synthetic(tmp_path / "s", 0.001, 0, json_file=tmp_path / inside)
    (tmp_path / "d").mkdir()
    with pytest.raises(StoreError, match="found a folder"):
        write_synthetic(tmp_path / "d", 0.001, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    for scale, seed in ((0, 0), (11, 0), (1, -1)):
        with pytest.raises(StoreError, match="expected"):
            next(synthetic_records(scale, seed))
