"""Checkpoints: the newest whole one is found, whatever lies around it."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from netgpt.trainers import checkpoint, weights
from netgpt.trainers.checkpoint import DIGESTS, KEEP, STATE
from netgpt.trainers.errors import TrainerError


def save(folder: Path, step: int, key: str = "k") -> Path:
    share = {f"value.{name}": torch.full((3,), float(step)) for name in "ab"}
    checkpoint.save(folder, step, share, {"a": torch.ones(2) * step}, {"key": key, "trained": ["a", "b"]})
    return folder / f"step-{step:08d}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With the checkpoints of steps 7 and 9."""
    for step in (7, 9):
        save(tmp_path / "checkpoints", step)
    return tmp_path / "checkpoints"


def test_what_was_saved_comes_back(folder: Path) -> None:
    found = checkpoint.open_newest(folder, "k")
    assert found is not None and found.step == 9 and found.path == folder / "step-00000009"
    assert found.meta == {"step": 9, "key": "k", "trained": ["a", "b"]}
    assert found.best.keys() == {"a"} and found.best["a"].tolist() == [9.0, 9.0]
    shapes = {name: torch.Size([3]) for name in "ab"}
    tensors = {(kind, name): tensor.tolist() for kind, name, tensor in found.tensors(shapes)}
    assert tensors == {("value", name): [9.0] * 3 for name in "ab"}
    assert sorted(p.name for p in found.path.iterdir()) == [DIGESTS, "part-00000.safetensors", STATE]


def cut(path: Path) -> None:
    (path / "part-00000.safetensors").write_bytes((path / "part-00000.safetensors").read_bytes()[:-8])


def flip(path: Path) -> None:
    data = bytearray((path / STATE).read_bytes())
    data[-1] ^= 1
    (path / STATE).write_bytes(data)


def lose_part(path: Path) -> None:
    (path / "part-00000.safetensors").unlink()


def lose_digests(path: Path) -> None:
    (path / DIGESTS).unlink()


def empty_digests(path: Path) -> None:
    (path / DIGESTS).write_text("{}")


def tear_digests(path: Path) -> None:
    (path / DIGESTS).write_text((path / DIGESTS).read_text()[:30])


def other_version(path: Path) -> None:
    """Whole, by its digests, and yet not one that this program reads."""
    from safetensors.torch import save_file

    from netgpt.graphstore.files import file_digest

    header = {"netgpt": json.dumps({"version": 9, "meta": {"key": "k", "step": 9}})}
    save_file({"a": torch.ones(1)}, str(path / STATE), metadata=header)
    files = {p.name: file_digest(p) for p in path.iterdir() if p.name != DIGESTS}
    (path / DIGESTS).write_text(json.dumps(files))


DAMAGES = [cut, flip, lose_part, lose_digests, empty_digests, tear_digests, other_version]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over(damage: Callable[[Path], None], folder: Path) -> None:
    damage(folder / "step-00000009")
    found = checkpoint.open_newest(folder, "k")
    assert found is not None and found.step == 7
    damage(folder / "step-00000007")
    assert checkpoint.open_newest(folder, "k") is None
    save(folder, 9)  # what is there under its name does not stand in the way
    again = checkpoint.open_newest(folder, "k")
    assert again is not None and again.step == 9


def test_a_half_written_one_is_none_and_goes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before the rename: parts, state and digests may all be there."""
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(folder, 11)
    monkeypatch.undo()
    (left,) = folder.glob(".*.tmp")
    assert {DIGESTS, STATE} < {p.name for p in left.iterdir()}
    found = checkpoint.open_newest(folder, "k")
    assert found is not None and found.step == 9
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000007", "step-00000009"]


def test_one_of_other_inputs_is_not_opened(folder: Path) -> None:
    save(folder, 11, key="others")
    assert checkpoint.find(folder, "k") == folder / "step-00000009"
    assert checkpoint.find(folder, "others") == folder / "step-00000011"
    assert checkpoint.find(folder, "nobody's") is None and checkpoint.find(folder / "none", "k") is None


def test_the_last_few_are_kept(folder: Path) -> None:
    for step in (11, 13, 15):
        save(folder, step)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000013", "step-00000015"] and KEEP == 2
    # One further on, of a training of before, is not what the clean-up counts from
    save(folder, 3)
    assert {"step-00000003", "step-00000015"} <= {p.name for p in folder.iterdir()}
    assert checkpoint.find(folder, "k") == folder / "step-00000015"


def test_equal_content_is_equal_bytes(folder: Path, tmp_path: Path) -> None:
    other = save(tmp_path / "again", 9)
    for path in (folder / "step-00000009").iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes()


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_have_the_modes_that_the_umask_gives(umask: int, tmp_path: Path) -> None:
    """Not 0600, as the library leaves them: others are to read weights where the umask says so."""
    step = save(tmp_path / "checkpoints", 1)
    weights.save(tmp_path / "model.safetensors", {"a": torch.ones(2)}, {})
    for path in (tmp_path / "model.safetensors", *step.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path.name
    assert stat.S_IMODE(step.stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"netgpt": json.dumps({"version": 2, "meta": {}})}, "found version 2, expected 1"),
        ({"netgpt": "no JSON"}, "not a readable file of weights"),
        ({"pt": "of another program"}, "not a readable file of weights"),
        (None, "not a readable file of weights"),
    ],
)
def test_a_file_of_another_kind_is_refused_in_one_line(
    meta: dict[str, str] | None, words: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1)}, str(path), metadata=meta)
    with pytest.raises(TrainerError) as caught:
        weights.load(path)
    assert str(caught.value).startswith(f"{path}: {words}") and "\n" not in str(caught.value)
    shutil.rmtree(tmp_path)
    with pytest.raises(TrainerError, match="not a readable file of weights"):
        weights.load(path)


def test_weights_share_no_memory_and_keep_types(tmp_path: Path) -> None:
    whole = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tied: dict[str, Any] = {"a": whole, "b": whole.T, "c": whole[1:], "d": whole.to(torch.bfloat16)}
    weights.save(tmp_path / "w.safetensors", tied, {"shape": [3, 4]})
    found, meta = weights.load(tmp_path / "w.safetensors")
    assert meta == {"shape": [3, 4]} and found.keys() == tied.keys()
    assert all(
        torch.equal(found[name], tied[name]) and found[name].dtype == tied[name].dtype for name in tied
    )
