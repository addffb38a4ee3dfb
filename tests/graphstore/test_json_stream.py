"""The reader of JSON files against Python's own `json`, whatever the texts, escapes, sizes and depths."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt.graphstore import json_stream
from netgpt.graphstore.json_stream import BrokenJsonError, JsonStream, decoded, encoded

# halves of surrogate pairs, escapes and what UTF-8 says in two, three and four bytes
CHARACTERS = st.sampled_from(["a", '"', "\\", "/", "\n", "\x7f", "é", "界", "𝄞", "\ud800", "\udc00", "\x00"])
TEXTS = st.lists(CHARACTERS, max_size=12).map("".join)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**25), 10**25),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)
)
RECORDS = st.lists(st.tuples(TEXTS, VALUES), max_size=6)


def spelled(value: Any, ascii_only: bool, space: str) -> str:
    text = json.dumps(value, ensure_ascii=ascii_only)
    return space + text + space


def members(data: bytes) -> list[tuple[str, Any]]:
    stream = JsonStream(io.BytesIO(data))
    return [(name, stream.value()) for name in stream.members()]


@pytest.fixture(params=[1, 3, 7, 64])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Blocks that end within every value, escape and character."""
    monkeypatch.setattr(json_stream, "_BLOCK_BYTES", request.param)
    return int(request.param)


@contextmanager
def of_block(size: int) -> Iterator[None]:
    """Blocks of a length, for a property that draws it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_BLOCK_BYTES", size)
        yield


@settings(max_examples=400, deadline=None)
@given(
    records=RECORDS,
    ascii_only=st.booleans(),
    space=st.sampled_from(["", " ", "\n\t\r "]),
    block=st.sampled_from([1, 2, 5, 17, 1 << 18]),
)
def test_members_and_elements_are_those_of_python(
    records: list[tuple[str, Any]], ascii_only: bool, space: str, block: int
) -> None:
    pairs = [f"{spelled(k, ascii_only, space)}:{spelled(v, ascii_only, space)}" for k, v in records]
    listed = [spelled(v, ascii_only, space) for _, v in records]
    with of_block(block):
        read = members((space + "{" + ",".join(pairs) + "}" + space).encode("utf-8", "surrogatepass"))
        text = space + "[" + ",".join(listed) + "]" + space
        elements = list(JsonStream(io.BytesIO(text.encode("utf-8", "surrogatepass"))).elements())
    # json.loads of each spelling: a pair of halves in escapes is one character there and here
    expected = [
        (json.loads(spelled(k, ascii_only, "")), json.loads(spelled(v, ascii_only, ""))) for k, v in records
    ]
    assert repr(read) == repr(expected)
    assert repr(elements) == repr([v for _, v in expected])


@settings(max_examples=400, deadline=None)
@given(
    records=RECORDS,
    at=st.floats(0, 1, exclude_max=True),
    new=st.one_of(st.none(), st.binary(min_size=1, max_size=2)),
    block=st.sampled_from([1, 5, 1 << 18]),
)
def test_a_damaged_text_gives_what_python_gives_or_one_line(
    records: list[tuple[str, Any]], at: float, new: bytes | None, block: int
) -> None:
    """A text is cut off, or some bytes of it are others."""
    data = json.dumps(dict(records), ensure_ascii=False).encode("utf-8", "surrogatepass")
    place = int(at * len(data))
    data = data[:place] + (b"" if new is None else new + data[place + len(new) :])
    try:
        expected = list(json.loads(data.decode("utf-8", "surrogatepass"), object_pairs_hook=list))
        is_object = data.lstrip()[:1] == b"{"
    except ValueError:
        is_object = False
    if is_object and b"NaN" not in data and b"Infinity" not in data:
        with of_block(block):
            assert [name for name, _ in members(data)] == [pair[0] for pair in expected]
        return
    with of_block(block), pytest.raises(BrokenJsonError) as caught:
        members(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the end of the file"),
        ("{", "no name in double quotes"),
        ('{"a"}', "'}' in place of ':'"),
        ('{"a": 1,}', "no name in double quotes"),
        ('{"a": 1} x', "text behind the last value at character 9"),
        ('{"a": [1, 2}', "expecting ',' delimiter character 11"),
        ('{"a": tru', "expecting value character 6"),
        ('{"a": "x', "unterminated string"),
        ('{"a": -Infinity}', "-Infinity is no number of JSON's"),
        ('{"a": ' + "1" * 5000 + "}", "a whole number of more than 4,300 digits"),
        ('{"a": ' + "[" * 100_000, "values nested too deep from character 6"),
        ('{"a": "\t"}', "invalid control character"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, words: str, small_blocks: int) -> None:
    with pytest.raises(BrokenJsonError, match=words.replace("[", r"\[")):
        members(text.encode())


def test_bytes_that_are_no_utf8_are_named_with_their_place(small_blocks: int) -> None:
    data = '{"a": "界界'.encode() + "标".encode("gbk") + b'"}'
    with pytest.raises(BrokenJsonError, match="the byte 0xb1, which is no UTF-8, at character 9"):
        members(data)


def test_a_mark_of_byte_order_may_come_first(small_blocks: int) -> None:
    assert members(b'\xef\xbb\xbf {"a": 1}') == [("a", 1)]


def test_a_value_longer_than_allowed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_stream, "_BLOCK_BYTES", 16)
    monkeypatch.setattr(json_stream, "MAX_VALUE_CHARS", 1000)
    assert members(b'{"a": "' + b"x" * 900 + b'"}')[0][0] == "a"
    with pytest.raises(BrokenJsonError, match="more than 1,000 characters from character 6"):
        members(b'{"a": "' + b"x" * 5000 + b'"}')


READ = """
import re, sys
from netgpt.graphstore.json_stream import BrokenJsonError, JsonStream
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
before = peak()
num = 0
try:
    with open(sys.argv[1], "rb") as file:
        stream = JsonStream(file)
        for name in stream.members():
            num += stream.value() is not None
except BrokenJsonError as error:
    print(error, file=sys.stderr)
print(num, peak() - before)
"""


def read_apart(path: Path) -> tuple[int, int, str]:
    """How many members a process reads, the KiB that it takes for that, and its message."""
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    num, kib = map(int, done.stdout.split())
    return num, kib, done.stderr


def test_memory_follows_the_longest_record_and_no_depth(tmp_path: Path) -> None:
    many, deep = tmp_path / "many.json", tmp_path / "deep.json"
    one = json.dumps({"text": "界" * 3000, "n": list(range(1000))}, ensure_ascii=False)
    with many.open("w") as file:
        file.write("{" + ",".join(f'"{i}": {one}' for i in range(6000)) + "}")
    assert many.stat().st_size > 80e6
    num, kib, _ = read_apart(many)
    assert num == 6000 and kib < 20_000
    deep.write_text('{"a": 1, "b": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}")
    num, kib, said = read_apart(deep)
    assert num == 1 and kib < 20_000 and "nested too deep" in said


@given(value=VALUES)
def test_what_is_written_is_text_and_reads_back(value: Any) -> None:
    text = encoded(value)
    assert "\n" not in text and text.encode()
    assert repr(decoded(text)) == repr(json.loads(json.dumps(value)))


@pytest.mark.parametrize(
    "text", ["NaN", "1e999", "1" * 5000, "[" * 100_000 + "]" * 100_000, '{"a": }', "", "[1] 2"]
)
def test_a_sent_text_that_is_none_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BrokenJsonError) as caught:
        decoded(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("inf"), [float("nan")]])
def test_numbers_that_json_has_not_are_never_written(value: Any) -> None:
    with pytest.raises(BrokenJsonError, match="beyond float64"):
        encoded(value)


def test_random_cuts_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of records longer and shorter than a block, at every alignment."""
    drawn = random.Random(0)
    records = {str(i): {"t": '界a\\"' * drawn.randint(0, 60), "n": drawn.random()} for i in range(50)}
    data = json.dumps(records).encode()
    for size in (13, 100, 101, 1000):
        monkeypatch.setattr(json_stream, "_BLOCK_BYTES", size)
        assert dict(members(data)) == records
