"""MicroLens keeps the contract of data sets; its parts are those of MMRA's authors; bad rows are one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from netgpt import graphstore
from netgpt.graphstore import StoreError
from netgpt.graphstore.datasets.microlens import (
    FRAMES,
    LABELS,
    SIMILAR,
    TITLES,
    WHOLE_TITLES,
    MicroLens,
    MicroLensConfig,
)
from tests.contracts.dataset import DatasetTests
from tests.nearest import equal, plain

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "microlens"
CONFIG = MicroLensConfig(encoder="hash:16", split="hash", similar=3)


class TestMicroLens(DatasetTests):
    dataset, config, suffix = MicroLens(), CONFIG, ""
    scale = 0.003

    def parts(self, source: Path, folder: Path) -> tuple[Path, Path]:
        for name, part in (("first", slice(0, 40)), ("second", slice(40, None))):
            (folder / name).mkdir()
            labels = (source / LABELS).read_text().splitlines()
            titles = (source / TITLES).read_text().splitlines()
            (folder / name / LABELS).write_text("\n".join([labels[0], *labels[1:][part]]) + "\n")
            (folder / name / TITLES).write_text("\n".join(titles[part]) + "\n")
        return folder / "first", folder / "second"

    def bad(self, source: Path, folder: Path) -> Path:
        (folder / "bad").mkdir()
        for name in (LABELS, TITLES):
            (folder / "bad" / name).write_bytes((source / name).read_bytes())
        with (folder / "bad" / LABELS).open("a") as file:
            file.write("9999,none\n")
        return folder / "bad"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    MicroLens().write_synthetic(tmp_path / "data", 0.003, 0)
    return tmp_path / "data"


def test_parts_and_banks(folder: Path, tmp_path: Path) -> None:
    for bank, parts in (
        ("train", {"train"}),
        ("train+val", {"train", "val"}),
        ("all", {"train", "val", "test"}),
    ):
        config = MicroLensConfig(encoder="hash:16", similar=4, bank=bank)
        graphstore.build(folder, tmp_path / bank, config)
        store = graphstore.open(tmp_path / bank)
        codes, values = store.category("video", "part")
        train, held = train_test_split(np.arange(len(codes)), test_size=0.2, random_state=9)
        test, val = train_test_split(held, test_size=0.5, random_state=18)
        named = np.array(values)[codes]
        for name, nodes in (("train", train), ("val", val), ("test", test)):
            assert set(np.flatnonzero(named == name).tolist()) == set(nodes.tolist())
        rule = store.schema.relation_type(SIMILAR)
        assert rule.nearest is not None
        rows = store.relation(SIMILAR)
        equal(rows, plain(store, SIMILAR, rule.nearest))
        assert set(named[rows.indices].tolist()) == parts


def test_whole_titles_go_before_short_ones_and_frames_are_features(folder: Path, tmp_path: Path) -> None:
    (folder / WHOLE_TITLES).write_text('item,title\n2,"The whole, long ""title"""\n3,\n', encoding="utf-8")
    num = len((folder / LABELS).read_text().splitlines()) - 1
    frames = np.arange(num * 6, dtype=np.float16).reshape(num, 2, 3)
    np.save(folder / FRAMES, frames)
    graphstore.build(folder, tmp_path / "store", CONFIG)
    store = graphstore.open(tmp_path / "store")
    short = [line.split(", ", 1)[1] for line in (folder / TITLES).read_text().splitlines()]
    assert store.strings("video", "title")[0] == short[0] and store.strings("video", "title")[2] == short[2]
    assert store.strings("video", "title")[1] == 'The whole, long "title"'
    np.testing.assert_array_equal(
        store.features("frames").gather(np.array([4, 0])), frames.reshape(num, 6)[[4, 0]]
    )
    np.save(folder / FRAMES, frames[:-1])
    with pytest.raises(
        StoreError, match=rf"frames.npy: found float16 \[{num - 1}, 2, 3\], expected float16 or"
    ):
        graphstore.build(folder, tmp_path / "again", CONFIG)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (LABELS, "video,count\n1,2\n", "record '0'.*found video,count, expected video_id,comment_count"),
        (LABELS, "video_id,comment_count\n1,2\n1,3\n", "record '1': field 'video_id': found a video twice"),
        (
            LABELS,
            "video_id,comment_count\n1,0\n",
            "record '1': field 'comment_count': found 0, expected a count",
        ),
        (LABELS, "video_id,comment_count\n1,-4\n", "'comment_count': found '-4', expected a whole number"),
        (LABELS, "video_id,comment_count\nx,4\n", "'video_id': found 'x', expected a whole number"),
        (
            TITLES,
            "123456, a title of none\n",
            "record '123456': field 'item': found no such video, expected one",
        ),
        (LABELS, "video_id,comment_count\n1,5\n", "found 1 videos, expected at least 10|no such video"),
    ],
)
def test_bad_rows_are_one_line(name: str, text: str, message: str, folder: Path, tmp_path: Path) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match=message) as caught:
        graphstore.build(folder, tmp_path / "store", MicroLensConfig(encoder="hash:16"))
    assert "\n" not in str(caught.value) and not (tmp_path / "store").exists()


def test_drawn_parts_take_no_more_videos_but_new_ones_are_predicted(folder: Path, tmp_path: Path) -> None:
    config = MicroLensConfig(encoder="hash:16")
    graphstore.build(folder, tmp_path / "store", config)
    new = tmp_path / "new"
    new.mkdir()
    (new / LABELS).write_text("video_id,comment_count\n90001,7\n")
    (new / TITLES).write_text("90001, w1 w2 w3 w4 w5 w6\n\n")  # an empty line is none
    with pytest.raises(StoreError, match="expected a store that was built with split=hash"):
        graphstore.append(tmp_path / "store", new, tmp_path / "more")
    store = graphstore.open(tmp_path / "store")
    (new / LABELS).write_text("video_id,comment_count\n90001,\n")
    without_count = graphstore.ExtendedGraph(store, MicroLens().open_new(store, new, config))
    (new / LABELS).unlink()
    graph = graphstore.ExtendedGraph(store, MicroLens().open_new(store, new, config))
    for one in (graph, without_count):
        assert one.column("video", "comments")[graph.new].tolist() == [0]
    assert graph.category("video", "part")[0][graph.new].tolist() == [-1]
    heads = graph.relation(SIMILAR).neighbors(int(graph.new[0]))
    assert len(heads) == 10 and set(store.category("video", "bank")[0][heads].tolist()) == {
        store.category("video", "bank")[1].index("yes")
    }


def test_the_real_files(tmp_path: Path) -> None:
    """Labels and parts as they are published: the constant that the mean of train is."""
    if not DATA.is_dir():
        pytest.skip("MicroLens is not beside this checkout (../shared/data/microlens)")
    graphstore.build(DATA, tmp_path / "store", MicroLensConfig(encoder="hash:8", similar=0))
    store = graphstore.open(tmp_path / "store")
    codes, values = store.category("video", "part")
    y, named = np.log2(store.column("video", "comments")), np.array(values)[codes]
    assert {name: int((named == name).sum()) for name in values} == {
        "train": 15790,
        "val": 1974,
        "test": 1974,
    }
    test = y[named == "test"]
    error = test - y[named == "train"].mean()
    assert round(float((error**2).mean() / test.var()), 4) == 1.0022
    assert round(float(np.abs(error).mean()), 4) == 1.3771
