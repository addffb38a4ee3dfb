"""The smallest guest keeps the contract of data sets."""

from __future__ import annotations

from pathlib import Path

from tests.contracts.dataset import DatasetTests
from tests.toys.dataset import Config, Toy


class TestToy(DatasetTests):
    dataset, config, suffix = Toy(), Config(encoder="hash:16"), ".jsonl"

    def parts(self, source: Path, folder: Path) -> tuple[Path, Path]:
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        for name, part in (("first", lines[:50]), ("second", lines[50:])):
            (folder / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
        return folder / "first.jsonl", folder / "second.jsonl"
