"""A toy data set: things of a shop, their makers, and a grade from 0 to 4 that the words of a title tell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from netgpt.graphstore.dataset import Block, BuildConfig, Dataset, ReadReport, Source
from netgpt.graphstore.document_types import Document, Field
from netgpt.graphstore.errors import RecordError, StoreError
from netgpt.graphstore.features import DAY_S
from netgpt.graphstore.files import atomic_file, file_digest, value_digest
from netgpt.graphstore.schema import Column, NodeType, RelationType, Schema, Split

FIRST_DAY, DAYS, TRAIN_DAYS, AT_ONCE = 1_700_006_400, 40, 30, 16
WORDS = ("broken", "plain", "decent", "fine", "splendid")
KEYS = ("id", "title", "maker", "price", "made", "grade")
THINGS = ("chair", "lamp", "table", "bowl", "clock", "shelf")

SCHEMA = Schema(
    target="item",
    node_types=(
        NodeType(
            name="item",
            encoding="text",
            inputs=("title",),
            columns=(
                Column("id", "id"),
                Column("card", "text"),
                Column("grade", "number", dtype="int8", unknown=-1, low=0, high=4),
                Column("price", "number"),
                Column("made", "time"),
                Column("maker", "category"),
            ),
            time="made",
        ),
        NodeType(name="maker", encoding="text", origin="values", of="item", column="maker"),
    ),
    relations=(
        RelationType(edge_type=("maker", "makes", "item"), column="maker"),
        RelationType(edge_type=("item", "has_same_maker_as", "item"), group_by="maker", strict=True),
    ),
    documents=(
        Document(
            "item", "card", (Field("title", free=True, cut=1), Field("maker", free=True), Field("price"))
        ),
    ),
    split=Split("made", FIRST_DAY + TRAIN_DAYS * DAY_S, "day 30"),
)


@dataclass(frozen=True, kw_only=True)
class Config(BuildConfig):
    dataset: ClassVar[str] = "tests.toys.dataset:Toy"


def made_things(scale: float, seed: int) -> list[dict[str, Any]]:
    """max(80, 1000 × scale) things, in the order of their days; one grade in ten is not known."""
    rng = np.random.default_rng(seed)
    num = max(80, round(1000 * scale))
    grades, days = rng.integers(0, 5, num).tolist(), np.sort(rng.integers(0, DAYS, num)).tolist()
    return [
        {
            "id": f"t{i}",
            "title": f"{WORDS[grade]} {THINGS[int(rng.integers(len(THINGS)))]}",
            "maker": f"maker {int(rng.integers(7))}",
            "price": round(float(10 * grade + rng.random()), 2),
            "made": FIRST_DAY + day * DAY_S,
            "grade": -1 if rng.random() < 0.1 else grade,
        }
        for i, (grade, day) in enumerate(zip(grades, days, strict=True))
    ]


class Things(Source):
    schema = SCHEMA

    def __init__(
        self,
        things: Callable[[], Iterator[dict[str, Any]]],
        file: str,
        report: ReadReport,
        digest: Callable[[], str],
    ) -> None:
        self._things, self.file, self.report, self.digest = things, file, report, digest  # type: ignore[method-assign]

    def blocks(self) -> Iterator[Block]:
        self.report.clear()
        things = list(self._things())
        for first in range(0, len(things), AT_ONCE):
            rows = things[first : first + AT_ONCE]
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            shown = [{key: row[key] for key in ("title", "maker", "price")} for row in rows]
            yield Block("item", {**columns, "card": [json.dumps(one) for one in shown]})


class Toy(Dataset):
    name, title, Config = "toy", "Toy", Config

    def reads(self, source: Path) -> bool:
        return source.suffix == ".jsonl"

    def open(
        self,
        source: Path,
        config: BuildConfig | None = None,
        *,
        report: ReadReport | None = None,
        require_labels: bool = True,
        known_ids: frozenset[str] = frozenset(),
        check_history: bool = True,
    ) -> Source:
        report, on_error = report if report is not None else ReadReport(), self.configured(config).on_error

        def things() -> Iterator[dict[str, Any]]:
            for number, line in enumerate(source.read_text(encoding="utf-8").splitlines()):
                try:
                    thing = {} if require_labels else {"grade": -1}
                    thing |= json.loads(line)
                    thing = {key: thing[key] for key in KEYS}
                    if not -1 <= thing["grade"] <= 4:
                        raise RecordError(str(source), thing["id"], "grade", str(thing["grade"]), "-1 to 4")
                except (ValueError, KeyError) as error:
                    problem = error if isinstance(error, RecordError) else None
                    problem = problem or RecordError(str(source), str(number), None, repr(error), "a thing")
                    if on_error == "fail":
                        raise problem from None
                    report.skip(problem)
                    continue
                report.keep()
                yield thing

        return Things(things, str(source), report, lambda: file_digest(source))

    def synthetic(self, scale: float, seed: int, config: BuildConfig | None = None) -> Source:
        digest = value_digest(["toy", scale, seed])
        return Things(lambda: iter(made_things(scale, seed)), "toy", ReadReport(), lambda: digest)

    def write_synthetic(self, path: Path, scale: float, seed: int) -> int:
        if scale <= 0:
            raise StoreError(f"scale: found {scale}, expected a number above 0")
        things = made_things(scale, seed)
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(thing) + "\n" for thing in things), encoding="utf-8")
        return len(things)
