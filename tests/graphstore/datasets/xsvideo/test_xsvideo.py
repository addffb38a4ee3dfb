"""XS-Video keeps the contract of data sets, and says what its columns, documents and figures promise."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netgpt.graphstore import Store
from netgpt.graphstore.datasets.xsvideo import XSVideo
from netgpt.graphstore.datasets.xsvideo.records import TEXT_KEYS
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.features import DAY_S
from tests.contracts.dataset import DatasetTests


class TestXSVideo(DatasetTests):
    dataset, config = XSVideo(), Config(encoder="hash:16", time_dim=4, video_dim=2)

    def parts(self, source: Path, folder: Path) -> tuple[Path, Path]:
        items = list(json.loads(source.read_text(encoding="utf-8")).items())
        middle = next(i for i in range(90, 120) if not items[i][1]["历史状态"])
        for name, part in (("first", items[:middle]), ("second", items[middle:])):
            (folder / f"{name}.json").write_text(json.dumps(dict(part), ensure_ascii=False), encoding="utf-8")
        return folder / "first.json", folder / "second.json"


def test_columns_of_age_equal_a_plain_reading(store: Store, records: dict[str, Any]) -> None:
    days = store.column("video", "age_days").tolist()
    zero = store.column("video", "age_zero").tolist()
    counters = ("当前点赞量", "当前播放量", "当前分享量", "当前收藏量", "当前评论量")
    for v, raw in enumerate(records.values()):
        posted = datetime.fromisoformat(raw["发布时间"])
        sampled = datetime.fromisoformat(raw["当前时间"])
        assert days[v] == (sampled - datetime(posted.year, posted.month, posted.day)).days
        age_s = (sampled - posted).total_seconds()
        untouched = all(raw[key] == 0 for key in counters)
        assert zero[v] == (untouched and -DAY_S < age_s <= 0)
    assert 0 < sum(zero) < len(zero)


def test_the_document_says_what_a_prompt_may_cut_and_learn_by_heart(store: Store) -> None:
    document = store.schema.document("video")
    assert document is not None and tuple(f.name for f in document.fields) == TEXT_KEYS
    assert [(f.name, f.cut) for f in document.fields if f.cut] == [("描述", 1), ("标题", 2)]
    (items,) = [f for f in document.fields if f.items is not None]
    assert items.name == "评论" and items.items is not None
    assert (items.items.time, items.items.until) == ("评论时间", "当前时间")
    free = {f.name for f in document.fields if f.free}
    assert free == {*TEXT_KEYS[:5], "发布时间", "当前时间", "评论", "历史状态"}
    assert store.schema.document("title") is None


def test_steps_are_the_rules_thresholds(store: Store) -> None:
    steps = {n.name: n.steps for n in store.schema.node_types if n.steps}
    assert set(steps) == {"views", "likes", "shares", "collects", "comments"}
    assert steps["likes"] == (0, 10, 20, 80, 300, 1_000, 3_000, 10_000, 50_000)
    assert steps["views"] == (0, 100, 100_000, 1_000_000, 10_000_000, 100_000_000, 200_000_000)


def test_published_figures_and_sizes(store: Store) -> None:
    dataset = XSVideo()
    (main,) = [row for row in dataset.published if row.main]
    assert (main.name, main.figures) == ("NetGPT", {"acc": "0.6777", "mse": "0.7169", "mae": "0.5457"})
    assert len(dataset.published) == 17
    size = dataset.sizes(Config(), text_dim=1024, video_dim=3584)
    assert size.edges == 1_667_716_553 and sum(size.nodes.values()) == 5_506_697
    assert size.schema.edge_types == store.edge_types and set(size.dims) == set(store.node_types)
    batch = size.batch(64, 10)
    assert (batch.tails, batch.nodes["video"], batch.edges) == (943, 9_038, 25_609)
    assert dataset.sizes(Config(layout="csr")).store_bytes > dataset.sizes(Config()).store_bytes
    assert dataset.shown("platform", "抖音") == "Douyin" and dataset.shown("platform", "") == "no platform"
    assert list(dataset.commands()) == ["annotate"]


def test_cells_are_rule_zero_and_platform(store: Store, records: dict[str, Any]) -> None:
    nodes = np.array([5, 0, 100])
    cell, rule = XSVideo().cells(store, nodes)
    platforms = store.category("video", "platform")[1]
    for i, v in enumerate(nodes.tolist()):
        raw = list(records.values())[v]
        zero = not any(raw[k] for k in ("当前点赞量", "当前播放量", "当前分享量", "当前收藏量", "当前评论量"))
        code = list(platforms).index(raw["平台"])
        assert cell[i] == (rule[i] * 2 + zero) * 1000 + code + 1
    assert rule.min() >= 0


@pytest.mark.parametrize("name", ["age_zero", "label"])
def test_numbers_have_their_bounds(store: Store, name: str) -> None:
    column = store.schema.node_type("video").column_named(name)
    assert column is not None and column.number_type == np.int8 and column.low == 0
