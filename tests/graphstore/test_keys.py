"""Keys of tables: numbers of texts against a dict, and edges by them within the memory that is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import StoreError
from netgpt.graphstore.keys import AddedKeys, Keys, KnownTexts

TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=3), st.sampled_from(["a", "ab", "ab\0", "é"])))


@settings(deadline=None)
@given(before=TEXTS, batches=st.lists(TEXTS, max_size=3), asked=TEXTS)
def test_keys_that_follow_others_leave_those_as_they_are(
    before: list[str | None], batches: list[list[str | None]], asked: list[str | None]
) -> None:
    first, whole = Keys(), Keys()
    first.add(pa.array(before, pa.large_string()))
    whole.add(pa.array(before, pa.large_string()))
    num, added = len(first), AddedKeys(first)
    for batch in batches:
        texts = pa.array(batch, pa.large_string())
        where = np.arange(len(batch)) % 2 == 0
        assert added.add(texts, where).tolist() == whole.add(texts, where).tolist()
        assert len(added) == len(whole)
        assert added.rows(texts).tolist() == whole.rows(texts).tolist()
    assert [t for some in added.batches() for t in some] == [t for some in whole.batches() for t in some]
    assert len(first) == num
    known = KnownTexts(whole)
    assert set(known) == {t for some in whole.batches() for t in some} and len(known) == len(whole)
    assert [text in known for text in asked] == [text in set(known) for text in asked]


@settings(deadline=None)
@given(batches=st.lists(TEXTS, max_size=5), asked=TEXTS, skipped=st.integers(0, 2))
def test_keys_are_a_dict_of_texts(
    batches: list[list[str | None]], asked: list[str | None], skipped: int
) -> None:
    keys, expected = Keys(), dict[str, int]()
    for batch in batches:
        where = np.arange(len(batch)) % 3 != skipped
        is_new = []
        for text, taken in zip(batch, where, strict=True):
            is_new.append(bool(taken) and text is not None and text not in expected)
            if is_new[-1]:
                assert text is not None
                expected[text] = len(expected)
        assert keys.add(pa.array(batch, pa.string()), where).tolist() == is_new
    assert len(keys) == len(expected)
    assert [text for batch in keys.batches() for text in batch] == list(expected)
    values = pa.array([None, *asked], pa.large_string())[1:]  # a slice: its buffers begin elsewhere
    assert keys.rows(values).tolist() == [
        expected.get(text, -1) if text is not None else -1 for text in asked
    ]


def test_many_keys_grow_the_table() -> None:
    """Over several growths, with texts of all lengths, and of equal hashes in no more than a few bytes."""
    texts = [str(i) * (i % 5 + 1) for i in range(1, 200_000)]
    texts = list(dict.fromkeys(texts))
    keys = Keys()
    for first in range(0, len(texts), 7_001):
        keys.add(pa.array(texts[first : first + 7_001], pa.large_string()))
    order = np.random.default_rng(0).permutation(len(texts))
    assert (keys.rows(pa.array([texts[i] for i in order])) == order).all()
    assert (keys.rows(pa.array([text + "x" for text in texts])) == -1).all()
    assert keys.nbytes < 1.3 * sum(12 + len(text) for text in texts) + 22 * len(texts)


def _tables(folder: Path, num: int) -> Path:
    rng = np.random.default_rng(1)
    (folder / "user.csv").write_text("id\n" + "".join(f"user {i}\n" for i in range(500)))
    (folder / "item.csv").write_text("id\n" + "".join(f"item {i}\n" for i in range(300)))
    likes = zip(
        rng.integers(0, 500, num),
        rng.integers(0, 300, num),
        1_600_000_000 + rng.integers(0, 99, num),
        strict=True,
    )
    text = "".join(f"user {u},item {i},{t}\n" for u, i, t in likes)
    (folder / "likes.csv").write_text("user,item,at\n" + text)
    (folder / "graph.yaml").write_text(
        """
tables:
  user: {path: user.csv, key: id, columns: {}}
  item: {path: item.csv, key: id, columns: {}}
  likes:
    {path: likes.csv, time: at, columns: {}, links: {user: user, item: item}}
"""
    )
    return folder / "graph.yaml"


def test_little_memory_makes_the_same_store(tmp_path: Path) -> None:
    """Edges go through files, of their numbers and by range: the seal is that of a build in memory."""
    source = _tables(tmp_path, 20_000)
    graphstore.build(source, tmp_path / "a")
    graphstore.build(source, tmp_path / "b", memory_bytes=200_000)
    a, b = graphstore.open(tmp_path / "a"), graphstore.open(tmp_path / "b")
    assert a.digest == b.digest
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == sorted(
        p.name for p in (tmp_path / "a").iterdir()
    )
    assert not (tmp_path / "b" / "scratch").exists()


def test_keys_are_part_of_the_memory(tmp_path: Path) -> None:
    source = _tables(tmp_path, 100)
    with pytest.raises(StoreError, match=r"found 20,000 bytes, expected at least .* bytes of keys\)"):
        graphstore.build(source, tmp_path / "store", memory_bytes=20_000)
    assert not (tmp_path / "store").exists()
