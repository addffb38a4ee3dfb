"""Damage has an address, and a hostile store reaches nothing outside itself."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.storage import LocalStore

from netgpt import graphstore
from netgpt.graphstore import FormatError, Store
from netgpt.graphstore.arrays import map_array, read_blocks, write_array
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.files import read_json
from netgpt.graphstore.seal import SEAL, array_of, write_seal
from tests.graphstore.test_store import check_against_records

FORMAT_1, FORMAT_2 = (Path(__file__).parent / "data" / f"format-{version}.tar.gz" for version in (1, 2))
TOPIC = "edges/video/has_same_topic_as/video"


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Path:
    path = tmp_path / "copy"
    shutil.copytree(store.path, path)
    return path


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_one_flipped_byte_anywhere_is_found_with_its_range(store: Store, copy: Path, data: Any) -> None:
    files = sorted(n for n, size in store.seal.sizes.items() if size and not n.endswith("zarr.json"))
    name = data.draw(st.sampled_from(files))
    at = data.draw(st.integers(0, store.seal.sizes[name] - 1))
    flip(copy / name, at)
    (problem,) = graphstore.verify(copy)
    flip(copy / name, at)
    assert problem.startswith(f"{array_of(name)}: file {name} is damaged in bytes ")
    first, last = (int(n) for n in problem.rsplit("bytes ", 1)[1].split(" to "))
    assert first <= at < last <= store.seal.sizes[name]


def test_a_flipped_byte_of_metadata_is_found(copy: Path) -> None:
    flip(copy / f"{TOPIC}/indices/zarr.json", 5)
    (problem,) = graphstore.verify(copy)
    assert problem.startswith(f"{TOPIC}/indices: file {TOPIC}/indices/zarr.json is damaged")
    flip(copy / "zarr.json", 5)
    with pytest.raises(FormatError, match=r"zarr\.json: damaged"):
        graphstore.open(copy)


def test_damaged_chunks_are_named_by_byte_range(copy: Path) -> None:
    """An array of several chunks: neighbouring ones are one range, and a long list ends in a count."""
    (copy / SEAL).unlink()
    write_array(copy, "nodes/extra", np.arange(2_000_000))
    write_seal(copy)
    chunk = 1 << 20
    for i in (1, 2, 5, 7, 9, 11, 13):
        flip(copy / "nodes/extra/c/0", i * chunk + 17)
    (problem,) = graphstore.verify(copy)
    expected = " and ".join(f"{a * chunk} to {b * chunk}" for a, b in ((1, 3), (5, 6), (7, 8), (9, 10)))
    assert problem == f"nodes/extra: file nodes/extra/c/0 is damaged in bytes {expected} and 2 more"


def test_missing_and_added_files_are_found(copy: Path) -> None:
    (copy / "nodes/video/label/c/0").unlink()
    (copy / "extra").write_text("x")
    problems = graphstore.verify(copy)
    assert any(p.startswith("nodes/video/label: ") and "missing" in p for p in problems)
    assert any(p.startswith("extra: not part") for p in problems)


def test_truncated_missing_and_unsealed_stores_are_refused_at_open(copy: Path) -> None:
    shard = copy / "nodes/video/label/c/0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(FormatError, match=r"nodes/video/label: file .* found \d+ bytes, expected"):
        graphstore.open(copy)
    shard.unlink()
    with pytest.raises(FormatError, match="nodes/video/label/c/0: missing"):
        graphstore.open(copy)
    shard.write_bytes(whole)
    assert len(graphstore.open(copy).labels)
    (copy / SEAL).unlink()
    with pytest.raises(FormatError, match="netgpt build"):
        graphstore.open(copy)
    with pytest.raises(FormatError, match="no such store"):
        graphstore.open(copy / "nowhere")


def test_a_newer_format_is_refused(copy: Path) -> None:
    seal = read_json(copy / SEAL)
    (copy / SEAL).write_text(json.dumps({**seal, "version": 4}))
    for act in (graphstore.open, graphstore.verify):
        with pytest.raises(FormatError, match=r"format version 4, this program reads versions 1 to 3"):
            act(str(copy))


@pytest.mark.parametrize("layout", ["prefix", "csr"])
def test_a_store_of_format_1_is_read(layout: str, tmp_path: Path) -> None:
    with tarfile.open(FORMAT_1) as file:
        file.extractall(tmp_path, filter="data")
    path = tmp_path / f"store-{layout}"
    assert read_json(path / SEAL)["version"] == 1
    assert graphstore.verify(path) == []
    store = graphstore.open(path)
    records = json.loads((tmp_path / "records.json").read_text(encoding="utf-8"))
    check_against_records(store, records)
    assert list(store.ids) == list(records)
    with pytest.raises(FormatError, match="found format version 1, expected 2 or later to append"):
        graphstore.append(path, tmp_path / "records.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records.json", "store-csr", "store-prefix"]
    flip(path / "nodes/video/label/c/0", 3)
    (problem,) = graphstore.verify(path)
    assert problem.startswith("nodes/video/label: file nodes/video/label/c/0 is damaged")


@pytest.fixture
def format_2(tmp_path: Path) -> Path:
    """Stores `store-prefix`, `store-csr` and `store-edges` of format 2, the records of the first two in
    `old.json`, and more in `new.json`."""
    with tarfile.open(FORMAT_2) as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("layout", ["prefix", "csr"])
def test_a_store_of_format_2_is_read_and_appended_to(layout: str, format_2: Path) -> None:
    """Its columns are those of format 3, also those that it has no arrays of; its split is its own."""
    path = format_2 / f"store-{layout}"
    assert read_json(path / SEAL)["version"] == 2
    assert graphstore.verify(path) == []
    old, new = (json.loads((format_2 / f"{n}.json").read_text(encoding="utf-8")) for n in ("old", "new"))
    store = graphstore.open(path)
    check_against_records(store, old)
    assert store.dataset.name == "xsvideo"
    train = [v for v, r in enumerate(old.values()) if r["发布时间"][:10] <= "2024-12-10"]
    assert store.split("train").tolist() == train and 0 < len(train) < len(old)

    config = Config(**store.attributes["build"])
    both = format_2 / "both.json"
    both.write_text(json.dumps({**old, **new}, ensure_ascii=False), encoding="utf-8")
    graphstore.build(format_2 / "old.json", format_2 / "again", config)
    again = graphstore.open(format_2 / "again")
    for column in again.schema.node_type("video").columns:
        read = (
            (lambda g, n: list(g.strings("video", n)))
            if column.is_text
            else (lambda g, n: g.column("video", n))
        )
        assert np.array_equal(read(store, column.name), read(again, column.name)), column.name

    made, _ = graphstore.append(path, format_2 / "new.json")
    graphstore.build(both, format_2 / "whole", config)
    one, other = graphstore.open(made), graphstore.open(format_2 / "whole")
    assert graphstore.verify(made) == [] and one.seal.version == 3
    assert one.seal.files.keys() == other.seal.files.keys()
    assert {n for n in one.seal.files if one.seal.files[n] != other.seal.files[n]} == {"zarr.json"}
    assert one.schema.split == store.schema.split != other.schema.split
    assert one.attributes["num_skipped"] == 0 and one.attributes["parent_digest"] == store.digest

    source = store.dataset.open(format_2 / "new.json", config, known_ids=store.taken_ids())
    graph = graphstore.ExtendedGraph(store, source)
    for name in ("age_days", "age_zero", "platform", "label"):
        np.testing.assert_array_equal(graph.column("video", name), other.column("video", name))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("split", 9, "values outside 0 to 1"),
        ("platform", 99, "values outside -1 to"),
        ("label", 77, "values outside -1 to 9"),
    ],
)
def test_columns_of_format_2_that_lie_are_found(name: str, value: int, words: str, format_2: Path) -> None:
    path = format_2 / "store-prefix"
    values = np.array(map_array(path, f"nodes/video/{name}"))
    values[0] = value
    shutil.rmtree(path / "nodes/video" / name)
    write_array(path, f"nodes/video/{name}", values)
    (path / SEAL).unlink()
    write_seal(path)
    seal = read_json(path / SEAL)
    (path / SEAL).write_text(json.dumps({**seal, "version": 2}))
    (problem,) = graphstore.verify(path)
    assert problem.startswith(f"nodes/video/{name}: {words}"), problem


def test_edge_lists_of_format_2_are_read(format_2: Path) -> None:
    path = format_2 / "store-edges"
    assert read_json(path / SEAL)["version"] == 2 and graphstore.verify(path) == []
    store = graphstore.open(path)
    assert store.dataset.name == "edges" and store.features("a").dim == 3
    assert store.relation(("a", "to", "b")).neighbors(0).tolist() == [2, 1]
    with pytest.raises(FormatError, match="a store of edge lists"):
        graphstore.append(path, format_2 / "new.json")


def rewritten(copy: Path, name: str, change: Callable[[np.ndarray], Any]) -> list[str]:
    """Change an array, seal the store as if it had been built so, and verify."""
    values = np.array(map_array(copy, name))
    changed = change(values)
    shutil.rmtree(copy / name)
    write_array(copy, name, values if changed is None else changed)
    (copy / SEAL).unlink()
    write_seal(copy)
    return graphstore.verify(copy)


def put(value: int, at: int = 0) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[at] = value

    return change


def swap(values: np.ndarray) -> None:
    values[[0, 1]] = values[[1, 0]]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("edges/comment/is_comment_of/video/indices", put(10**6), "node numbers outside"),
        (f"{TOPIC}/indices", put(-1), "node numbers outside"),
        (f"{TOPIC}/indices", swap, "its rank says elsewhere"),
        (f"{TOPIC}/begin", put(-4), "rows outside indices"),
        (f"{TOPIC}/end", put(10**9), "rows outside indices"),
        (f"{TOPIC}/end", lambda values: values[:-1], "rows, expected"),
        (f"{TOPIC}/end", lambda values: values.__isub__(values > 0), "edges, expected"),
        (f"{TOPIC}/rank", put(7), "rank"),
        ("edges/title/is_title_of/video/indptr", put(9, 3), "fall or point outside"),
        ("edges/title/is_title_of/video/indptr", put(1), "begins at 1"),
        # Differences of these wrap around: none is below 0
        (
            "edges/title/is_title_of/video/indptr",
            lambda values: values.__setitem__(slice(1, 3), [2**63 - 1, -(2**63)]),
            "fall or point outside",
        ),
        ("edges/title/is_title_of/video/indptr", lambda values: values.astype(np.int32), "expected int64"),
        ("edges/title/is_title_of/video/indices", lambda values: values[:, None], "one number a row"),
        (f"{TOPIC}/rank", lambda values: values.__imul__(0).__isub__(1), "rank"),
        ("nodes/likes/x", lambda values: values[:3], "rows, expected"),
        ("nodes/likes/x", lambda values: values[:, 0], "[rows, width]"),
        ("nodes/title/x_key", lambda values: values[:-1], "rows, expected"),
        ("nodes/video/label", put(77), "values outside -1 to 9"),
        ("nodes/video/label", lambda values: values.astype(np.int64), "expected int8"),
        ("nodes/video/age_zero", put(9), "values outside 0 to 1"),
        ("nodes/video/age_days", lambda values: values.astype(np.int64), "expected int32"),
        ("nodes/video/keys/platform/code", put(99), "values outside"),
        ("nodes/video/id_offset", lambda values: values[[0, -1]], "rows, expected"),
        ("nodes/video/keys/topic/value", put(255), "not UTF-8"),
        (
            "nodes/video/keys/topic/value_offset",
            lambda values: values.__setitem__(1, values[1] + 1),
            "inside",
        ),
        ("edges/title/is_title_of/video/indptr", lambda values: values[:-1], "rows, expected"),
        ("nodes/title/x_row", put(10**6), "rows outside"),
        ("nodes/video/text_offset", put(-9, 2), "fall or point outside"),
        ("nodes/video/id_offset", put(10**6, -1), "fall or point outside"),
        ("nodes/video/keys/topic/code", put(99_999), "values outside"),
    ],
)
def test_pointers_that_lie_under_a_right_seal_are_found(
    name: str, change: Callable[[np.ndarray], Any], words: str, copy: Path
) -> None:
    problems = rewritten(copy, name, change)
    assert problems and any(words in p for p in problems), problems
    assert all(p.startswith(name.rsplit("/", 1)[0]) for p in problems)


def test_pointers_of_a_csr_store(csr_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(csr_store.path, path)
    assert graphstore.verify(path) == []
    (problem, *_) = rewritten(path, f"{TOPIC}/indptr", put(10**9, 5))
    assert problem.startswith(f"{TOPIC}/indptr: offsets fall or point outside")


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 300), block=st.integers(8, 500), overlap=st.integers(0, 2), width=st.integers(1, 3))
def test_blocks_are_the_array(
    num: int, block: int, overlap: int, width: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("blocks")
    values = np.arange(num * width).reshape(num, width)
    write_array(root, "a", values)
    expected = 0
    for first, rows in read_blocks(root, "a", block, overlap):
        assert first == expected
        step = max(1, block // (8 * width))
        assert (rows == values[first : first + step + overlap]).all()
        expected = first + step
    assert expected >= num


# What somebody could put in a store's place. Each takes a sound store's folder.


def _edit(name: str, change: Callable[[Any], None], reseal: bool = True) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        value = read_json(path / name)
        change(value)
        (path / name).write_text(json.dumps(value))
        if reseal:
            seal = read_json(path / SEAL)
            data = (path / name).read_bytes()
            seal["files"][name], seal["sizes"][name] = hashlib.sha256(data).hexdigest(), len(data)
            (path / SEAL).write_text(json.dumps(seal))

    return act


def _link_file(path: Path) -> None:
    shard = path / "nodes/video/label/c/0"
    shutil.copy(shard, path.parent / "outside")
    shard.unlink()
    shard.symlink_to(path.parent / "outside")


def _link_folder(path: Path) -> None:
    shutil.move(path / "nodes/video/label", path.parent / "label")
    (path / "nodes/video/label").symlink_to(path.parent / "label")


def _pipe(path: Path) -> None:
    (path / "nodes/video/label/c/0").unlink()
    os.mkfifo(path / "nodes/video/label/c/0")


def _name_outside(name: str) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        (path.parent / "outside").write_text("secret")
        seal = read_json(path / SEAL)
        for part, value in (("files", "0" * 64), ("sizes", 6)):
            seal[part][name.format(parent=path.parent)] = value
        (path / SEAL).write_text(json.dumps(seal))

    return act


def _shape(*shape: Any) -> Callable[[Path], None]:
    return _edit("nodes/video/label/zarr.json", lambda meta: meta.update(shape=list(shape)))


def _old_seal(path: Path) -> None:
    seal = read_json(path / SEAL)
    (path / SEAL).write_text(json.dumps({"format": seal["format"], "version": 1, "files": seal["files"]}))
    os.truncate(path / "zarr.json", 1 << 43)


def _checksums(path: Path) -> None:
    """Of a large sparse file: each would be kept, had the seal not to have them all."""
    (path / "extra").touch()
    os.truncate(path / "extra", 30_000_000)
    seal = read_json(path / SEAL)
    seal["files"]["extra"], seal["sizes"]["extra"] = "0" * 64, 30_000_000
    seal["chunks"]["extra"] = {"bytes": 1, "crc32c": "0"}
    (path / SEAL).write_text(json.dumps(seal))


HOSTILE: dict[str, Callable[[Path], None]] = {
    "a file that is a link": _link_file,
    "a folder that is a link": _link_folder,
    "a pipe": _pipe,
    "a name that climbs": _name_outside("nodes/../../outside"),
    "an absolute name": _name_outside("{parent}/outside"),
    "a huge shape": _shape(1 << 45),
    "a shape beyond all": _shape(10**30),
    "a negative shape": _shape(-5),
    "a shape of text": _shape("many"),
    "no shape": _shape(),
    "a chunk of nothing": _edit(
        "nodes/video/label/zarr.json",
        lambda meta: meta["codecs"][0]["configuration"].update(chunk_shape=[0]),
    ),
    "objects for numbers": _edit("nodes/video/label/zarr.json", lambda meta: meta.update(data_type="object")),
    "a node type that climbs": _edit(
        "zarr.json", lambda meta: meta["attributes"]["schema"]["node_types"][0].update(name="../x")
    ),
    "a relation that climbs": _edit(
        "zarr.json",
        lambda meta: meta["attributes"]["schema"]["relations"][0].update(edge_type=["title", "..", "video"]),
    ),
    "fewer labels than nodes": _shape(5),
    "more nodes than rows": _edit(
        "zarr.json", lambda meta: meta["attributes"]["num_nodes"].update(video=1 << 40)
    ),
    "no attributes": _edit("zarr.json", lambda meta: meta.update(attributes=[])),
    "no encoders": _edit("zarr.json", lambda meta: meta["attributes"].pop("encoders")),
    "no build settings": _edit("zarr.json", lambda meta: meta["attributes"].pop("build")),
    "infinitely many nodes": _edit(
        "zarr.json", lambda meta: meta["attributes"]["num_nodes"].update(video=float("inf"))
    ),
    "records of no video": _edit(
        "zarr.json",
        lambda meta: meta["attributes"]["schema"].update(
            target="a", node_types=[{"name": "a", "encoding": "none"}], relations=[]
        ),
    ),
    "prefix rows between two types": _edit(
        "zarr.json",
        lambda meta: meta["attributes"]["relations"]["title/is_title_of/video"].update(layout="prefix"),
    ),
    "metadata without end under an old seal": lambda path: _old_seal(path),
    "an infinite size": _edit(SEAL, lambda seal: seal["sizes"].update({"zarr.json": float("inf")}), False),
    "a digest of no hexadecimals": _edit(SEAL, lambda seal: seal["files"].update(x="\ud800"), False),
    "a checksum for each byte": lambda path: _checksums(path),
    "a seal nested without end": lambda path: (path / SEAL).write_text("[" * 1_000_000) and None,
    "a seal without end": lambda path: os.truncate(path / SEAL, 1 << 40),
    "a seal that is a list": lambda path: (path / SEAL).write_text("[]") and None,
}

_READ = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
import numpy as np; from netgpt import graphstore
try:
    problems = graphstore.verify(sys.argv[1])
    assert problems, "verify found nothing"
    print("found:", problems[0])
except graphstore.FormatError as error:
    print("refused:", error)
try:
    store = graphstore.open(sys.argv[1])
    [store.relation(e) for e in store.edge_types], [store.features(n) for n in store.node_types]
    bytes(store.labels[:100])
    raise SystemExit("was read")
except graphstore.FormatError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_store_is_refused_in_bounded_memory(attack: str, copy: Path) -> None:
    HOSTILE[attack](copy)
    limit = 3 << 30  # of addresses: Python, Numba and the maps of a small store take under 2 GB
    done = subprocess.run(
        [sys.executable, "-c", _READ, str(copy), str(limit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "secret" not in done.stdout


def test_plain_zarr_reads_a_slice_without_the_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an array of many chunks the index and the bytes of one chunk are read, no more."""
    write_array(tmp_path, "a", np.arange(3_000_000))
    read = []
    get = LocalStore.get

    async def counted(self: LocalStore, key: str, *arguments: Any, **options: Any) -> Any:
        found = await get(self, key, *arguments, **options)
        if "/c/" in f"/{key}":
            read.append(len(found))
        return found

    monkeypatch.setattr(LocalStore, "get", counted)
    array = zarr.open_array(str(tmp_path / "a"), mode="r")
    assert array[1_000_000:1_000_003].tolist() == [1_000_000, 1_000_001, 1_000_002]
    num_chunks = -(-3_000_000 * 8 // (1 << 20))
    assert sorted(read) == [num_chunks * 16 + 4, 1 << 20]
