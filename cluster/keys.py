"""All keys of a configuration, read from the dataclasses: name, type, default, docstring.

    python -m netgpt.cluster.keys                 the tables
    python -m netgpt.cluster.keys FILE            puts them between the markers of a file: docs/running.md

The settings that all runs share, and those that the data sets, tasks and stages of the name tables bring.
What a key means is written once, under its field.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from netgpt.cluster.config import RunConfig, config_type, load_config
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
    value: Any
    """What it is where nothing says otherwise."""
    meaning: str
    """Its docstring in one line; empty where it has none."""
    only: str = ""
    """The guests of the tables that alone have it; empty: all."""

    @property
    def default(self) -> str:
        """Its value as a document says it."""
        if isinstance(self.value, bool):
            return f"`{str(self.value).lower()}`"
        if isinstance(self.value, Sequence) and not isinstance(self.value, str):
            return f"`[{', '.join(map(str, self.value))}]`"
        return "empty" if self.value == "" else f"`{self.value}`"

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
        keys.append(replace(key, only=only))
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


def described(of: str | None = None, recipe: str | None = None) -> list[dict[str, Any]]:
    """Keys with type, default and meaning; of a recipe its own, with their values.

    of: a key, a section, or a word of a key or its meaning. ClusterError where no key is meant.
    """
    config = None if recipe is None else load_config(recipe)
    keys = all_keys() if config is None else list(_keys(type(config), ""))
    wanted = (of or "").lower()
    near = [k for k in keys if k.name.lower() == wanted or f"{k.name.lower()}.".startswith(f"{wanted}.")]
    near = near or [k for k in keys if wanted in k.name.lower() or wanted in k.meaning.lower()]
    if not near:
        close = get_close_matches(wanted, [k.name for k in keys], n=1, cutoff=0.3)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ClusterError(f"config: found no key for {of!r}, expected one, a section or a word{hint}")
    made = []
    for key in near:
        one = {"key": key.name, "type": key.type, "default": key.value, "meaning": key.meaning}
        one |= {"only": key.only} if key.only else {}
        if config is not None and ANY not in key.name:
            one["value"] = attrgetter(key.name)(config)
        made.append(one)
    return made


def text_of(found: Sequence[Mapping[str, Any]]) -> str:
    """Keys for people: what each is, and below it what it means."""
    lines = []
    for one in found:
        value = one.get("value", one["default"])
        other = "" if value == one["default"] else f", default {json.dumps(one['default'])}"
        only = f", {one['only']} alone" if "only" in one else ""
        kind = one["type"].replace("`", "")
        lines.append(f"{one['key']} = {json.dumps(value, ensure_ascii=False)}   ({kind}{other}{only})")
        lines += textwrap.wrap(one["meaning"], 100, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


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
            value = one.default_factory() if one.default_factory is not MISSING else one.default
            yield Key(name, _type(hint), value, _docs(kind).get(one.name, ""))


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {_type(get_args(hint)[0])}"
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}.get(hint, str(hint))


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
