"""Statistics of a store against a plain reading of its records."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from typer.testing import CliRunner

from netgpt import graphstore
from netgpt.cluster.cli import app
from netgpt.graphstore import Store, StoreError
from netgpt.graphstore.datasets.xsvideo.plots import write_plots
from netgpt.graphstore.datasets.xsvideo.statistics import QUANTILES, statistics, statistics_table
from tests.conftest import SMALL


def days(record: dict[str, Any]) -> int:
    posted, sampled = (datetime.fromisoformat(record[k][:10]) for k in ("发布时间", "当前时间"))
    return (sampled - posted).days


def test_values_equal_a_plain_reading(store: Store, records: dict[str, Any]) -> None:
    found, rows = statistics(store), list(records.values())
    duration = [r["视频时长（秒）"] for r in rows]
    assert list(found["durations_s"]["quantiles"].values()) == pytest.approx(
        np.quantile(duration, QUANTILES), rel=1e-5
    )
    assert found["durations_s"]["bins"] == [sum(5 * i <= d < 5 * i + 5 for d in duration) for i in range(61)]
    for key, name in (("话题", "topics"), ("平台", "platforms")):
        counts = Counter(r[key] for r in rows)
        assert found[name]["num"] == len(counts)
        assert found[name]["sizes"] == sorted(counts.values(), reverse=True)
        assert all(counts[value] == num for value, num in found[name]["states"].items())
    for split in ("train", "test"):
        expected = Counter(
            r["影响力等级"] for r in rows if (r["发布时间"][:10] <= "2024-12-20") == (split == "train")
        )
        assert found["levels"][split] == [expected[level] for level in range(10)]
    ages = [days(r) for r in rows]
    assert found["observation_days"] == {
        "0 to 3": sum(a <= 3 for a in ages),
        "4 to 7": sum(3 < a <= 7 for a in ages),
        "above 7": sum(a > 7 for a in ages),
    }
    percent = []
    for r in rows:
        if r["历史状态"]:
            before = records[str(r["历史状态"][-1])]
            if before["当前点赞量"]:
                growth = (r["当前点赞量"] - before["当前点赞量"]) / before["当前点赞量"]
                percent.append(100 * growth / (days(r) - days(before)))
    likes = found["daily_increase_of_likes_percent"]
    assert likes["num"] == len(percent) > 50
    assert list(likes["quantiles"].values()) == pytest.approx(np.quantile(percent, QUANTILES))
    length = [len(text.encode()) for text in store.texts]
    assert found["record_length"]["unit"] == "bytes" and found["record_length"]["max"] == max(length)


def test_whole_durations_fall_in_their_own_bin(records: dict[str, Any], tmp_path: Path) -> None:
    """Stored as the log in float32, each multiple of a bin's width still opens its bin."""
    base = {**next(iter(records.values())), "历史状态": [], "评论": {}}
    rows = {str(i): {**base, "视频时长（秒）": 5 * i} for i in range(61)}
    (tmp_path / "r.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    graphstore.build(tmp_path / "r.json", tmp_path / "s", SMALL)
    assert statistics(graphstore.open(tmp_path / "s"))["durations_s"]["bins"] == [1] * 61


def test_tokens_are_the_tokenizers(store: Store, tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    found = statistics(store, tmp_path)["record_length"]
    length = [len(words.encode(text).ids) for text in store.texts]
    assert found["unit"] == "tokens" and found["num"] == len(length)
    assert found["mean"] == pytest.approx(np.mean(length)) and found["max"] == max(length)
    with pytest.raises(StoreError, match="cannot be read as a tokenizer"):
        statistics(store, tmp_path / "none.json")


def test_info_prints_json_text_and_plots(store: Store, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["info", str(store.path), "--json", "--plots", str(tmp_path / "p")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["statistics"] == json.loads(json.dumps(statistics(store)))
    names = {p.name for p in (tmp_path / "p").iterdir()}
    assert names == {f"{n}.png" for n in ("durations", "topics", "platforms", "levels", "likes", "lengths")}
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in (tmp_path / "p").iterdir())
    text = CliRunner().invoke(app, ["info", str(store.path)]).stdout
    assert statistics_table(statistics(store)) in text


def test_platforms_that_the_fonts_cannot_write_are_numbered(store: Store, tmp_path: Path) -> None:
    found = statistics(store)
    found["platforms"]["states"] = {"新平台": 3, "抖音": 2}
    assert len(write_plots(found, tmp_path)) == 6  # a missing letter would be a warning, and so an error
