"""Errors of the graph store. Each message is one line: what, where, found, expected, what to do."""

from __future__ import annotations


class StoreError(ValueError):
    """Base of every error that `graphstore` raises on purpose. Picklable: it holds its text alone."""


class RecordError(StoreError):
    """A record that the source's contract does not allow.

    The parts are kept apart so that a caller can count by field; the text is built from them.
    """

    def __init__(self, file: str, record: str | None, field: str | None, found: str, expected: str) -> None:
        super().__init__(file, record, field, found, expected)
        self.file, self.record, self.field = file, record, field
        self.found, self.expected = found, expected

    def __str__(self) -> str:
        place = self.file
        if self.record is not None:
            place += f": record {self.record!r}"
        if self.field is not None:
            place += f": field {self.field!r}"
        return f"{place}: found {self.found}, expected {self.expected}"


class SourceError(RecordError):
    """The file itself cannot be read as records (not JSON, cut off, empty). Never skipped."""


class FormatError(StoreError):
    """A directory that is not a sealed store of a version that this code reads."""


class UnknownNameError(StoreError, KeyError):
    """A node type, relation or split that the store does not have."""

    def __str__(self) -> str:  # KeyError would print the repr of the text
        return str(self.args[0])
