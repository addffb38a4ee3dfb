"""The nearest by inner product: exact search beside numpy, and faiss and usearch in a Python of their own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from netgpt.cluster.bench.measure import machine, measure
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore.nearest.search import Bank, Search

_PEERS = """
import json, sys, time
import numpy as np
folder, k, threads, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
bank, asked = np.load(folder + "/bank.npy"), np.load(folder + "/asked.npy")
if name == "faiss":
    import faiss
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank)
    search = lambda: index.search(asked, k)[1]
else:
    from usearch.index import search as exact
    search = lambda: exact(bank, asked, k, "ip", exact=True, threads=threads).keys
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    heads = search()
    print(json.dumps(time.perf_counter() - start), flush=True)
np.save(folder + "/" + name + ".npy", heads.astype(np.int64))
"""
PEERS = ("faiss", "usearch")
_EARLIER = """
import json, sys, time
import numpy as np
from netgpt.graphstore.nearest.search import Bank, Search
num, width, k, threads, folder = *map(int, sys.argv[1:5]), sys.argv[5]
rng = np.random.default_rng(0)
vectors = np.memmap(folder + "/vectors", np.float32, "w+", shape=(num, width))
for first in range(0, num, 4096):
    x = rng.normal(size=(min(4096, num - first), width)).astype(np.float32)
    vectors[first:first + len(x)] = x / np.linalg.norm(x, axis=1, keepdims=True)
vectors.flush()
del vectors
vectors = np.memmap(folder + "/vectors", np.float32, "r", shape=(num, width))
nodes = np.arange(num)
bank = Bank(vectors, nodes, np.arange(num + 1), nodes, nodes, True, np.full(num, -1))
start = time.perf_counter()
found = Search(bank, nodes, nodes, k).all(threads)
seconds = time.perf_counter() - start
assert (found.heads[k:] < nodes[k:, None]).all()
with open("/proc/self/status", encoding="ascii") as file:
    own = int(next(line.split()[1] for line in file if line.startswith("RssAnon"))) * 1024
with open(folder + "/said.json", "w") as file:
    json.dump({"search_s": seconds, "own_bytes": own, "gflops": num * num * width / seconds / 1e9}, file)
"""


@dataclass(frozen=True, kw_only=True)
class SimilarBench:
    tails: int = 1974
    bank: int = 15_790
    width: int = 1024
    k: int = 10
    threads: int = 2
    rounds: int = 5
    peers: str = ""
    """A Python that has faiss or usearch."""


def bench_search(config: SimilarBench, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """The k nearest of random vectors of length 1: seconds of each, round by round, and the share of heads
    that each has in common with float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(config.bank + config.tails, config.width)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    bank, asked = x[: config.bank], x[config.bank :]
    with TemporaryDirectory(dir=scratch) as folder:
        np.save(f"{folder}/bank.npy", bank)
        np.save(f"{folder}/asked.npy", asked)
        peers = {name: _peer(config, folder, name) for name in PEERS if config.peers}
        errors = {name: one for name, one in peers.items() if isinstance(one, str)}
        running = {name: one for name, one in peers.items() if not isinstance(one, str)}
        seconds: dict[str, list[float]] = {name: [] for name in ("ours", "numpy", "product", *running)}
        heads: dict[str, np.ndarray] = {}
        for i in range(config.rounds + 1):  # the first warms
            made = {
                "ours": _timed(lambda: _ours(x, config)),
                "numpy": _timed(lambda: _numpy(bank, asked, config.k)),
                "product": _timed(lambda: _product(bank, asked)),
            }
            for name, (took, found) in made.items():
                heads[name] = found
                seconds[name] += [took] if i else []
            for name, process in running.items():
                took = _asked(process)
                seconds[name] += [took] if i else []
        for name, process in running.items():
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
            heads[name] = np.load(f"{folder}/{name}.npy")
        scores = asked.astype(np.float64) @ bank.astype(np.float64).T
        true = np.argsort(-scores, axis=1, kind="stable")[:, : config.k]
    result: dict[str, Any] = {
        "case": "search",
        **{name: getattr(config, name) for name in ("tails", "bank", "width", "k", "threads", "rounds")},
    }
    for name, times in seconds.items():
        result[f"{name}_s"] = median(times)
        if name not in ("ours", "product"):
            result[f"{name}_times_slower"] = median(
                other / own for other, own in zip(times, seconds["ours"], strict=True)
            )
        if name != "product":
            result[f"{name}_recall"] = recall(heads[name], true)
    yield result | {f"{name}_error": error for name, error in errors.items()} | machine()


def recall(heads: np.ndarray, true: np.ndarray) -> float:
    """The share of the true heads [Q, k] that are among those found."""
    return float((true[:, :, None] == heads[:, None, :]).any(axis=2).mean())


def _timed(run: Any) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def _ours(x: np.ndarray, config: SimilarBench) -> np.ndarray:
    num, asked = config.bank, np.arange(config.bank, len(x))
    zeros, none = np.zeros(len(x), np.int64), np.full(len(x), -1)
    bank = Bank(x, zeros[:num], np.arange(num + 1), np.arange(num), zeros, False, none)
    return Search(bank, asked, asked, config.k).all(config.threads).heads


def _numpy(bank: np.ndarray, asked: np.ndarray, k: int) -> np.ndarray:
    """What one would write by hand: blocks of products, and the first k of each row."""
    heads = np.empty((len(asked), k), np.int64)
    for first in range(0, len(asked), 256):
        scores = asked[first : first + 256] @ bank.T
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        heads[first : first + 256] = np.take_along_axis(best, order, axis=1)
    return heads


def _product(bank: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The floor: the products alone."""
    for first in range(0, len(asked), 256):
        asked[first : first + 256] @ bank.T
    return np.empty(0, np.int64)


def _peer(config: SimilarBench, folder: str, name: str) -> subprocess.Popen[str] | str:
    """A process that searches when it is asked to, or why there is none. ClusterError for no Python."""
    command = [config.peers, "-c", _PEERS, folder, str(config.k), str(config.threads), name]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    except OSError as error:
        raise ClusterError(f"--peers: {config.peers} cannot be run ({error})") from error
    assert process.stdout is not None and process.stderr is not None
    if process.stdout.readline().strip() == "ready":
        return process
    return (process.stderr.read().strip().splitlines() or ["no reason"])[-1][:200]


def _asked(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("again\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def bench_earlier(config: SimilarBench, num: int, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """Each of so many nodes finds its k nearest of those before it, over vectors on disk: seconds, the memory
    that is no mapped file, and the rate of the products' operations (half of all pairs)."""
    with TemporaryDirectory(dir=scratch) as folder:
        done = measure(_EARLIER, num, config.width, config.k, config.threads, folder)
        if not done.ok:
            raise ClusterError(f"--earlier: the search of {num} nodes failed")
        said = json.loads(Path(folder, "said.json").read_text())
    sizes = {"nodes": num, "width": config.width, "k": config.k, "threads": config.threads}
    yield {"case": "earlier", **sizes, **said, "peak_bytes": done.peak_bytes} | machine()


def line(result: dict[str, Any]) -> str:
    if result["case"] == "earlier":
        return (
            f"{result['nodes']:,} nodes of {result['width']}, earlier ones: {result['search_s']:.1f} s, "
            f"{result['own_bytes'] / 1e6:,.0f} MB beside the mapped vectors, {result['gflops']:.0f} GFLOP/s"
        )
    parts = [f"{result['tails']:,} x {result['bank']:,} x {result['width']}"]
    parts += [f"products alone {result['product_s']:.3f} s", f"ours {result['ours_s']:.3f} s"]
    for name in ("numpy", *PEERS):
        if f"{name}_s" in result:
            parts.append(
                f"{name} {result[f'{name}_s']:.3f} s ({result[f'{name}_times_slower']:.2f} times, "
                f"recall {result[f'{name}_recall']:.5f})"
            )
        elif f"{name}_error" in result:
            parts.append(f"{name}: {result[f'{name}_error']}")
    return "; ".join(parts)
