"""What a request brings: records in its body, as JSON or JSON lines, and the host that it asks."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from netgpt.graphstore.json_stream import decoded, is_text

RECORDS = "records"
"""Key of a JSON object that holds several records."""


class BadRequestError(ValueError):
    """A body that holds no records. `status`: of HTTP."""

    def __init__(self, said: str, status: int = 400) -> None:
        super().__init__(said)
        self.status = status


@dataclass(frozen=True)
class Asked:
    """One record as it was sent."""

    name: str
    """What messages call it: record 1, line 3, …"""
    record: Mapping[str, Any] | None
    error: str = ""
    """Why it is none."""


@dataclass(frozen=True)
class Body:
    asked: list[Asked]
    form: str
    """one: a single record; many: a list; lines: JSON lines. Answers have the form of what was asked."""


def read_body(data: bytes, most: int) -> Body:
    """The records of a body; a bad line or a value that is no object is a record with an error.

    most: records at most. BadRequestError for what is neither JSON nor lines of it, and for too many.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequestError(
            f"body: found bytes that are no UTF-8 at {error.start}, expected JSON"
        ) from None
    if not text.strip():
        raise BadRequestError("body: found nothing, expected a record as JSON, a list of them, or JSON lines")
    try:
        value = decoded(text)
    except ValueError as error:
        lines = [(i, line) for i, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if len(lines) < 2:
            raise BadRequestError(f"body: found no JSON ({error}), expected a record or a list") from None
        _require_few(len(lines), most)
        return Body([_of_line(i, line) for i, line in lines], "lines")
    if isinstance(value, dict) and set(value) == {RECORDS}:
        value = value[RECORDS]
        if not isinstance(value, list):
            raise BadRequestError(f"{RECORDS}: found {_kind(value)}, expected a list of records")
    if not isinstance(value, list):
        return Body([_asked("record", value)], "one")
    _require_few(len(value), most)
    return Body([_asked(f"record {i}", one) for i, one in enumerate(value, start=1)], "many")


def _require_few(num: int, most: int) -> None:
    if num > most:
        raise BadRequestError(f"body: found {num:,} records, expected at most {most:,}", 413)


def _of_line(number: int, line: str) -> Asked:
    name = f"line {number}"
    try:
        return _asked(name, decoded(line))
    except ValueError as error:
        return Asked(name, None, f"{name}: found no JSON ({error}), expected a record")


def _asked(name: str, value: Any) -> Asked:
    if isinstance(value, dict) and value:
        try:
            if is_text(value):
                return Asked(name, value)
            found, expected = "half of a character (\\ud800 to \\udfff)", "texts"
        except ValueError as error:
            found, expected = f"values {error}", "those of a record"
        return Asked(name, None, f"{name}: found {found}, expected {expected}")
    found = "an empty object" if value == {} else _kind(value)
    return Asked(name, None, f"{name}: found {found}, expected an object with the record's fields")


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "an object")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
