"""How a record's fields are written in a prompt: as JSON, or in sentences.

A piece is what one field says; pieces are tokenised each for itself, and joined as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Protocol

from netgpt.graphstore.document_types import Document, Field

_ENDED = re.compile(r"[.:!?。]$")


class Form(Protocol):
    """Texts around and between pieces, and the pieces."""

    opening: str
    between: str
    closing: str

    def pieces(self, record: dict[str, Any]) -> list[str]:
        """One for each key of the record, in its order."""
        ...

    def to_json(self) -> Any:
        """What a token cache depends on; nothing of the form that stores of before have."""
        ...


def form_of(document: Document) -> Form:
    return ProseForm(document) if document.is_prose else JsonForm()


class JsonForm:
    opening, between, closing = "{", ",", "}"

    def pieces(self, record: dict[str, Any]) -> list[str]:
        return [
            f" {json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
            for name, value in record.items()
        ]

    def to_json(self) -> Any:
        return None


class ProseForm:
    """Sentences of clauses. A clause whose value, or one that it names, is missing is left out."""

    opening = between = ""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._fields = {field.name: field for field in document.fields}
        self.closing = f" {document.closing}" if document.closing else ""

    def to_json(self) -> Any:
        return self._document.to_dict()

    def pieces(self, record: dict[str, Any]) -> list[str]:
        said = [self._clauses(self._fields[name], value, record) for name, value in record.items()]
        made, before = [], ""
        for i, clauses in enumerate(said):
            text, before = _joined(clauses, before)
            ends = next((_begins(later[0]) for later in said[i + 1 :] if later), True)
            if clauses and ends and not _ENDED.search(text):
                text, before = f"{text}.", f"{text}."
            made.append(text)
        return made

    def _clauses(self, field: Field, value: Any, record: dict[str, Any]) -> list[str]:
        newest = field.newest
        if newest is None:
            return _clause(field, value, record)
        fields = [one for one in newest.fields if one.name != newest.behind]
        behind = [one for one in newest.fields if one.name == newest.behind]
        if len(newest.fields) == 1:  # the values alone
            return [c for one in value for c in _clause(newest.fields[0], one, {newest.fields[0].name: one})]
        return [clause for group in (fields, behind) for head in value for clause in _of_head(group, head)]


def _clause(field: Field, value: Any, beside: dict[str, Any], *, is_first: bool = False) -> list[str]:
    """What is said of a value, or nothing. is_first: it begins what is said of a head."""
    if not field.phrase or value in (None, "") or any(beside.get(name) is None for name in field.named):
        return []
    return [field.phrases[is_first].format(value, **{name: beside[name] for name in field.named})]


def _of_head(fields: Sequence[Field], head: dict[str, Any]) -> list[str]:
    """Clauses of one head, of which the first begins a sentence."""
    clauses: list[str] = []
    for field in fields:
        clauses += _clause(field, head.get(field.name), head, is_first=not clauses)
    return [clauses[0][:1].upper() + clauses[0][1:], *clauses[1:]] if clauses else []


def _begins(clause: str) -> bool:
    return clause[:1].isupper()


def _joined(clauses: Sequence[str], before: str) -> tuple[str, str]:
    """Clauses behind what was said before; and the text so far, of which the end alone counts."""
    text = ""
    for clause in clauses:
        so_far = text or before
        if not so_far:
            text = f" {clause[:1].upper()}{clause[1:]}"
        elif _begins(clause) or _ENDED.search(so_far):
            text += f"{'' if _ENDED.search(so_far) else '.'} {clause[:1].upper()}{clause[1:]}"
        else:
            text += f", {clause}"
    return text, text or before
