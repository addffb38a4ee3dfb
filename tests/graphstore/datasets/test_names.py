"""Data sets are found by name, by address and by their files; no other room knows the words of one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from netgpt import graphstore
from netgpt.graphstore import Dataset, StoreError, UnknownNameError
from netgpt.graphstore.datasets import names
from tests.toys.dataset import Config, Toy

WORDS = re.compile(r"xs.?video|douyin|age.?zero|2024-12-20|平台|has_same_topic", re.IGNORECASE)
ROOMS = Path(graphstore.__file__).parent


def test_all_names_are_data_sets() -> None:
    for name in names.DATASETS:
        dataset = names.load(name)
        assert isinstance(dataset, Dataset) and dataset.name == name == names.key_of(dataset)
        assert names.load(name) is dataset
    assert names.key_of(Toy()) == "tests.toys.dataset:Toy"
    assert type(names.load("tests.toys.dataset:Toy")) is Toy


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "films",
            "found 'films', expected one of xsvideo, tables, interactions, microlens, smpd, edges, or",
        ),
        ("no.such.module:Name", "cannot be imported"),
        ("tests.toys.dataset:Nothing", "cannot be imported"),
        ("tests.toys.dataset:Config", "a type, expected a data set's class"),
        ("../x:y", "expected one of xsvideo, tables, interactions, microlens, smpd, edges"),
    ],
)
def test_other_names_are_refused(name: str, words: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        names.load(name)
    assert words in str(caught.value)


def test_settings_of_one_data_set_are_not_anothers(tmp_path: Path) -> None:
    Toy().write_synthetic(tmp_path / "t.jsonl", 0.01, 0)
    graphstore.build(tmp_path / "t.jsonl", tmp_path / "s", Config(encoder="hash:8"))  # its settings name it
    assert graphstore.open(tmp_path / "s").dataset.title == "Toy"
    with pytest.raises(StoreError, match="found settings of another data set, expected those of edge lists"):
        graphstore.build(tmp_path / "t.jsonl", tmp_path / "t", Config(), dataset="edges")
    with pytest.raises(StoreError, match="expected a source of one of the data sets"):
        graphstore.build(tmp_path / "t.jsonl", tmp_path / "t")
    with pytest.raises(StoreError, match="found rows of no named data set"):
        graphstore.build(Toy().synthetic(0.01, 0), tmp_path / "t")


def test_a_data_sets_words_are_in_its_room_alone() -> None:
    hits = {
        path.relative_to(ROOMS).as_posix()
        for path in ROOMS.rglob("*.py")
        if WORDS.search(path.read_text(encoding="utf-8"))
    }
    assert {h for h in hits if not h.startswith("datasets/xsvideo/")} == {"datasets/names.py"}
