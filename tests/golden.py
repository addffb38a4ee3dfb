"""Proof of value: digests of what whole runs leave, made before a change and again after it.

    python tests/golden.py make BEFORE.json [--command "python -m netgpt"] [--only NAME ...] [--scratch DIR]
    python tests/golden.py compare BEFORE.json AFTER.json

Bytes differ between CPU models: make both files on one machine. A change that is meant to keep all results
keeps every digest; what else changes is named by `compare`, one line each. Weights are digested tensor by
tensor, since their headers hold the digest of the store, and stores array by array.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "xs-video" / "sample.json"
QUICK = [
    *("build.encoder=hash:32", "build.time_dim=8", "build.video_dim=4", "sampler.fanout=5"),
    *("graph.hidden=8", "graph.epochs=8", "graph.patience=8", "graph.batch_size=32"),
    *("language.max_tokens=700", "language.token_budget=1400", "language.max_comments=2"),
    *("language.tiny.hidden=32", "language.tiny.heads=2", "language.tiny.vocab=600"),
    *("language.tiny.warmup_steps=2", "stage2.checkpoint_steps=3", "stage3.epochs=2", "lora.rank=2"),
]


@dataclass(frozen=True)
class Case:
    """One whole run, and what is asked of it afterwards."""

    config: str
    workers: int
    scale: float = 0.003
    """Of the synthetic records; the sample has its own."""
    settings: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


CASES = {
    "quick": Case("demo", 1, 0.0005, tuple(QUICK), ("predict", "append", "export", "lora")),
    "demo-1": Case("demo", 1, commands=("predict", "append", "export")),
    "demo-2": Case("demo", 2),
    "sample-1": Case("sample", 1),
    "sample-2": Case("sample", 2),
}


def tensors_digest(path: Path) -> dict[str, str]:
    from safetensors import safe_open

    digest = hashlib.sha256()
    with safe_open(str(path), framework="np") as file:
        for name in sorted(file.keys()):
            value = file.get_tensor(name)
            digest.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    return {path.name: digest.hexdigest()}


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Of every file of a folder that holds results, by its path in it."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name.startswith((".", "logs/", "features/")) or "checkpoint" in name:
            continue
        if "tensorboard/" in name or path.name.endswith(("report.html", "attempts.jsonl", ".lock")):
            continue
        if path.suffix == ".safetensors":
            yield name, tensors_digest(path)[path.name]
        elif "/c/" in name or path.name in ("metrics.jsonl", "predictions.parquet", "tokenizer.json"):
            yield name, file_digest(path)


class Maker:
    def __init__(self, command: list[str], scratch: Path) -> None:
        self.command, self.scratch = command, scratch

    def call(self, *words: object) -> None:
        line = [*self.command, *map(str, words)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{shlex.join(line)}: exit {done.returncode}\n{done.stderr[-3000:]}")

    def case(self, name: str) -> dict[str, str]:
        case, folder = CASES[name], self.scratch / name
        folder.mkdir()
        records, found = SAMPLE, {}
        if case.config == "demo":
            records = folder / "records.json"
            self.call("synth", "--json", records, "--scale", case.scale)
            found["records.json"] = file_digest(records)
        run = folder / "run"
        settings = (*case.settings, f"cluster.workers={case.workers}")
        arguments = ("--config", case.config, "--data", records, "--out", run, *settings)
        self.call("run", *arguments)
        for what in case.commands:
            if what == "lora":
                self.call("lora", *arguments)
                self.call("evaluate", run)
            elif what == "export":
                self.call("export", run, "--out", folder / "export")
            else:
                new = folder / "new.json"
                self.others(new)
                if what == "predict":
                    self.call("predict", run, "--data", new, "--out", folder / "ratings.jsonl")
                    found["ratings.jsonl"] = file_digest(folder / "ratings.jsonl")
                else:
                    self.call("append", run / "store", "--data", new, "--out", folder / "appended")
        for part in ("run", "export", "appended"):
            if (folder / part).exists():
                found |= {f"{part}/{key}": value for key, value in digests(folder / part)}
        return found

    def others(self, path: Path) -> None:
        """Records of other states: some of videos that the run knows, with other counters."""
        made = path.with_name("others.json")
        self.call("synth", "--json", made, "--scale", 0.0002, "--seed", 5)
        records = json.loads(made.read_text(encoding="utf-8"))
        history = next(key for key, value in records[next(iter(records))].items() if isinstance(value, list))
        new = {
            f"n{key}": {**record, history: [f"n{other}" for other in record[history]]}
            for key, record in records.items()
        }
        path.write_text(json.dumps(new, ensure_ascii=False), encoding="utf-8")


def make(out: Path, command: list[str], names: list[str], scratch: Path | None) -> None:
    found: dict[str, dict[str, str]] = json.loads(out.read_text()) if out.exists() else {}
    with tempfile.TemporaryDirectory(dir=scratch, prefix="golden-") as folder:
        maker = Maker(command, Path(folder))
        for name in names:
            start = time.monotonic()
            found[name] = maker.case(name)
            out.write_text(json.dumps(found, indent=1) + "\n")
            print(f"{name}: {len(found[name])} digests, {time.monotonic() - start:.0f} s", flush=True)


MOVED = {
    "run/embeddings/h/": "run/embeddings/vectors/h/",
    "run/embeddings/score/": "run/embeddings/vectors/score/",
}
"""Files that have another place since: the beginning of the old path, and of the new."""


def moved(path: str) -> str:
    for old, new in MOVED.items():
        if path.startswith(old):
            return new + path.removeprefix(old)
    return path


def compare(before: Path, after: Path) -> int:
    """Say what differs; the number of differences."""
    old, new = (
        {case: {moved(path): digest for path, digest in of_case.items()} for case, of_case in made.items()}
        for made in (json.loads(path.read_text()) for path in (before, after))
    )
    differences = 0
    for case in sorted(set(old) & set(new)):
        a, b = old[case], new[case]
        changed = sorted(key for key in set(a) | set(b) if a.get(key) != b.get(key))
        print(f"{case}: {len(set(a) & set(b)) - sum(key in a and key in b for key in changed)} equal")
        for key in changed:
            how = "differs" if key in a and key in b else "is new" if key in b else "is gone"
            print(f"  {key}: {how}")
        differences += len(changed)
    return differences


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    making = commands.add_parser("make")
    making.add_argument("out", type=Path)
    making.add_argument("--command", default=f"{sys.executable} -m netgpt", help="what runs netgpt")
    making.add_argument("--only", nargs="*", choices=list(CASES), default=list(CASES))
    making.add_argument("--scratch", type=Path)
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.what == "make":
        make(given.out, shlex.split(given.command), given.only, given.scratch)
    else:
        sys.exit(1 if compare(given.before, given.after) else 0)


if __name__ == "__main__":
    main()
