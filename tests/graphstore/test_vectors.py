"""Folders of features: parts, the newest of each content, and stores built from them."""

from __future__ import annotations

import json
import os
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import FormatError, Store, StoreError
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.datasets.xsvideo.records import read_records
from netgpt.graphstore.datasets.xsvideo.source import RecordSource
from netgpt.graphstore.extend import ExtendedGraph
from netgpt.graphstore.features import content_key
from netgpt.graphstore.vectors import OK, FeatureTable, choose_encoders, contents_of, write_part
from tests.conftest import SMALL

DIM = 6


def vector(content: str, encoder: str) -> np.ndarray:
    """What the encoders of these tests give: [DIM] float16 from the content and the encoder's name."""
    seed = list(f"{encoder}\0{content}".encode())
    return np.random.default_rng(seed).standard_normal(DIM).astype(np.float16)


def fill(root: Path, kind: str, contents: list[str], encoder: str) -> None:
    table = FeatureTable.create(root, kind, encoder, DIM)
    new = [c for c in dict.fromkeys(contents) if table.status(content_key(c)) is None]
    for i in range(0, len(new), 50):
        part = new[i : i + 50]
        write_part(table.root, [content_key(c) for c in part], np.stack([vector(c, encoder) for c in part]))


def texts_of(raw: dict[str, Any]) -> list[str]:
    """Every text of a released record that becomes a feature."""
    comments = [c["评论内容"] for c in raw["评论"].values()]
    return [raw["标题"], raw["描述"], raw["平台"], raw["话题"], *comments]


@pytest.fixture(scope="module")
def folder(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of all texts, and of every other video."""
    root = tmp_path_factory.mktemp("features")
    fill(root, "text", [text for raw in records.values() for text in texts_of(raw)], "texts@1")
    urls = list(dict.fromkeys(raw["url"] for raw in records.values()))
    fill(root, "video", urls[::2], "videos@1")
    without = [content_key(url) for url in urls[1::2]]
    write_part(root / "video", without, np.zeros((0, DIM)), np.full(len(without), 1, np.int8))
    return root


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True, min_size=1), max_size=6), st.data())
def test_of_each_content_a_vector_counts_else_the_newest(
    tmp_path_factory: Any, parts: list[list[str]], data: Any
) -> None:
    root = tmp_path_factory.mktemp("parts")
    folder = FeatureTable.create(root, "video", "e", 1).root
    expected: dict[str, tuple[float, int, int]] = {}
    for number, contents in enumerate(parts):
        status = np.array([data.draw(st.integers(0, 2)) for _ in contents], np.int8)
        x = np.full((int((status == OK).sum()), 1), number, np.float16)
        stamp = np.arange(len(contents)) + 100 * number
        write_part(folder, [content_key(c) for c in contents], x, status, stamp)
        for i, c in enumerate(contents):
            if c not in expected or expected[c][1] != OK or status[i] == OK:
                expected[c] = (float(number), int(status[i]), int(stamp[i]))
    table = FeatureTable(root, "video")
    assert len(table) == len(expected)
    for content in "abcdef":
        key = content_key(content)
        if content not in expected:
            assert table.status(key) is None
            continue
        value, status_, stamp_ = expected[content]
        assert table.status(key) == status_
        if status_ == OK:
            assert table.gather([key])[0, 0] == value
        else:
            assert table.stamp(key) == stamp_


def test_a_store_has_the_folders_vectors(
    folder: Path, records: dict[str, Any], records_path: Path, tmp_path: Path
) -> None:
    graphstore.build(records_path, tmp_path / "store", SMALL, features=folder)
    store = graphstore.open(tmp_path / "store")
    assert graphstore.verify(tmp_path / "store") == []
    names = store.attributes["encoders"]
    assert (names["text"], names["video"]) == ("texts@1", "videos@1")
    assert store.attributes["features"] == {"text": "texts@1", "video": "videos@1"}
    urls = list(dict.fromkeys(raw["url"] for raw in records.values()))
    with_video = set(urls[::2])
    everything = np.arange(len(records))
    x = {name: store.features(name).gather(everything) for name in ("video", "title", "description")}
    for v, raw in enumerate(records.values()):
        np.testing.assert_array_equal(x["title"][v], vector(raw["标题"], "texts@1"))
        np.testing.assert_array_equal(x["description"][v], vector(raw["描述"], "texts@1"))
        own = vector(raw["url"], "videos@1") if raw["url"] in with_video else np.zeros(DIM)
        np.testing.assert_array_equal(x["video"][v], own)
    comments = [c["评论内容"] for raw in records.values() for c in raw["评论"].values()]
    found = store.features("comment").gather(np.arange(len(comments)))
    np.testing.assert_array_equal(found[:, :DIM], np.stack([vector(c, "texts@1") for c in comments]))
    # One row a video, one row of zeros for all that have none
    assert store.features("video").num_rows == len(with_video) + 1
    without = sum(raw["url"] not in with_video for raw in records.values())
    assert store.attributes["num_without_video"] == without
    assert store.features("title").num_rows == len({raw["标题"] for raw in records.values()})


def test_appended_records_have_the_same_encoders_or_are_refused(
    folder: Path, records: dict[str, Any], tmp_path: Path
) -> None:
    items = list(records.items())
    half = len(items) // 2
    whole, first, second = (tmp_path / f"{name}.json" for name in ("whole", "first", "second"))
    for path, part in ((whole, items), (first, items[:half]), (second, items[half:])):
        path.write_text(json.dumps(dict(part), ensure_ascii=False), encoding="utf-8")
    graphstore.build(whole, tmp_path / "whole", SMALL, features=folder)
    graphstore.build(first, tmp_path / "a", SMALL, features=folder)
    graphstore.append(tmp_path / "a", second, tmp_path / "b", features=folder)
    one, two = graphstore.open(tmp_path / "whole"), graphstore.open(tmp_path / "b")
    arrays = [name for name in one.seal.files if name.endswith("/c/0") or name.endswith("/c/0/0")]
    assert len(arrays) > 20
    assert {name: one.seal.files[name] for name in arrays} == {name: two.seal.files[name] for name in arrays}
    assert two.attributes["num_without_video"] == one.attributes["num_without_video"]

    other = tmp_path / "other"
    fill(other, "text", [text for raw in records.values() for text in texts_of(raw)], "texts@2")
    with pytest.raises(StoreError, match=r"found text features of texts@1, expected those of texts@2"):
        graphstore.append(tmp_path / "a", second, tmp_path / "c", features=other)
    with pytest.raises(StoreError, match=r"found text features of texts@1, expected those of hash-1-3-32"):
        graphstore.append(tmp_path / "a", second, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_new_states_in_memory_use_the_stores_encoders(
    folder: Path, records: dict[str, Any], tmp_path: Path
) -> None:
    class Texts:
        name, dim = "texts@1", DIM

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.stack([vector(text, self.name) for text in texts]) if texts else np.zeros((0, DIM))

    class Videos:
        name, dim = "videos@1", DIM

        def has(self, url: str) -> bool:
            return url.endswith("3")

        def encode(self, urls: list[str]) -> np.ndarray:
            return np.stack([vector(url, self.name) for url in urls]) if urls else np.zeros((0, DIM))

    items = list(records.items())
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(dict(items[:-20]), ensure_ascii=False), encoding="utf-8")
    new.write_text(json.dumps(dict(items[-20:]), ensure_ascii=False), encoding="utf-8")
    graphstore.build(old, tmp_path / "store", SMALL, features=folder)
    store = graphstore.open(tmp_path / "store")
    added = list(read_records(new, known_ids=frozenset(store.ids)))
    source = RecordSource(lambda: added, "new")
    graph = ExtendedGraph(store, source, text=Texts(), video=Videos())
    title, video = graph.features("title").gather(graph.new), graph.features("video").gather(graph.new)
    for i, record in enumerate(added):
        np.testing.assert_array_equal(title[i], vector(record.title, "texts@1"))
        expected = vector(record.url, "videos@1") if record.url.endswith("3") else np.zeros(DIM)
        np.testing.assert_array_equal(video[i], expected)
    with pytest.raises(StoreError, match="text encoder: found 'texts@1', expected hash"):
        ExtendedGraph(store, source)
    other = Texts()
    other.name = "texts@2"  # type: ignore[misc]
    with pytest.raises(StoreError, match="found text features of texts@1, expected those of texts@2"):
        ExtendedGraph(store, source, text=other)


def test_what_a_folder_lacks_is_said(folder: Path, store: Store, records_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="found no features; make them: netgpt features RECORDS"):
        graphstore.build(records_path, tmp_path / "s", SMALL, features=tmp_path / "none")
    part = tmp_path / "part"
    fill(part, "text", ["one text"], "texts@1")
    with pytest.raises(StoreError, match=r"found no vector of the text .*run: netgpt features"):
        graphstore.build(records_path, tmp_path / "s", SMALL, features=part)
    few = tmp_path / "few"
    fill(few, "video", ["one address"], "videos@1")
    with pytest.raises(StoreError, match=r"found nothing of the video .*run: netgpt features"):
        graphstore.build(records_path, tmp_path / "s", SMALL, features=few)
    assert not (tmp_path / "s").exists()
    left = part / "text" / "parts" / ".0123-abc.99-1.tmp"
    left.mkdir()
    (left / "x").write_bytes(b"half a part of a writer that was killed")
    assert len(FeatureTable.create(part, "text", "texts@1", DIM)) == 1 and not left.exists()
    # An attempt that came to nothing binds nobody
    FeatureTable.create(tmp_path / "new", "text", "texts@1", DIM)
    assert FeatureTable.create(tmp_path / "new", "text", "texts@2", 9).name == "texts@2"
    with pytest.raises(StoreError, match=r"found text features of texts@1, expected those of texts@2"):
        FeatureTable.create(folder, "text", "texts@2", DIM)
    with pytest.raises(StoreError, match=f"found vectors of width {DIM}, expected 9"):
        FeatureTable.create(folder, "text", "texts@1", 9)
    (tmp_path / "bad" / "text").mkdir(parents=True)
    (tmp_path / "bad" / "text" / "encoder.json").write_text('{"format": "other"}')
    with pytest.raises(FormatError, match="not of a feature folder"):
        FeatureTable(tmp_path / "bad", "text")
    assert store.attributes["features"] == {}


def test_videos_without_an_address_have_vectors_of_their_own(records: dict[str, Any], tmp_path: Path) -> None:
    """In the contents of a source, in a built store, joined in memory and appended."""
    raw = dict(list(records.items())[:6])
    raw = {k: {**r, "历史状态": [], "url": "" if i != 2 else "u"} for i, (k, r) in enumerate(raw.items())}
    names = list(raw)
    old, new = ({k: raw[k] for k in part} for part in (names[:4], names[4:]))
    files = {}
    for name, part in (("all", raw), ("old", old), ("new", new)):
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(json.dumps(part, ensure_ascii=False))
    source = datasets.load("xsvideo").open(files["all"])
    videos = contents_of(source).videos
    assert list(videos.values()) == [[name] for name in names] and videos["u"] == [names[2]]
    fill(tmp_path / "features", "text", [t for r in raw.values() for t in texts_of(r)], "texts@1")
    fill(tmp_path / "features", "video", list(videos), "videos@1")
    expected = np.stack([vector(key, "videos@1") for key in videos])
    for name in ("all", "old"):
        graphstore.build(files[name], tmp_path / name, SMALL, features=tmp_path / "features")
    assert len(np.unique(expected, axis=0)) == 6

    def made(graph: Any) -> np.ndarray:
        return graph.features("video").gather(np.arange(graph.num_nodes["video"]))

    whole = graphstore.open(tmp_path / "all")
    assert (made(whole) == expected).all()
    later = graphstore.open(tmp_path / "old")
    text, video = choose_encoders("x", DIM, tmp_path / "features")
    joined = ExtendedGraph(later, datasets.load("xsvideo").open(files["new"]), text=text, video=video)
    assert (made(joined) == expected).all()
    graphstore.append(later.path, files["new"], tmp_path / "both", features=tmp_path / "features")
    assert (made(graphstore.open(tmp_path / "both")) == expected).all()


def test_a_folder_of_many_parts_needs_few_open_files(tmp_path: Path) -> None:
    """As a process of 128 files reads it."""
    contents = [f"content {i}" for i in range(300)]
    table = FeatureTable.create(tmp_path, "video", "e", DIM)
    for content in contents:
        write_part(table.root, [content_key(content)], vector(content, "e")[None])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128 + len(os.listdir("/proc/self/fd")), before[1]))
    try:
        x = FeatureTable(tmp_path, "video").gather([content_key(c) for c in contents])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert (x == np.stack([vector(c, "e") for c in contents])).all()
