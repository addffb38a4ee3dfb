"""A store that was packed and unpacked is the same store; nothing of a pack is trusted."""

from __future__ import annotations

import json
import os
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from numcodecs import Zstd

from netgpt import graphstore
from netgpt.graphstore import FormatError, Store, StoreError
from netgpt.graphstore.files import file_digest, read_json
from netgpt.graphstore.pack import PACK
from netgpt.graphstore.seal import store_files


def files_of(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def edge_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """No features, an empty relation, numbers over 32 bits, and rows of several chunks."""
    folder = tmp_path_factory.mktemp("edges")
    rng = np.random.default_rng(0)
    np.save(folder / "pairs.npy", rng.integers(0, 500, (700_000, 2)))
    np.save(folder / "none.npy", np.zeros((0, 2), np.int64))
    np.save(folder / "far.npy", np.stack([rng.integers(0, 2**40, 1000), rng.integers(0, 500, 1000)], 1))
    np.save(folder / "x.npy", rng.standard_normal((500, 700)).astype(np.float32))
    (folder / "graph.yaml").write_text(
        f"nodes: {{n: {{features: x.npy}}, far: {{count: {2**40}}}}}\n"
        "edges:\n- {type: [n, to, n], path: pairs.npy}\n- {type: [n, never, n], path: none.npy}\n"
        "- {type: [far, to, n], path: far.npy}\n"
    )
    graphstore.build_edges(folder / "graph.yaml", folder / "store")
    return graphstore.open(folder / "store")


@pytest.mark.parametrize("name", ["store", "csr_store", "edge_store"])
def test_unpacking_gives_every_byte_back(name: str, request: Any, tmp_path: Path) -> None:
    store = request.getfixturevalue(name)
    graphstore.pack(store.path, tmp_path / "pack")
    graphstore.unpack(tmp_path / "pack", tmp_path / "again")
    assert files_of(tmp_path / "again") == files_of(store.path)
    assert graphstore.verify(tmp_path / "again") == []


@pytest.mark.parametrize("name", ["csr_store", "edge_store"])
def test_plain_zarr_reads_a_packed_store(name: str, request: Any, tmp_path: Path) -> None:
    store = request.getfixturevalue(name)
    graphstore.pack(store.path, tmp_path / "pack")
    seen = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr says that Delta is not in its specification
        group = zarr.open_group(str(tmp_path / "pack"), mode="r")
        for key, array in group.members(max_depth=None):
            if isinstance(array, zarr.Array):
                np.testing.assert_array_equal(array[...], store.array(key))
                seen += 1
    assert seen == sum(1 for n in store.seal.files if n.endswith("zarr.json") and is_array(store.path / n))
    assert graphstore.files.total_bytes(tmp_path / "pack") < graphstore.files.total_bytes(store.path)


def is_array(path: Path) -> bool:
    return bool(read_json(path)["node_type"] == "array")


def test_a_damaged_store_is_not_packed(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "s")
    path = tmp_path / "s/nodes/video/label/c/0"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    with pytest.raises(FormatError, match=r"nodes/video/label: .* damaged in bytes 0 to"):
        graphstore.pack(tmp_path / "s", tmp_path / "pack")
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_targets_inside_the_source(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "s")
    with pytest.raises(StoreError, match="must stay as it is"):
        graphstore.pack(tmp_path / "s", tmp_path / "s/inside")
    with pytest.raises(StoreError, match="must stay as it is"):
        graphstore.append(tmp_path / "s", "records.json", tmp_path / "s/inside")
    assert graphstore.verify(tmp_path / "s") == []


def test_targets_that_are_there_and_packs_in_place_of_stores(store: Store, tmp_path: Path) -> None:
    graphstore.pack(store.path, tmp_path / "pack")
    for act in (graphstore.pack, graphstore.unpack):
        with pytest.raises(StoreError, match="already there"):
            act(store.path, tmp_path / "pack")
    with pytest.raises(FormatError, match="netgpt unpack"):
        graphstore.open(tmp_path / "pack")
    with pytest.raises(FormatError, match=r"no PACK\.json"):
        graphstore.unpack(store.path, tmp_path / "again")


LABEL = "nodes/video/label"


def reseal(pack: Path) -> None:
    """Give the pack digests of the files that are now there, as its attacker would."""
    value = read_json(pack / PACK)
    value["files"] = {n: file_digest(pack / n) for n in store_files(pack) if n != PACK}
    (pack / PACK).write_text(json.dumps(value))


def edit_pack(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def act(pack: Path) -> None:
        value = read_json(pack / PACK)
        change(value)
        (pack / PACK).write_text(json.dumps(value))

    return act


def edit_meta(change: Callable[[Any], Any], both: bool = False) -> Callable[[Path], None]:
    """Change the packed metadata of an array and, with `both`, what it is unpacked to."""

    def act(pack: Path) -> None:
        path = pack / LABEL / "zarr.json"
        meta = read_json(path)
        change(meta)
        path.write_text(json.dumps(meta))
        if both:
            value = read_json(pack / PACK)
            original = json.loads(value["metadata"][f"{LABEL}/zarr.json"])
            change(original)
            value["metadata"][f"{LABEL}/zarr.json"] = json.dumps(original)
            (pack / PACK).write_text(json.dumps(value))
        reseal(pack)

    return act


def bomb(claimed: int) -> Callable[[Path], None]:
    """A chunk whose Zstandard frame says that it holds far more than the array."""

    def act(pack: Path) -> None:
        frame = bytes(Zstd(level=1).encode(np.zeros(1 << 16, np.int8)))
        # Magic, then a header that says: one segment, 8 bytes of content size
        frame = frame[:4] + bytes([0xE0]) + struct.pack("<Q", claimed) + frame[4 + 1 + 2 :]
        index = struct.pack("<QQ", 0, len(frame))  # the array is one chunk
        crc = google_crc32c.value(index).to_bytes(4, "little")
        (pack / LABEL / "c/0").write_bytes(frame + index + crc)
        reseal(pack)

    return act


def short_blosc(pack: Path) -> None:
    """A Blosc chunk of 16 bytes, whose header tells of many more to be copied from behind it."""
    path = pack / "nodes/likes/x/c/0/0"
    raw = path.read_bytes()
    nbytes = struct.unpack("<I", raw[4:8])[0]
    blob = struct.pack("<BBBBIII", 2, 1, 0x02, 4, nbytes, nbytes, nbytes + 16)
    index = struct.pack("<QQ", 0, len(blob))
    path.write_bytes(blob + index + google_crc32c.value(index).to_bytes(4, "little"))
    reseal(pack)


def swap_in_a_link(pack: Path) -> None:
    shutil.move(pack / LABEL / "c/0", pack.parent / "outside")
    (pack / LABEL / "c/0").symlink_to(pack.parent / "outside")


def flip_byte(pack: Path) -> None:
    path = pack / LABEL / "c/0"
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)


HOSTILE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a flipped byte": (flip_byte, f"{LABEL}: file {LABEL}/c/0 is damaged"),
    "a flipped byte under a right digest": (lambda p: (flip_byte(p), reseal(p)), LABEL),
    "a cut shard": (lambda p: (os.truncate(p / LABEL / "c/0", 10), reseal(p)), "damaged shard index"),
    "a missing shard": (lambda p: (p / LABEL / "c/0").unlink(), "missing"),
    "a missing shard that is not listed": (lambda p: ((p / LABEL / "c/0").unlink(), reseal(p)), "missing"),
    "a shard too many": (lambda p: shutil.copy(p / LABEL / "c/0", p / LABEL / "c/1"), "not part of"),
    "a link": (swap_in_a_link, "a link"),
    "a name that climbs": (
        edit_pack(lambda v: v["metadata"].update({"../evil/zarr.json": "{}"})),
        "found the file name",
    ),
    "an absolute name": (edit_pack(lambda v: v["metadata"].update({"/evil/zarr.json": "{}"})), "file name"),
    "a sealed name that climbs": (
        edit_pack(
            lambda v: (v["seal"]["files"].update({"../x": "0" * 64}), v["seal"]["sizes"].update({"../x": 1}))
        ),
        "found the file name",
    ),
    "metadata of another kind": (
        edit_pack(lambda v: v["metadata"].update({"nodes/zarr.json": "[]"})),
        "damaged metadata",
    ),
    "a newer pack": (edit_pack(lambda v: v.update(version=2)), "expected"),
    "no seal": (edit_pack(lambda v: v.pop("seal")), "damaged"),
    "another codec": (
        edit_meta(lambda m: m["codecs"][0]["configuration"]["codecs"][-1].update(name="gzip")),
        "other codecs",
    ),
    "another shape": (edit_meta(lambda m: m.update(shape=[7])), "another shape"),
    "a huge shape in both": (edit_meta(lambda m: m.update(shape=[1 << 44]), both=True), LABEL),
    "a huge chunk in both": (
        edit_meta(lambda m: m["codecs"][0]["configuration"].update(chunk_shape=[1 << 40]), both=True),
        "expected about 1 MB",
    ),
    "a name of two kinds": (
        edit_pack(lambda v: v["metadata"].update({f"{LABEL}/c/0/zarr.json": '{"node_type": "group"}'})),
        "found the file name",
    ),
    "a seal for a folder": (
        edit_pack(lambda v: v["metadata"].update({"SEAL.json/zarr.json": '{"node_type": "group"}'})),
        "found the file name",
    ),
    "a long name": (
        edit_pack(lambda v: v["metadata"].update({f"{'x' * 300}/zarr.json": "{}"})),
        "found the file name",
    ),
    "half a character": (edit_pack(lambda v: v["metadata"].update({"n/zarr.json": "\ud800"})), "damaged"),
    "a size of no number": (edit_pack(lambda v: v["seal"]["sizes"].update(x=float("nan"))), "damaged"),
    "floats of another length": (short_blosc, "cannot be decompressed"),
    "a chunk that says it is a terabyte": (bomb(1 << 40), "cannot be decompressed"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_pack_is_refused_and_leaves_nothing(attack: str, store: Store, tmp_path: Path) -> None:
    graphstore.pack(store.path, tmp_path / "pack")
    act, words = HOSTILE[attack]
    act(tmp_path / "pack")
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(FormatError) as caught:
        graphstore.unpack(tmp_path / "pack", tmp_path / "again")
    assert words in str(caught.value), str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == before
    assert not (tmp_path.parent / "evil").exists()
