"""What prompts show of a node: the fields of a document, lists of neighbours among them, as JSON or in
sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from string import Formatter
from typing import Any

from netgpt.graphstore.relation_types import EdgeType

FIRST = " | "
"""Between what a phrase usually says and what it says where it is the first."""


@dataclass(frozen=True)
class Items:
    """A field of a document that is a JSON object of items. An item counts where its own time is before the
    end of the day in another field of the document; items are drawn, and dropped first."""

    time: str
    """Key of an item's time."""
    until: str
    """The field that has the day."""
    time_form: str = "%Y-%m-%d %H:%M:%S"
    until_form: str = "%Y-%m-%d"


@dataclass(frozen=True)
class Newest:
    """A field of a document that is a list: what the newest heads of a relation have, the newest first.

    Where a node has a time, those heads count that are earlier, and whose edges are; without times all do."""

    edge_type: EdgeType
    """It ends in the document's type."""
    num: int
    """At most so many."""
    fields: tuple[Field, ...]
    """Columns of the heads; of heads that are one for each row of another type, that type's. Of one the list
    has the values alone."""
    oldest_first: bool = False
    """The order that they are shown in. In a document that is too long the oldest go first in either."""
    apart: str = ""
    """Category of the type, where heads are of the tail's: of heads with one value the newest counts, and
    none with the value that the tail has."""
    known_s: int = 0
    """Heads count that are so many seconds earlier: what is said of them was known by then."""
    behind: str = ""
    """In sentences: the field whose sentences come behind those of all heads."""


@dataclass(frozen=True)
class Field:
    """A key of a document."""

    name: str
    free: bool = False
    """A text, an id or a time: what a small training set can be learnt by heart from."""
    cut: int = 0
    """When its text is shortened in a document that is too long: 1 first, then 2, …; 0 never."""
    items: Items | None = None
    is_list: bool = False
    """Whether its column has JSON lists."""
    newest: Newest | None = None
    """Of what it is a list, where it is no column."""
    phrase: str = ""
    """In sentences: what is said of it, with {} for its value and {NAME} for that of another field beside it.
    One that begins with a capital begins a sentence; others go on with the one before, behind a comma. Behind
    " | " may be what is said where it is the first of a head or of the document. Empty: nothing is."""

    @property
    def phrases(self) -> tuple[str, str]:
        """What is usually said, and what is said where it is the first."""
        usual, _, first = self.phrase.partition(FIRST)
        return usual, first or usual

    @property
    def named(self) -> tuple[str, ...]:
        """Fields that its phrase names. ValueError for a phrase that is no form."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.phrase) if name)


@dataclass(frozen=True)
class Document:
    """What a prompt shows of a node, its fields in order: a JSON object, or sentences, where a field has a
    phrase."""

    node_type: str
    column: str
    """The text column that has it; empty: it is made of the columns that the fields are named for."""
    fields: tuple[Field, ...]
    closing: str = ""
    """In sentences: the last one."""

    @property
    def is_prose(self) -> bool:
        inner = (one for field in self.fields if field.newest is not None for one in field.newest.fields)
        return any(field.phrase for field in (*self.fields, *inner))

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what stores of before do not have, to the byte."""
        raw = asdict(self)
        raw["fields"] = [_field_dict(field) for field in raw["fields"]]
        return {key: value for key, value in raw.items() if key != "closing" or value}

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Document:
        """ValueError, KeyError or TypeError for what is none."""
        fields = tuple(_field(one) for one in raw["fields"])
        return Document(raw["node_type"], raw["column"], fields, raw.get("closing", ""))

    def phrase_problems(self) -> Iterator[str]:
        """What does not fit together in its sentences, one line each."""
        for fields in (self.fields, *(f.newest.fields for f in self.fields if f.newest is not None)):
            names = {field.name for field in fields}
            for field in fields:
                try:
                    unknown = [name for name in field.named if name not in names]
                    _try(field)
                except (ValueError, IndexError, KeyError) as error:
                    yield f"{field.name}: the phrase {field.phrase!r} ({error})"
                    continue
                if unknown:
                    what = f"{field.name}: the phrase {field.phrase!r}"
                    yield f"{what}, which names {unknown[0]}: no field beside it"
        for field in self.fields:
            newest = field.newest
            if newest and newest.behind and newest.behind not in {one.name for one in newest.fields}:
                yield f"{field.name}: {newest.behind!r} behind all heads, expected one of its fields"


def _try(field: Field) -> None:
    """ValueError, IndexError or KeyError for a phrase that can take neither a number nor a text."""
    beside = dict.fromkeys(field.named, "a text")
    for phrase in field.phrases:
        try:
            phrase.format(1.0, **beside)
        except ValueError:
            phrase.format("a text", **beside)


_ADDED = ("is_list", "newest", "phrase", "oldest_first", "apart", "known_s", "behind")


def _field(raw: Mapping[str, Any]) -> Field:
    items = raw["items"]
    items = None if items is None else Items(**items)
    newest = raw.get("newest")
    if newest is not None:
        edge_type = (newest["edge_type"][0], newest["edge_type"][1], newest["edge_type"][2])
        fields = tuple(_field(one) for one in newest["fields"])
        newest = Newest(**{**newest, "edge_type": edge_type, "fields": fields})
    return Field(**{**raw, "items": items, "newest": newest})


def _field_dict(field: dict[str, Any]) -> dict[str, Any]:
    made = _without_added(field)
    if newest := made.get("newest"):
        made["newest"] = _without_added(newest) | {"fields": [_field_dict(one) for one in newest["fields"]]}
    return made


def _without_added(raw: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that stores of before do not have, where they say nothing."""
    return {key: value for key, value in raw.items() if key not in _ADDED or value}
