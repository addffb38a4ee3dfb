"""`netgpt similar`: the relation of a build, for a store that is there; killed, damaged and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netgpt import graphstore
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.similar import bank_of
from netgpt.graphstore import ExtendedGraph, Store, StoreError
from netgpt.graphstore.datasets.microlens import SIMILAR, MicroLens, MicroLensConfig
from netgpt.graphstore.info import describe, table
from netgpt.graphstore.nearest import parts, search
from netgpt.graphstore.nearest.approximate import Approximate
from netgpt.graphstore.relation_types import Part
from tests.program import called

CONFIG = MicroLensConfig(encoder="hash:16", split="hash", similar=5)
OPTIONS = ("--by", "video", "--k", "5", "--bank", "bank=yes")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """A store without the relation, and one that was built with it."""
    folder = tmp_path_factory.mktemp("similar")
    MicroLens().write_synthetic(folder / "data", 0.06, 0)
    for name, config in (("plain", replace(CONFIG, similar=0)), ("built", CONFIG)):
        graphstore.build(folder / "data", folder / name, config)
    return graphstore.open(folder / "plain"), graphstore.open(folder / "built")


def same_relation(one: Store, other: Store) -> None:
    a, b = one.relation(SIMILAR), other.relation(SIMILAR)
    for name in ("indices", "begin", "end"):
        assert np.asarray(getattr(a, name)).tobytes() == np.asarray(getattr(b, name)).tobytes()
    assert np.asarray(a.numbers["score"]).tobytes() == np.asarray(b.numbers["score"]).tobytes()
    assert one.schema.relation_type(SIMILAR) == other.schema.relation_type(SIMILAR)


def test_it_is_the_relation_of_a_build(stores: tuple[Store, Store], tmp_path: Path) -> None:
    plain, whole = stores
    done = called("similar", plain.path, *OPTIONS, "--out", tmp_path / "made", "--threads", "1")
    assert done.returncode == 0, done.stderr
    made = graphstore.open(tmp_path / "made")
    same_relation(made, whole)
    assert graphstore.verify(made.path) == [] and not (tmp_path / "made.parts").exists()
    assert made.attributes["parent_digest"] == plain.digest
    linked = [name for name in plain.seal.files if name != "zarr.json"]
    assert all((made.path / n).stat().st_ino == (plain.path / n).stat().st_ino for n in linked)
    again = called("similar", made.path, *OPTIONS, "--out", tmp_path / "twice")
    assert again.returncode == 2 and "found the relation video/is_similar_to/video already" in again.stderr


def test_rows_that_come_later_find_theirs(stores: tuple[Store, Store], tmp_path: Path) -> None:
    plain, whole = stores
    called("similar", plain.path, *OPTIONS, "--out", tmp_path / "made")
    new = tmp_path / "new"
    new.mkdir()
    (new / "video_label.csv").write_text("video_id,comment_count\n90001,7\n90002,9\n")
    (new / "MicroLens-100k_title_en.csv").write_text("90001, w1 w2 w3 w4\n90002, w5 w6 w7 w8\n")
    grown = []
    for number, store in enumerate((tmp_path / "made", whole.path)):
        path, _ = graphstore.append(store, new, tmp_path / f"grown{number}")
        grown.append(graphstore.open(path))
    same_relation(*grown)
    made = graphstore.open(tmp_path / "made")
    joined = ExtendedGraph(made, MicroLens().open_new(made, new, CONFIG)).relation(SIMILAR)
    for v in joined.begin.shape[0] - np.array([1, 2]):
        assert joined.neighbors(v).tolist() == grown[0].relation(SIMILAR).neighbors(v).tolist()


def test_killed_it_goes_on_and_ends_in_the_same_bytes(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, whole = stores
    small = (
        "import netgpt.graphstore.nearest.parts as p, netgpt.graphstore.nearest.search as s, sys, time\n"
        "p.TASKS, s.BLOCK_VECTORS = 1, 20\n"
        "make = p.PartedSearch.make\n"
        "p.PartedSearch.make = lambda self, part: (time.sleep(0.2), make(self, part))[1]\n"
        "from netgpt.cluster.cli import main\n"
        "sys.argv[0] = 'netgpt'\nmain()\n"
    )
    command = [sys.executable, "-c", small, "similar", str(plain.path), *OPTIONS, "--threads", "1"]
    running = subprocess.Popen([*command, "--out", str(tmp_path / "made")], start_new_session=True)
    folder = tmp_path / "made.parts"
    for _ in range(1200):
        if len(list(folder.glob("*.npz"))) >= 3:
            break
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    assert not (tmp_path / "made").exists() and len(list(folder.glob("*.npz"))) >= 3
    monkeypatch.setattr(parts, "TASKS", 1)
    monkeypatch.setattr(search, "BLOCK_VECTORS", 20)
    kept = {path.stem for path in folder.glob("*.npz")}
    made: list[int] = []
    make = parts.PartedSearch.make
    monkeypatch.setattr(
        parts.PartedSearch, "make", lambda self, part: (made.append(part), make(self, part))[1]
    )
    done = called("similar", plain.path, *OPTIONS, "--out", tmp_path / "made")
    assert done.returncode == 0 and f"{len(kept)} of " in done.stderr, done.stderr
    assert made and not kept & set(map(str, made))
    same_relation(graphstore.open(tmp_path / "made"), whole)


def test_parts_of_another_search_or_damaged_ones_are_refused(
    stores: tuple[Store, Store], tmp_path: Path
) -> None:
    plain, _ = stores
    rule = parts.PartedSearch(plain, stores[1].schema.relation_type(SIMILAR), tmp_path / "made.parts")
    for part in rule.missing:
        rule.make(part)
    refused = called("similar", plain.path, "--by", "video", "--k", "4", "--out", tmp_path / "made")
    assert refused.returncode == 2 and "found parts of another search, expected none" in refused.stderr
    rule.path(0).write_bytes(rule.path(0).read_bytes()[:100])
    broken = called("similar", plain.path, *OPTIONS, "--out", tmp_path / "made")
    assert broken.returncode == 2 and "0.npz: damaged" in broken.stderr
    assert "Traceback" not in broken.stderr and not (tmp_path / "made").exists()
    rule.path(0).unlink()
    assert called("similar", plain.path, *OPTIONS, "--out", tmp_path / "made").returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--by", "title"), "what is nearest by 'title', expected a type of video that has features"),
        (("--by", "video", "--time", "comments"), "found no time column 'comments' of video"),
        (("--by", "video", "--apart", "id"), "found no category 'id' of video"),
        (("--by", "video", "--bank", "part=dev"), "bank: found no part 'dev' among the nodes of video"),
        (("--by", "video", "--bank", "part"), "--bank: found 'part', expected COLUMN=VALUE or COLUMN<NUMBER"),
        (("--by", "video", "--k", "0"), "the nearest 0"),
        (("--by", "video", "--threads", "-1"), "--threads"),
        (("--by", "video", "--of", "user"), "user"),
    ],
)
def test_what_a_store_cannot_have_is_one_line(
    options: tuple[str, ...], message: str, stores: tuple[Store, Store], tmp_path: Path
) -> None:
    done = called("similar", stores[0].path, *options, "--out", tmp_path / "made")
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_an_old_format_is_refused(tmp_path: Path) -> None:
    archive = Path(__file__).parents[1] / "graphstore" / "data" / "format-2.tar.gz"
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "old", filter="data")
    old = tmp_path / "old" / "store-prefix"
    done = called("similar", old, "--by", "title", "--out", tmp_path / "made")
    assert done.returncode == 2 and "found format version 2, expected 3" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_banks_of_a_command() -> None:
    assert bank_of("") is None
    assert bank_of("part=train") == Part(column="part", value="train")
    assert bank_of("time<1734710400") == Part(column="time", until=1734710400)
    for text in ("=train", "time<", "time<soon"):
        with pytest.raises(ClusterError, match="--bank: found"):
            bank_of(text)


def test_by_an_index_it_says_what_share_it_found(stores: tuple[Store, Store], tmp_path: Path) -> None:
    plain, whole = stores
    pytest.importorskip("faiss", reason="of the extra ann")
    options = (*OPTIONS, "--out", tmp_path / "made")
    done = called("similar", plain.path, *options, "--probes", "1000")
    assert done.returncode == 0 and "recall 1.0000, of 256 rows" in done.stderr, done.stderr
    made = graphstore.open(tmp_path / "made")
    same_relation(made, whole)
    said = made.attributes["relations"]["video/is_similar_to/video"]["approximate"]
    assert said == {"probes": 1000, "recall": 1.0, "of": 256} and graphstore.verify(made.path) == []
    assert "approximate: 100.00% of the true heads, of 256 nodes, with 1,000 probes" in table(describe(made))
    # Rows that come later are found exactly, and so are all others then
    new = tmp_path / "new"
    new.mkdir()
    (new / "video_label.csv").write_text("video_id,comment_count\n90001,7\n")
    (new / "MicroLens-100k_title_en.csv").write_text("90001, w1 w2 w3 w4\n")
    path, _ = graphstore.append(made.path, new, tmp_path / "grown")
    assert "approximate" not in graphstore.open(path).attributes["relations"]["video/is_similar_to/video"]


def test_without_faiss_nothing_is_left_behind(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    rule = stores[1].schema.relation_type(SIMILAR)
    with pytest.raises(StoreError, match="faiss cannot be had"):
        parts.PartedSearch(stores[0], rule, tmp_path / "made.parts", Approximate(4))
    assert list(tmp_path.iterdir()) == []


def test_parts_of_an_index_are_not_those_of_another(stores: tuple[Store, Store], tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="of the extra ann")
    rule = stores[1].schema.relation_type(SIMILAR)
    search = parts.PartedSearch(stores[0], rule, tmp_path / "made.parts", Approximate(4))
    search.make(0)
    for probes in ("0", "5"):
        done = called("similar", stores[0].path, *OPTIONS, "--out", tmp_path / "made", "--probes", probes)
        assert done.returncode == 2 and "found parts of another search" in done.stderr
    (tmp_path / "made.parts" / "index.faiss").write_bytes(b"nothing")
    done = called("similar", stores[0].path, *OPTIONS, "--out", tmp_path / "made", "--probes", "4")
    assert done.returncode == 2 and "index.faiss: damaged" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.all
def test_actors_find_the_same(stores: tuple[Store, Store], tmp_path: Path) -> None:
    plain, whole = stores
    command = [sys.executable, "-m", "netgpt", "similar", str(plain.path), *OPTIONS, "--actors", "2"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "made")], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    same_relation(graphstore.open(tmp_path / "made"), whole)
