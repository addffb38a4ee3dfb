"""All keys of a configuration as Markdown tables, read from the dataclasses: name, type, default, docstring.

    python -m netgpt.cluster.keys                 the tables
    python -m netgpt.cluster.keys FILE            puts them between the markers of a file: docs/running.md

The settings that all runs share, and those that the data sets, tasks and stages of the name tables bring.
What a key means is written once, under its field.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from netgpt.cluster.config import RunConfig, config_type
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore.datasets.names import DATASETS
from netgpt.graphstore.files import atomic_file
from netgpt.trainers.config import AblationConfig
from netgpt.trainers.stages.names import BASELINES, OTHERS, STAGES
from netgpt.trainers.tasks.names import TASKS

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"
"""Markers that the tables stand between."""
TOP = "run"
"""Title of the keys that are in no section."""
ANY = "NAME"
"""Stands for a name that the recipe chooses."""


@dataclass(frozen=True)
class Key:
    """One key of a configuration."""

    name: str
    """Whole, with dots: graph.epochs."""
    type: str
    default: str
    meaning: str
    """Its docstring in one line; empty where it has none."""
    only: str = ""
    """The guests of the tables that alone have it; empty: all."""

    @property
    def section(self) -> str:
        return self.name.split(".")[0] if "." in self.name else TOP

    def row(self) -> str:
        meaning = f"{self.meaning} ({self.only} alone)" if self.only else self.meaning
        cells = (f"`{self.name}`", self.type, self.default, meaning)
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def all_keys() -> list[Key]:
    """Keys of all configurations that the name tables make, in the order of their sections."""
    stages = (*STAGES, *OTHERS, *BASELINES)
    guests = [("data set", name, config_type(name, next(iter(TASKS)), stages)) for name in DATASETS]
    guests += [("task", name, config_type(next(iter(DATASETS)), name, stages)) for name in TASKS]
    first: dict[str, Key] = {}
    owners: dict[str, dict[str, list[str]]] = {}
    for kind, guest, config in guests:
        for key in _keys(config, ""):
            other = first.setdefault(key.name, key)
            name = key.name
            if (other.default, other.meaning) != (key.default, key.meaning):
                name = f"{key.name} {guest}"  # a row of its own for a guest that means another thing by it
                first[name] = key
            owners.setdefault(name, {}).setdefault(kind, []).append(guest)
    totals = {"data set": len(DATASETS), "task": len(TASKS)}
    keys = []
    for name, key in first.items():
        only = ""
        for kind, section in (("data set", "build"), ("task", "task")):
            guests_of = owners[name].get(kind, [])
            if key.section == section and 0 < len(guests_of) < totals[kind]:
                only = ", ".join(guests_of)
        keys.append(Key(key.name, key.type, key.default, key.meaning, only))
    order = list(dict.fromkeys(key.section for key in keys))
    return sorted(keys, key=lambda key: order.index(key.section))  # stable: fields stay in their order


def render() -> str:
    """The tables, a heading a section."""
    keys, parts = all_keys(), []
    for section in dict.fromkeys(key.section for key in keys):
        rows = [key.row() for key in keys if key.section == section]
        heading = "Of the run as a whole" if section == TOP else f"`{section}`"
        about = _about(section)
        parts.append(
            "\n".join(
                [
                    f"### {heading}\n",
                    *([f"{about}\n"] if about else []),
                    "| key | type | default | meaning |",
                    "| --- | --- | --- | --- |",
                    *rows,
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def placed(text: str) -> str:
    """A document with the tables between its markers. ClusterError where it has none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ClusterError(f"keys: found no {BEGIN} … {END}, expected both markers")
    return f"{before}{BEGIN}\n\n{render()}\n{END}{after}"


def _keys(kind: type, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(kind)
    for one in fields(kind):
        hint, name = hints[one.name], prefix + one.name
        if is_dataclass(hint):
            assert isinstance(hint, type)
            yield from _keys(hint, f"{name}.")
        elif hint == dict[str, AblationConfig]:
            yield from _keys(AblationConfig, f"{name}.{ANY}.")
        else:
            yield Key(name, _type(hint), _default(one), _docs(kind).get(one.name, ""))


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {_type(get_args(hint)[0])}"
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(hint, str(hint))


def _default(one: Field[Any]) -> str:
    value = one.default_factory() if one.default_factory is not MISSING else one.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"`[{', '.join(map(str, value))}]`"
    return "empty" if value == "" else f"`{value}`"


@cache
def _docs(kind: type) -> dict[str, str]:
    """Docstrings of a class's fields, its bases' too, in one line each."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        tree = _tree(base)
        for before, after in zip(tree.body, tree.body[1:], strict=False) if tree else ():
            if (
                isinstance(before, ast.AnnAssign)
                and isinstance(before.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[before.target.id] = " ".join(after.value.value.split())
    return docs


def _tree(kind: type) -> ast.ClassDef | None:
    """A class as it is written; None for one that is composed, or of no source."""
    module = sys.modules.get(kind.__module__)
    if getattr(module, kind.__name__, None) is not kind:
        return None
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError):
        return None
    return tree if isinstance(tree, ast.ClassDef) else None


def _about(section: str) -> str:
    """The first line of what a section's class says of itself."""
    kind = get_type_hints(
        config_type(next(iter(DATASETS)), next(iter(TASKS)), (*STAGES, *OTHERS, *BASELINES))
    )
    described = RunConfig if section == TOP else kind[section]
    if described == dict[str, AblationConfig]:
        described = AblationConfig
    tree = _tree(described)
    text = ast.get_docstring(tree) if tree else None
    return " ".join(text.split("\n\n")[0].split()) if text else ""


def main() -> None:
    if len(sys.argv) < 2:
        print(render(), end="")
        return
    path = Path(sys.argv[1])
    text = placed(path.read_text(encoding="utf-8"))
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
