"""The rooms of the store import one way: no circle, and no general room imports a guest's."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from netgpt import graphstore

ROOT = Path(graphstore.__file__).parent
PREFIX = "netgpt.graphstore"


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PREFIX, *(part for part in parts if part != "__init__")])


MODULES = {module_of(path): path for path in ROOT.rglob("*.py")}


def imports(path: Path) -> set[str]:
    """Modules of the store that a module needs to be imported: not those of types alone, or of a function."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found.add(whole if whole in MODULES else node.module)
    return {name for name in found if name.startswith(PREFIX)}


def test_no_room_needs_itself() -> None:
    needs = {name: imports(path) - {name} for name, path in MODULES.items()}
    TopologicalSorter(needs).prepare()  # CycleError names the circle


def test_only_guests_and_names_know_guests() -> None:
    guests = f"{PREFIX}.datasets."
    for_all = {f"{guests}names", f"{guests}described", f"{guests}delimited"}
    for module, path in MODULES.items():
        known = {name for name in imports(path) if name.startswith(guests)} - for_all
        if not module.startswith(guests):
            assert not known, module
        else:  # and no guest knows another
            own = ".".join(module.split(".")[:4])
            assert all(name.startswith(own) for name in known), module
