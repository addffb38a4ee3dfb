"""What each room of the tree may know: whose words are in it, and what it may import."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("graphstore", "sampler", "trainers", "cluster", "netgpt")
WORDS = re.compile(r"xs.?video|douyin|age.?zero|2024-12-20|平台|has_same_topic", re.IGNORECASE)
"""Of the reference data set."""
OWN = ("graphstore/datasets/xsvideo/", "graphstore/datasets/names.py", "cluster/configs/")
"""Where they may be: its room, the table of data sets, the recipes."""
BELOW = {
    "graphstore": set[str](),
    "sampler": {"graphstore"},
    "trainers": {"graphstore", "sampler"},
    "cluster": {"graphstore", "sampler", "trainers"},
    "netgpt": {"graphstore", "sampler", "trainers", "cluster"},
}
"""What a room may import besides itself."""
COMPAT = {"ray": "cluster/workers/compat.py", "deepspeed": "trainers/compat.py"}
PRIVATE = {
    *("_create_default_callbacks", "worker_failures", "controller_failure", "_node_ip_address"),
    *("__compatible_ops__", "bit16_groups", "single_partition_of_fp32_groups"),
    "_lazy_init_hp_params_optimizer_state",
}
"""Names of Ray and DeepSpeed that are no promise of theirs, also where they look like public ones."""


def files(*endings: str) -> list[Path]:
    """Files of the packages. The links in `netgpt` are the other rooms."""
    found = [p for room in ROOMS if room != "netgpt" for p in (ROOT / room).rglob("*") if p.suffix in endings]
    return sorted([*found, *(p for p in (ROOT / "netgpt").iterdir() if p.suffix in endings)])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def parsed() -> tuple[tuple[str, ast.Module], ...]:
    return tuple((name_of(path), ast.parse(path.read_text(encoding="utf-8"))) for path in files(".py"))


def imported(tree: ast.Module) -> set[str]:
    """Modules that a module imports anywhere in it, also for types alone; `from a import b` is a.b too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole module"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_reference_data_set_is_known_in_its_own_room_alone() -> None:
    hits, own = [], 0
    for path in files(".py", ".yaml", ".html", ".css"):
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [
            f"{name_of(path)}:{i}: {line.strip()}" for i, line in enumerate(lines, 1) if WORDS.search(line)
        ]
        if name_of(path).startswith(OWN):
            own += len(found)
        else:
            hits += found
            assert not WORDS.search(name_of(path)), path
    assert hits == []
    assert own > 30  # the expression finds what it is made for


def test_imports_go_one_way() -> None:
    wrong = []
    for name, tree in parsed():
        room = name.split("/")[0]
        for module in imported(tree):
            parts = module.split(".")
            assert parts[0] not in BELOW or parts[0] == "netgpt", f"{name}: {module}: not by netgpt"
            if parts[0] == "netgpt" and len(parts) > 1 and parts[1] in BELOW and parts[1] != room:
                wrong += [f"{name}: {module}"] if parts[1] not in BELOW[room] else []
    assert wrong == []


def test_a_data_set_is_imported_by_its_own_room_alone() -> None:
    """All others find it by its name in the table. `described` and `delimited` are for all that read such
    files."""
    wrong = [
        f"{name}: {module}"
        for name, tree in parsed()
        for module in imported(tree)
        if (
            found := re.match(
                r"netgpt\.graphstore\.datasets\.(?!(?:names|described|delimited)\b)(\w+)", module
            )
        )
        and not name.startswith(f"graphstore/datasets/{found[1]}/")
    ]
    assert wrong == []


def test_ray_is_imported_in_cluster_alone() -> None:
    users = {name for name, tree in parsed() for module in imported(tree) if module.split(".")[0] == "ray"}
    assert users and {name.split("/")[0] for name in users} == {"cluster"}


def privates(tree: ast.Module, package: str) -> list[str]:
    """What of a package a module uses that begins with an underscore, or is known to be private."""
    bound, found = {package}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            bound |= {a.asname or a.name.split(".")[0] for a in node.names if a.name.split(".")[0] == package}
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == package:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            bound |= {alias.asname or alias.name for alias in node.names}
        else:
            continue
        found += [n for n in names if n.split(".")[0] == package and re.search(r"\._", n)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            inner: ast.AST = node
            while isinstance(inner, ast.Attribute | ast.Call):
                inner = inner.value if isinstance(inner, ast.Attribute) else inner.func
            of_package = isinstance(inner, ast.Name) and inner.id in bound
            if node.attr in PRIVATE or (of_package and node.attr.startswith("_")):
                found.append(node.attr)
        elif isinstance(node, ast.keyword | ast.FunctionDef):
            name = node.arg if isinstance(node, ast.keyword) else node.name
            found += [name] if name in PRIVATE - {"worker_failures"} else []
        elif isinstance(node, ast.Constant) and node.value in PRIVATE:
            found.append(str(node.value))
    return found


@pytest.mark.parametrize("package", COMPAT)
def test_what_is_private_of_others_is_in_one_module(package: str) -> None:
    used = {name: found for name, tree in parsed() if (found := privates(tree, package))}
    assert COMPAT[package] in used and set(used) <= set(COMPAT.values())


def test_private_names_are_seen() -> None:
    """The test above finds what it is made for."""
    for text, found in (
        ("import ray\nray.init(_node_ip_address='x')", ["_node_ip_address"]),
        ("from ray._private.worker import _global_node", ["ray._private.worker._global_node"]),
        ("import ray\nray.util._x()", ["_x"]),
        ("from ray.train.torch import TorchTrainer as T\nT(1)._fit()", ["_fit"]),
        ("x = getattr(error, 'controller_failure')", ["controller_failure"]),
        ("import ray\nray.init(); self._x", []),
    ):
        assert privates(ast.parse(text), "ray") == found, text
