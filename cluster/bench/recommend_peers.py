"""implicit and Cornac, in a Python of their own: full ranking, and epochs of matrix factorisation."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.cluster.errors import ClusterError
from netgpt.trainers.recommend.data import Interactions

_COMMON = """
import json, sys, time
import numpy as np
a = np.load(sys.argv[1])
threads, rounds = int(sys.argv[2]), int(sys.argv[3])
num_users, num_items = len(a["users"]), len(a["items"])
def seconds(run):
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[len(times[1:]) // 2]
def epoch_of(fit):
    num, start = 8, seconds(lambda: fit(1))
    while (more := seconds(lambda: fit(1 + num)) - start) < max(0.05, start / 2):
        num *= 4
    return more / num
"""
_SCRIPTS = {
    "implicit": """
from scipy.sparse import csr_matrix
from implicit.bpr import BayesianPersonalizedRanking
from implicit.cpu.als import AlternatingLeastSquares
from implicit.evaluation import ranking_metrics_at_k
def matrix(part):
    data = np.ones(len(a[part + "_items"]), np.float32)
    return csr_matrix((data, a[part + "_items"], a[part + "_indptr"]), shape=(num_users, num_items))
train, test = matrix("train"), matrix("test")
model = AlternatingLeastSquares(factors=64, num_threads=threads)
model.user_factors, model.item_factors = a["users"], a["items"]
options = {"K": 10, "show_progress": False, "num_threads": threads}
ranking = seconds(lambda: ranking_metrics_at_k(model, train, test, **options))
def fit(epochs):
    bpr = BayesianPersonalizedRanking(factors=64, iterations=epochs, num_threads=threads, use_gpu=False)
    bpr.fit(train, show_progress=False)
print(json.dumps({"ranking": ranking, "epoch": epoch_of(fit)}))
""",
    "cornac": """
from collections import OrderedDict
from cornac.data import Dataset
from cornac.eval_methods.base_method import ranking_eval
from cornac.metrics import MRR, NDCG, Precision, Recall
from cornac.models import BPR
ids = [OrderedDict(zip(range(n), range(n))) for n in (num_users, num_items)]
def dataset(part):
    users = np.repeat(np.arange(num_users), np.diff(a[part + "_indptr"]))
    pairs = (users, a[part + "_items"], np.ones(len(users), np.float32))
    return Dataset(num_users, num_items, *ids, pairs, seed=0)
train, test = dataset("train"), dataset("test")
def fit(epochs):
    model = BPR(k=64, max_iter=epochs, num_threads=threads, seed=None, verbose=False)
    return model.fit(train)
model, metrics = fit(1), [Precision(k=10), Recall(k=10), NDCG(k=10), MRR()]
ranking = seconds(lambda: ranking_eval(model, metrics, train, test))
print(json.dumps({"ranking": ranking, "epoch": epoch_of(fit)}))
""",
}
NAMES = tuple(_SCRIPTS)


def timed_peers(
    python: str,
    data: Interactions,
    users: np.ndarray,
    items: np.ndarray,
    folder: Path,
    threads: int,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Of each peer the seconds of a full ranking of the test users by vectors of width 64 (implicit: those
    given, [U, 64] and [I, 64]; Cornac: its own), and of an epoch of BPR-MF; or `error`. ClusterError where
    there is no such Python."""
    arrays = {"users": users, "items": items}
    for name, pairs in (("train", data.train), ("test", data.test)):
        arrays |= {f"{name}_indptr": pairs.indptr, f"{name}_items": pairs.items}
    np.savez(folder / "a.npz", **arrays)  # type: ignore[arg-type]  # its typing takes names for options
    made = {}
    for name, script in _SCRIPTS.items():
        command = [python, "-c", _COMMON + script, str(folder / "a.npz"), str(threads), str(rounds)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise ClusterError(f"--peers: {python} cannot be run ({error})") from error
        if done.returncode:
            made[name] = {"error": (done.stderr.strip().splitlines() or ["no reason"])[-1][:200]}
        else:
            made[name] = json.loads(done.stdout.splitlines()[-1])
    return made
