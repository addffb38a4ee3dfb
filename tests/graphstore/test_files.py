"""Files and folders that are written whole: their modes, and what is left where writing fails."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from netgpt.graphstore.files import atomic_dir, atomic_file


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_are_the_umasks_whatever_a_library_gives(umask: int, tmp_path: Path) -> None:
    """Some write files of mode 0600, others ones that everybody reads."""
    for given in (0o600, 0o666):
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("x")
            temporary.chmod(given)
        assert mode(tmp_path / "file") == 0o666 & ~umask
        with atomic_dir(tmp_path / f"folder-{given}") as made:
            (made / "inner").mkdir(mode=0o700)
            for name in ("one", "inner/two"):
                (made / name).write_text("x")
                (made / name).chmod(given)
        folder = tmp_path / f"folder-{given}"
        assert {mode(folder / name) for name in ("one", "inner/two")} == {0o666 & ~umask}
        assert {mode(place) for place in (folder, folder / "inner")} == {0o777 & ~umask}


def test_what_lies_elsewhere_keeps_its_mode(tmp_path: Path) -> None:
    """Hard links, as those of a store's versions, and what a link points to."""
    for name in ("shared", "target"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o640)
    with atomic_dir(tmp_path / "folder") as made:
        os.link(tmp_path / "shared", made / "shared")
        (made / "link").symlink_to(tmp_path / "target")
    assert mode(tmp_path / "shared") == mode(tmp_path / "target") == 0o640


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    for make in (atomic_file, atomic_dir):
        with pytest.raises(RuntimeError), make(tmp_path / "there") as temporary:
            assert temporary.parent == tmp_path
            raise RuntimeError
    assert list(tmp_path.iterdir()) == []
