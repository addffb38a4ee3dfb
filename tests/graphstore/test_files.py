"""Files and folders that are written whole: their modes, and what is left where writing fails."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netgpt.graphstore import StoreError
from netgpt.graphstore.files import _host, atomic_dir, atomic_file


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


def test_names_as_long_as_the_system_takes_are_written(tmp_path: Path) -> None:
    for name in ("n" * 255, "数" * 85):
        with atomic_file(tmp_path / f"{name[:-4]}.txt") as temporary:
            temporary.write_text("x")
        with atomic_dir(tmp_path / name) as folder:
            (folder / "file").write_text("x")
        assert (tmp_path / name / "file").read_text() == "x"


@pytest.mark.parametrize("make", [atomic_file, atomic_dir])
def test_a_place_where_nothing_can_be_made_is_named_before_the_work(make: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    long = "n" * 256
    for place in (tmp_path / long, tmp_path / "file" / "made", Path("/proc/made"), tmp_path / "new" / long):
        with pytest.raises(StoreError, match="cannot be written") as caught, make(place):
            pytest.fail("the work began")
        assert str(caught.value).startswith(f"{place}: ") and ".tmp" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_folders_made_for_nothing_are_taken_away(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for make in (atomic_file, atomic_dir):
        with pytest.raises(RuntimeError), make(tmp_path / "there" / "a" / "b" / "made"):
            raise RuntimeError
    assert list((tmp_path / "there").iterdir()) == []


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    here = f"77-{_host()}0123abcd.tmp"
    left, other = tmp_path / f".made.{here}", tmp_path / f".made-2.{here}"
    elsewhere = tmp_path / ".made.77-012345670123abcd.tmp"  # of another machine, whose locks may not be seen
    for folder in (left, other, elsewhere):
        folder.mkdir()
        (folder / "data").write_text("x")
        os.utime(folder, (1, 1))
    with atomic_dir(tmp_path / "made") as first:
        (first / "file").write_text("1")
        os.utime(first, (1, 1))
        assert not left.exists() and other.exists() and elsewhere.exists()
        with pytest.raises(StoreError, match="another process is making it"), atomic_dir(tmp_path / "made"):
            pytest.fail("two at once")
    assert (tmp_path / "made" / "file").read_text() == "1"
    with (
        pytest.raises(StoreError, match="made: already there, and no empty folder"),
        atomic_dir(tmp_path / "made"),
    ):
        pytest.fail("it would not be replaced")
    with pytest.raises(StoreError, match="late: cannot be written"), atomic_dir(tmp_path / "late") as late:
        (late / "file").write_text("2")
        shutil.copytree(tmp_path / "made", tmp_path / "late")  # of another, meanwhile
    assert (tmp_path / "late" / "file").read_text() == "1"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([other.name, elsewhere.name, "late", "made"])
