"""What a service reads and counts, without a service; `service_cases.py` has one of a whole run."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.serving.counts import Board, Counts, merged
from netgpt.cluster.serving.records import BadRequestError, read_body
from netgpt.cluster.serving.run import ServeOptions

some_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
rows = st.dictionaries(st.text(min_size=1), some_json, min_size=1, max_size=4)


@given(st.lists(rows, min_size=1, max_size=5))
def test_records_are_read_in_every_form(records: list[dict[str, object]]) -> None:
    whole = read_body(json.dumps(records).encode(), 5)
    named = read_body(json.dumps({"records": records}).encode(), 5)
    assert [one.record for one in whole.asked] == records == [one.record for one in named.asked]
    assert whole.form == named.form == "many" and not any(one.error for one in whole.asked)
    lines = read_body("\n".join(map(json.dumps, records)).encode(), 5)
    assert [one.record for one in lines.asked] == records
    assert lines.form == ("lines" if len(records) > 1 else "one")
    with pytest.raises(BadRequestError, match="expected at most") as caught:
        read_body(json.dumps([*records, *records, *records, *records, *records, {"a": 1}]).encode(), 5)
    assert caught.value.status == 413


@given(st.binary(max_size=60))
def test_any_bytes_are_records_or_one_line_of_refusal(data: bytes) -> None:
    try:
        body = read_body(data, 10)
    except BadRequestError as error:
        assert error.status in (400, 413) and "\n" not in str(error)
    else:
        assert all((one.record is None) == bool(one.error) for one in body.asked)


def test_lines_end_where_a_line_does() -> None:
    body = read_body('{"a": "x\u2028y\u0085z"}\r\n{"b": 1}\n'.encode(), 10)
    assert [one.record for one in body.asked] == [{"a": "x\u2028y\u0085z"}, {"b": 1}]


def test_half_characters_and_numbers_beyond_all_are_refused_by_record() -> None:
    body = read_body(b'[{"a": 1}, {"a": "\\ud800"}]', 10)
    assert [bool(one.error) for one in body.asked] == [False, True]
    assert "half of a character" in body.asked[1].error
    with pytest.raises(BadRequestError, match="1e999 is no number"):
        read_body(b'{"a": 1e999}', 10)


def test_a_bad_line_is_named_and_the_others_are_read() -> None:
    body = read_body(b'{"a": 1}\n\n{bad\n[2]\n{"a": NaN}\n{}\n{"b": 2}\n', 10)
    assert [one.record for one in body.asked] == [{"a": 1}, None, None, None, None, {"b": 2}]
    said = [one.error for one in body.asked if one.error]
    assert [one.split(":")[0] for one in said] == ["line 3", "line 4", "line 5", "line 6"]
    assert "found a list, expected an object" in said[1] and "NaN is no number" in said[2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "found nothing"),
        (b"{bad", "found no JSON"),
        (b"\xff\xfe", "no UTF-8 at 0"),
        (b'{"records": 3}', "records: found a number, expected a list"),
        (b"[" * 100_000, "nested too deeply|found no JSON"),
    ],
)
def test_what_holds_no_records_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        read_body(data, 10)


def test_counts_of_all_replicas_are_one_text() -> None:
    board, texts = Board(), []
    for name, num in (("a", 2), ("b", 5)):
        counts = Counts(name)
        counts.records.inc(num)
        counts.seconds.observe(0.2)
        counts.requests.labels(name, "200").inc()
        texts = board.put(name, counts.text())
    text = merged(texts)
    assert 'netgpt_records_total{replica="a"} 2.0' in text and 'netgpt_records_total{replica="b"} 5.0' in text
    assert text.count("# TYPE netgpt_records_total counter") == 1
    assert 'netgpt_request_seconds_bucket{le="0.25",replica="b"} 1.0' in text
    assert merged([]) == ""


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"port": 0}, "--port: found 0, expected 1 to 65535"),
        ({"replicas": 0}, "--replicas: found 0"),
        ({"seconds": 0}, "--seconds: found 0"),
        ({"host": "0.0.0.0", "token": ""}, "without a token, expected a loopback address"),
        ({"host": "127.example.com", "token": ""}, "without a token, expected a loopback address"),
    ],
)
def test_options_that_cannot_be_are_refused(given_: dict[str, object], words: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ClusterError, match=words):
        ServeOptions(run=tmp_path, **given_)  # type: ignore[arg-type]
