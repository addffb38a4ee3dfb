"""The examples for Kubernetes, Docker and Slurm say what this version understands."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from netgpt.cluster.cli import app
from netgpt.cluster.config import RunConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def rayjob() -> dict[str, Any]:
    found = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
    assert isinstance(found, dict)
    return found


def run_config(command: str) -> RunConfig:
    """The configuration of a `netgpt run` line, whose options must be ones that there are."""
    words = shlex.split(command)
    assert words[:2] == ["netgpt", "run"]
    options = CliRunner().invoke(app, ["run", "--help"]).output
    config, overrides = "demo", []
    rest = iter(words[2:])
    for word in rest:
        if word.startswith("--"):
            assert word in options
            value = next(rest)
            assert value.startswith("/") or word == "--config"  # a job runs in a folder of its own
            config = value if word == "--config" else config
        else:
            overrides.append(word)
    return load_config(config, overrides)


def quantity(text: str) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(Gi|Mi|)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * {"Gi": 2**30, "Mi": 2**20, "": 1}[unit]


def test_the_rayjob_runs_the_reference_configuration_with_room_for_it() -> None:
    job = rayjob()
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = run_config(spec["entrypoint"]).cluster
    groups = spec["rayClusterSpec"]["workerGroupSpecs"]
    gpus = cpus = 0.0
    for group in groups:
        for container in group["template"]["spec"]["containers"]:
            limits = container["resources"]["limits"]
            assert limits == container["resources"]["requests"]
            gpus += group["replicas"] * float(limits["nvidia.com/gpu"])
            cpus += group["replicas"] * float(limits["cpu"])
            assert quantity(limits["memory"]) > 100e9
    assert gpus == cluster.workers == 8 and cpus >= cluster.workers * cluster.threads
    assert spec["shutdownAfterJobFinishes"] is True and 0 < spec["backoffLimit"] <= 5


def test_the_rayjob_has_a_token_and_mounts_what_it_names() -> None:
    spec = rayjob()["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    images = set()
    for pod in pods:
        assert all(isinstance(value, str) for value in pod["rayStartParams"].values())
        template = pod["template"]["spec"]
        volumes = {volume["name"] for volume in template["volumes"]}
        for container in template["containers"]:
            images.add(container["image"])
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert set(mounts) <= volumes and mounts["volume"] == "/volume"
            assert "hostPath" not in str(template) and "privileged" not in str(template)
    assert len(images) == 1
    cache = run_config(spec["entrypoint"]).cluster.store_cache
    (worker,) = (pod["template"]["spec"] for pod in cluster["workerGroupSpecs"])
    assert any(cache.startswith(m["mountPath"]) for m in worker["containers"][0]["volumeMounts"])
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None and cluster["rayVersion"] == pinned[1]


def test_the_dockerfile_copies_what_there_is_and_installs_from_the_constraints() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    sources = [word for line in lines if line[0] == "COPY" for word in line[1:-1]]
    assert sources and all((ROOT / source).exists() for source in sources)
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(sources)
    python = next(line[1] for line in lines if line[0] == "FROM")
    version = re.fullmatch(r"python:3\.(\d+)(-slim)?", python)
    assert version is not None and int(version[1]) >= 11
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert installs and all("-c constraints.txt" in part for part in text.split("pip install")[1:])
    assert "RAY_AUTH_MODE=token" in text and lines[-2] == ["USER", "netgpt"]


def test_the_slurm_script_is_shell_and_calls_what_there_is() -> None:
    path = DEPLOY / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    usage = subprocess.run(
        [str(ROOT / "launch.sh"), "help"], capture_output=True, text=True, check=True
    ).stdout
    for command in set(re.findall(r"\./launch\.sh (\w+)", text)):
        assert re.search(rf"^  {command}\b", usage, re.MULTILINE) or command == "setup", command
    (line,) = re.findall(r"submit -- (.*)", text)
    config = run_config(line.replace('"$@"', ""))
    nodes, gpus = (int(re.search(rf"--{n}=(\d+)", text)[1]) for n in ("nodes", "gpus-per-node"))  # type: ignore[index]
    assert nodes * gpus == config.cluster.workers


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        ([], ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--durations", "25"]),
        (["tests/a.py", "-x"], ["tests/a.py", "-x"]),
        (
            ["--all"],
            ["-m", "", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--durations", "25"],
        ),
        (["--all", "tests/a.py"], ["-m", "", "tests/a.py"]),
    ],
)
def test_all_tests_are_asked_for_by_one_word(arguments: list[str], passed: list[str], tmp_path: Path) -> None:
    """By default the selection is pyproject's; an expression behind it, also an empty one, replaces it."""
    for name in ("launch.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "ruff", "mypy", "pip"):
        (programs / name).write_text("#!/bin/sh\nprintf '<%s>' " + name + ' "$@"; echo\n')
        (programs / name).chmod(0o755)
    made = "cat pyproject.toml constraints.txt | cksum > .venv/.installed"
    subprocess.run(["sh", "-c", made], check=True, cwd=tmp_path)
    (tmp_path / "any").write_text("#!/bin/sh\n")
    (tmp_path / "any").chmod(0o755)
    stand_ins = {**os.environ, "PYTHON": str(tmp_path / "any"), "CXX": "sh"}
    done = subprocess.run(
        [str(tmp_path / "launch.sh"), "test", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=stand_ins,
    )
    ran = [re.findall("<(.*?)>", line) for line in done.stdout.splitlines()]
    assert [line[0] for line in ran[-4:]] == ["ruff", "ruff", "mypy", "python"]
    assert ran[-1] == ["python", "-m", "pytest", *passed]
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "not slow and not all" in options["addopts"]
