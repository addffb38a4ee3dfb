"""Features of records by pools of encoders on a local Ray: against the models themselves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from netgpt import graphstore
from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.features import encode, make
from netgpt.cluster.features.contents import video_files
from netgpt.cluster.features.make import feature_encoders, make_features
from netgpt.cluster.workers.session import ray_session
from netgpt.graphstore import StoreError
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.features import content_key
from netgpt.graphstore.vectors import Contents, FeatureTable, contents_of
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.features.frames import BROKEN, EMPTY, NOT_VIDEO, read_frames
from netgpt.trainers.features.text import TextModel
from netgpt.trainers.features.video import VideoModel, video_model
from tests.encoders import make_clip, make_qwen2_vl, make_roberta, make_sound, make_vit


@pytest.fixture(scope="module")
def few(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of twenty videos, whole."""
    urls = list(dict.fromkeys(raw["url"] for raw in records.values()))[:20]
    path = tmp_path_factory.mktemp("few") / "records.json"
    chosen = {name: raw for name, raw in records.items() if raw["url"] in urls}
    path.write_text(json.dumps(chosen, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_roberta(tmp_path_factory.mktemp("models") / "roberta")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2_vl(tmp_path_factory.mktemp("models") / "qwen")


@pytest.fixture(scope="module")
def videos(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for six of the twenty videos, three of them bad."""
    folder = tmp_path_factory.mktemp("videos")
    raws = json.loads(few.read_text())
    states = list({raw["url"]: name for name, raw in raws.items()}.values())
    make_clip(folder / f"{states[0]}.mp4", num=9)
    make_clip(folder / f"{states[1]}.mp4", num=1)
    make_clip(folder / f"{states[2]}.mkv", num=14, variable=True)
    whole = make_clip(folder / "whole.mp4", num=30).read_bytes()
    (folder / f"{states[3]}.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / f"{states[4]}.mp4").write_bytes(b"")
    make_sound(folder / f"{states[5]}.mp4")
    return folder


def settings(*overrides: str) -> RunConfig:
    return load_config("demo", ["cluster.workers=2", "features.max_tokens=100", *overrides])


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """One Ray for the tests of this file."""
    with ray_session(2):
        yield


@pytest.fixture
def on_ray(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "ray_session", lambda cpus: nullcontext())


def contents_in(records: Path) -> Contents:
    """What a file of records has to encode."""
    return contents_of(datasets.load("xsvideo").open(records))


def parts(root: Path, kind: str) -> dict[str, int]:
    """Whole parts of a folder, and when each was written."""
    return {p.name: p.stat().st_mtime_ns for p in (root / kind / "parts").glob("[!.]*")}


def encoders_alive() -> list[int]:
    """Process ids of the actors of this process's pools."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it ended meanwhile
            if " ".join(process.cmdline() or [process.name()]).startswith("ray::TextEncoder"):
                found.append(process.pid)
    return found


def test_contents_are_counted_once(sample_path: Path) -> None:
    """Against plain sets over the released slice."""
    raws = json.loads(sample_path.read_text(encoding="utf-8"))
    texts = [raw[key] for raw in raws.values() for key in ("标题", "描述", "平台", "话题")]
    texts += [c["评论内容"] for raw in raws.values() for c in raw["评论"].values()]
    found = contents_in(sample_path)
    assert set(found.texts) == set(texts) and found.num_texts == len(texts)
    assert len(found.texts) < len(texts) / 3
    assert (len(found.videos), found.num_states) == (700, 1673)
    assert sum(len(states) for states in found.videos.values()) == 1673


@pytest.mark.parametrize(
    ("workers", "shard"),
    [pytest.param(1, 2048, marks=pytest.mark.all), (2, 7), pytest.param(3, 1000, marks=pytest.mark.all)],
)
def test_texts_are_the_models_own_at_any_sharding(
    on_ray: None,
    few: Path,
    roberta: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    shard: int,
) -> None:
    monkeypatch.setattr(encode, "TEXTS_A_SHARD", shard)
    config = settings(f"features.text={roberta}", f"features.workers={workers}")
    make_features(config, few, tmp_path / "f")
    texts = list(contents_in(few).texts)
    table = FeatureTable(tmp_path / "f", "text")
    assert len(table) == len(texts) and len(parts(tmp_path / "f", "text")) == -(-len(texts) // shard)
    alone = TextModel(FeaturesConfig(text=str(roberta), max_tokens=100, batch_tokens=1)).vectors(texts)
    found = table.gather([content_key(text) for text in texts]).astype(np.float32)
    # float16 keeps 11 bits: half a unit in the last place besides the 1e-5 of other batches
    np.testing.assert_allclose(found, alone, rtol=2**-11, atol=1e-5)
    graphstore.build(few, tmp_path / "store", config.build, features=tmp_path / "f")
    store = graphstore.open(str(tmp_path / "store"))
    assert store.attributes["encoders"]["text"] == table.name == feature_encoders(config.features)["text"]


def test_nothing_is_encoded_twice(
    on_ray: None, few: Path, records_path: Path, roberta: Path, tmp_path: Path
) -> None:
    config, out = settings(f"features.text={roberta}"), tmp_path / "f"
    make_features(config, few, out)
    first = parts(out, "text")
    make_features(config, few, out)
    assert parts(out, "text") == first
    make_features(config, records_path, out)  # the same records and more
    second = parts(out, "text")
    assert first.items() < second.items()
    texts = contents_in(records_path).texts
    rows = sum(len(np.asarray(graphstore.arrays.map_array(p, "key"))) for p in (out / "text/parts").iterdir())
    assert rows == len(texts) == len(FeatureTable(out, "text"))
    with pytest.raises(StoreError, match="vectors of two encoders do not go together"):
        make_features(settings(f"features.text={roberta}", "features.pooling=cls"), few, out)
    assert parts(out, "text") == second


def test_videos_end_in_a_vector_or_in_the_policys_outcome(
    on_ray: None, few: Path, qwen: Path, videos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = [f"features.video={qwen}", f"features.videos={videos}"]
    out, config = tmp_path / "f", settings(*options)
    make_features(config, few, out)
    said = capfd.readouterr().err
    assert "20 videos of" in said and "6 with a file, 6 tried now" in said
    for words in ("no file: 14", "cannot be decoded: 1", "no bytes: 1", "no video stream: 1"):
        assert words in said
    found = video_files(config.features, contents_in(few).videos)
    files = {url: path for url, path in found.items() if path is not None}
    table, model = FeatureTable(out, "video"), VideoModel(config.features)
    reasons = []
    for url, path in files.items():
        status = table.status(content_key(url))
        reasons.append(status)
        if status == 0:
            expected = model.vector(read_frames(path, model.rule))
            found = table.gather([content_key(url)])[0].astype(np.float32)
            np.testing.assert_allclose(found, expected, rtol=2**-11, atol=1e-5)
    assert sorted(reasons) == [0, 0, 0, EMPTY, NOT_VIDEO, BROKEN]

    graphstore.build(few, tmp_path / "store", config.build, features=out)
    store = graphstore.open(str(tmp_path / "store"))
    assert store.attributes["encoders"]["video"] == model.name
    assert store.features("video").num_rows == 4 and store.features("video").dim == model.dim

    # A file that was mended is tried again, and that one alone
    (broken,) = (p for u, p in files.items() if table.status(content_key(u)) == EMPTY)
    before = parts(out, "video")
    make_features(config, few, out)
    assert "6 with a file, 0 tried now" in capfd.readouterr().err and parts(out, "video") == before
    data = broken.read_bytes()
    try:
        make_clip(broken, num=5)
        make_features(config, few, out)
        assert "6 with a file, 1 tried now" in capfd.readouterr().err
        assert len(parts(out, "video")) == len(before) + 1
    finally:
        broken.write_bytes(data)

    raws = {k: r for k, r in json.loads(few.read_text()).items() if r["url"] in files}
    have = tmp_path / "have.json"
    have.write_text(json.dumps(raws, ensure_ascii=False), encoding="utf-8")
    with pytest.raises(ClusterError, match=r"\.mp4: .*features\.unreadable=zero goes on without it"):
        make_features(settings(*options, "features.unreadable=error"), have, tmp_path / "strict")
    with pytest.raises(ClusterError, match=r"found no file of the video"):
        make_features(settings(*options, "features.unreadable=error"), few, tmp_path / "strict2")
    assert not (tmp_path / "strict2").exists()


@pytest.mark.all
def test_a_killed_encoder_loses_no_row(
    on_ray: None, records_path: Path, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first actors kill themselves in the middle of a shard; others take it up."""
    monkeypatch.setattr(encode, "TEXTS_A_SHARD", 20)
    config, out = settings(f"features.text={roberta}", "features.batch_tokens=100"), tmp_path / "f"
    killed = []

    def progress(done: int, total: int) -> None:
        if len(killed) < 2 and done >= 40 * (1 + len(killed)):
            for pid in [pid for pid in encoders_alive() if pid not in killed][:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    monkeypatch.setattr(make, "bar", lambda title, unit: progress)
    make_features(config, records_path, out)
    assert len(killed) == 2
    texts = list(contents_in(records_path).texts)
    found = FeatureTable(out, "text").gather([content_key(text) for text in texts]).astype(np.float32)
    alone = TextModel(FeaturesConfig(text=str(roberta), max_tokens=100)).vectors(texts)
    np.testing.assert_allclose(found, alone, rtol=2**-11, atol=1e-5)


@pytest.mark.all
def test_a_command_that_was_ended_goes_on(
    on_ray: None, records_path: Path, roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended in the middle: what was encoded stays as it is, and the rest is encoded once."""
    monkeypatch.setattr(encode, "TEXTS_A_SHARD", 20)
    config, out = settings(f"features.text={roberta}"), tmp_path / "f"
    seen = []

    def ended(done: int, total: int) -> None:
        seen.append((done, total))
        if done >= 100:
            raise KeyboardInterrupt

    monkeypatch.setattr(make, "bar", lambda title, unit: ended)
    with pytest.raises(KeyboardInterrupt):
        make_features(config, records_path, out)
    assert len(parts(out, "text")) >= 5 and seen[-1][0] < seen[-1][1]
    until = time.monotonic() + 60
    while encoders_alive():  # they may still write what they had in hand
        assert time.monotonic() < until
        time.sleep(0.1)
    first = parts(out, "text")
    monkeypatch.setattr(make, "bar", lambda title, unit: lambda done, total: None)
    make_features(config, records_path, out)
    assert first.items() < parts(out, "text").items()
    keys = [graphstore.arrays.map_array(p, "key") for p in (out / "text/parts").iterdir()]
    assert sum(map(len, keys)) == len(contents_in(records_path).texts)


@pytest.mark.all
def test_features_of_records_that_join_a_store(
    on_ray: None, records: dict[str, Any], roberta: Path, tmp_path: Path
) -> None:
    """Their history points into the store, which `features` does not know."""
    items = list(records.items())
    half = next(i for i in range(len(items) // 2, len(items)) if items[i][1]["历史状态"])
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    first.write_text(json.dumps(dict(items[:half]), ensure_ascii=False), encoding="utf-8")
    second.write_text(json.dumps(dict(items[half:]), ensure_ascii=False), encoding="utf-8")
    config, out = settings(f"features.text={roberta}"), tmp_path / "f"
    make_features(config, first, out)
    graphstore.build(first, tmp_path / "store", config.build, features=out)
    make_features(config, second, out)
    made, _ = graphstore.append(tmp_path / "store", second, features=out)
    assert graphstore.open(str(made)).num_nodes["video"] == len(items)


def test_what_cannot_work_is_refused_before_anything_is_written(
    few: Path, roberta: Path, qwen: Path, tmp_path: Path, on_ray: None
) -> None:
    out = tmp_path / "f"
    with pytest.raises(ClusterError, match="found neither --text nor --video"):
        make_features(settings(), few, out)
    with pytest.raises(ClusterError, match=r"features\.videos: found no folder /no/such"):
        make_features(settings(f"features.video={qwen}", "features.videos=/no/such"), few, out)
    with pytest.raises(ClusterError, match=r"features\.videos: found '', expected a folder"):
        settings(f"features.video={qwen}")
    with pytest.raises(TrainerError, match=r"features\.text: found no folder /no/such"):
        make_features(settings("features.text=/no/such"), few, out)
    with pytest.raises(ClusterError, match=r"cluster\.device: found cuda, but the cluster has 0 GPUs"):
        make_features(settings(f"features.text={roberta}", "cluster.device=cuda"), few, out)
    raws = json.loads(few.read_text())
    first, second = list(raws)[:2]
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / f"{first}.mp4").write_bytes(b"")
    (folder / f"{first}.mkv").write_bytes(b"")
    assert not list(out.glob("*/parts"))
    contents = contents_in(few)
    asked = FeaturesConfig(video="model", videos=str(folder))
    with pytest.raises(ClusterError, match=r"expected one a state"):
        video_files(asked, contents.videos)
    (folder / f"{first}.mkv").unlink()
    if raws[first]["url"] == raws[second]["url"]:
        (folder / f"{second}.mp4").write_bytes(b"")
        with pytest.raises(ClusterError, match="of one video's states"):
            video_files(asked, contents.videos)
        (folder / f"{second}.mp4").unlink()
    strict = replace(asked, unreadable="error")
    with pytest.raises(ClusterError, match=r"found no file of the video .*unreadable=error"):
        video_files(strict, contents.videos)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_with_encoders_names_them_and_predicts_with_them(
    few: Path, records_path: Path, roberta: Path, qwen: Path, videos: Path, tmp_path: Path
) -> None:
    """The whole command line, twice: the second finds all done."""
    run = tmp_path / "run"
    overrides = [
        *("features.max_tokens=100", "sampler.fanout=5", "graph.hidden=8", "graph.epochs=1"),
        *("task.val_share=0.3", "language.max_tokens=700", "language.token_budget=1400"),
        *("language.tiny.hidden=32", "language.tiny.heads=2", "language.tiny.vocab=600"),
        *("language.tiny.warmup_steps=2", "stage2.epochs=1", "stage3.epochs=1", "cluster.workers=1"),
    ]
    command = [sys.executable, "-m", "netgpt"]
    options = ["--text", roberta, "--video", qwen, "--videos", videos]
    line = [*command, "run", "--config", "demo", "--data", records_path, "--out", run, *options, *overrides]
    for _ in range(2):
        done = subprocess.run([str(w) for w in line], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "evaluation: done before" in done.stderr
    store = graphstore.open(str(run / "store"))
    names = feature_encoders(load_config(str(run / "config.yaml"), []).features)
    assert store.attributes["features"] == names and len(names) == 2
    assert {k: store.attributes["encoders"][k] for k in names} == names
    assert all(name in (run / "report.html").read_text() for name in names.values())

    new = {f"900000{name}": {**raw, "历史状态": []} for name, raw in json.loads(few.read_text()).items()}
    data = tmp_path / "new.json"
    data.write_text(json.dumps(new, ensure_ascii=False), encoding="utf-8")
    line = [*command, "predict", str(run), "--data", str(data)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [json.loads(row)["id"] for row in done.stdout.splitlines()] == list(new)


@pytest.mark.all
def test_frames_of_videos_are_features_of_a_data_set(on_ray: None, tmp_path: Path) -> None:
    """MicroLens' videos by number: vectors of frames where there is a file, zeros where there is none."""
    vit, folder, clips = make_vit(tmp_path / "vit"), tmp_path / "lens", tmp_path / "clips"
    datasets.load("microlens").write_synthetic(folder, 0.001, 0)
    clips.mkdir()
    for i, name in enumerate(("3.mp4", "17.mkv", "8.mp4")):
        make_clip(clips / name, num=5 + 20 * i)
    (clips / "9.mp4").write_bytes(b"")
    given = [f"features.video={vit}", f"features.videos={clips}", "features.frames=3"]
    own = ["build.visual=videos", "cluster.workers=1", "build.encoder=hash:16"]
    config = load_config("mmra-microlens", [*given, *own])
    make_features(config, folder, tmp_path / "made")
    graphstore.build(folder, tmp_path / "store", config.build, features=tmp_path / "made")
    store = graphstore.open(tmp_path / "store")
    model = video_model(config.features)
    expected = np.zeros((store.num_nodes["video"], 48), np.float16)
    for name in ("3.mp4", "17.mkv", "8.mp4"):
        row = store.ids.index(Path(name).stem)
        expected[row] = model.encode(read_frames(clips / name, model.rule))
    found = store.features("frames").gather(np.arange(len(expected)))
    np.testing.assert_allclose(found, expected, atol=1e-3)  # another number of threads
    np.testing.assert_array_equal(found.any(axis=1), expected.any(axis=1))
    assert np.count_nonzero(expected.any(axis=1)) == 3
    assert store.attributes["features"] == {"video": model.name}
    assert store.attributes["num_without_video"] == len(expected) - 3
