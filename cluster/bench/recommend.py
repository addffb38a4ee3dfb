"""`netgpt bench recommend`: recommenders by figures and by speed, beside peers of the same run.

Contestants of a speed take turns, round by round; a figure is the median over the rounds, a ratio the median
of the rounds' ratios. implicit and Cornac, which have a Python of their own, come after them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from netgpt import graphstore
from netgpt.cluster.bench.measure import machine, measure, spread
from netgpt.cluster.bench.recommend_peers import NAMES, timed_peers
from netgpt.cluster.bench.recommend_scale import BUILD
from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import Store
from netgpt.graphstore.datasets import names as datasets
from netgpt.sampler import LinkLoader
from netgpt.trainers.processor import use_cores
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.judge import RankingJudge
from netgpt.trainers.recommend.models.names import model_class
from netgpt.trainers.recommend.ranking import METRICS, full_ranking
from netgpt.trainers.recommend.train import RecommenderTrainer, load_vectors, scores_of
from netgpt.trainers.recommend.triples import TripleLoader
from netgpt.trainers.schedule import seed_torch
from netgpt.trainers.tasks.ranking import BASELINES, RankingConfig

FANOUT = (20, 10)
MADE = 0.006
"""Scale of the made pairs where no source is given: 6,000 users and items, 300,000 rows."""


@dataclass(frozen=True)
class ModelsBench:
    """Models on one source: each split, seed and model is a run of its own."""

    config: str
    data: Path
    models: Sequence[str]
    """A name, and settings behind it: `shl recommender.shl.gate=none`."""
    splits: Sequence[str] = ()
    """None: the recipe's."""
    seeds: Sequence[int] = (0,)
    """Of the split and of the training."""
    overrides: Sequence[str] = ()

    def settings(self, model: str, split: str, seed: int) -> RunConfig:
        """The recipe with all that goes over it. ClusterError for a model that there is not."""
        name, *own = model.split() or [""]
        given = [*self.overrides, *own, f"seed={seed}"]
        if name not in BASELINES:
            given.append(f"recommender.model={name}")
        if split:
            given.append(f"build.split={split}")
        if not any(one.startswith("build.split_seed=") for one in given):
            given.append(f"build.split_seed={seed}")
        return load_config(self.config, given)


def bench_models(bench: ModelsBench, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """Metrics of each run, and for each split and model the mean over the seeds with its least and most."""
    for split in bench.splits or ("",):  # all that is refused is refused first
        for model in bench.models:
            config = bench.settings(model, split, bench.seeds[0])
            if not isinstance(config.task, RankingConfig):
                raise ClusterError(f"--config: found the task {config.task.name}, expected ranking")
            if model.split()[0] not in BASELINES:
                model_class(_section(config).model)
    for split in bench.splits or ("",):
        found: dict[str, list[dict[str, Any]]] = {model: [] for model in bench.models}
        for seed in bench.seeds:
            with TemporaryDirectory(dir=scratch) as folder:
                stores: dict[str, Store] = {}
                for model in bench.models:
                    config = bench.settings(model, split, seed)
                    key = repr(config.build)
                    if key not in stores:
                        stores[key] = _built(config, bench.data, Path(folder) / f"store-{len(stores)}")
                    result = _trained(config, stores[key], model.split()[0], Path(folder))
                    named = {"split": stores[key].attributes["interactions"]["split"], "model": model}
                    found[model].append(result)
                    yield {"case": "model", **named, "seed": seed, **result}
        for model, results in found.items():
            yield {"case": "mean", **named, "model": model, "num": len(results), **_mean(results)}


def _section(config: RunConfig) -> RecommenderConfig:
    return config.settings.section("recommender", RecommenderConfig)


def _built(config: RunConfig, data: Path, out: Path) -> Store:
    graphstore.build(data, out, config.build, dataset=datasets.load(config.dataset))
    return graphstore.open(out)


def _trained(config: RunConfig, store: Store, name: str, folder: Path) -> dict[str, Any]:
    """Metrics of val and test of one model on one store."""
    task = config.task
    assert isinstance(task, RankingConfig)
    use_cores(config.cluster.threads)
    start, epochs = time.perf_counter(), dict[str, int]()
    if name in BASELINES:
        judge = RankingJudge(store, replace(task, baselines=[name]))
        measured = judge.baseline_metrics()
        if BASELINES[name] not in measured:
            raise ClusterError(f"--model: found {name}, expected another: {judge.left_out[0]}")
        metrics = measured[BASELINES[name]]
    else:
        with TemporaryDirectory(dir=folder) as own:
            trainer = RecommenderTrainer(_section(config), config.seed, store, task, Path(own))
            made = trainer.run()
            epochs = {"best_epoch": made["best"]["epoch"], "epochs": made["epochs"]}
            vectors = load_vectors(Path(own), store)
        metrics = RankingJudge(store, task).metrics(name, scores_of(*vectors))
    parts: dict[str, Any] = {
        part: metrics[part] for part in ("val", "test", "test_sampled") if part in metrics
    }
    return {**parts, **epochs, "seconds": time.perf_counter() - start}


def _mean(results: list[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for part in ("val", "test", "test_sampled"):
        known = [result[part] for result in results if part in result]
        for name in known[0] if known else ():
            values = [one[name] for one in known if one[name] is not None]
            if name != "num" and values:
                made.setdefault(part, {})[name] = spread(values)
    return made


@dataclass(frozen=True)
class SpeedBench:
    rounds: int = 5
    batches: int = 8
    """Batches, or steps, of a round."""
    batch_size: int = 2048
    threads: int = 2
    peers: str = ""
    """A Python that has implicit or Cornac; empty: they are left out."""


def bench_source(
    bench: SpeedBench, data: Path | None, config: str, overrides: Sequence[str], scratch: Path | None
) -> Iterator[dict[str, Any]]:
    """`bench_speed` on a source, by the recipe's build settings; without one on made pairs."""
    with TemporaryDirectory(dir=scratch) as folder:
        out = Path(folder) / "store"
        if data is not None:
            store = _built(load_config(config, list(overrides)), data, out)
        else:
            if not measure(BUILD, MADE, out).ok:
                raise ClusterError("bench recommend: made pairs could not be built")
            store = graphstore.open(out)
        yield from bench_speed(bench, store, scratch)


def bench_speed(bench: SpeedBench, store: Store, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """Edge seeds a second, steps of LightGCN, pairs of matrix factorisation, and the full ranking of a store,
    beside peers."""
    use_cores(bench.threads)
    data = Interactions.of(store)
    sizes = {"users": data.train.num_users, "items": data.train.num_items, "pairs": len(data.train)}
    yield {"case": "links", **sizes, **_links(bench, store, data), **machine()}
    yield {"case": "lightgcn", **sizes, **_lightgcn(bench, data), **machine()}
    rng = np.random.default_rng(0)
    users, items = (
        rng.normal(size=(num, 64)).astype(np.float32) for num in (data.train.num_users, data.train.num_items)
    )
    ours = {"bpr": _factorisation(bench, data), "ranking": _ranking(bench, data, users, items)}
    peers: dict[str, dict[str, Any]] = {}
    if bench.peers:
        with TemporaryDirectory(dir=scratch) as folder:
            arrays = (data, users, items)
            peers = timed_peers(bench.peers, *arrays, Path(folder), bench.threads, bench.rounds)
    units = {"bpr": ("epoch", len(data.train)), "ranking": ("ranking", ours["ranking"]["ranked_users"])}
    for case, (timed, num) in units.items():
        for name, found in peers.items():
            if timed in found:
                ours[case] |= {name: num / found[timed]}
                ours[case][f"netgpt_by_{name}"] = ours[case]["netgpt"] * found[timed] / num
            else:
                ours[case][f"{name}_error"] = found["error"]
        yield {"case": case, **sizes, **ours[case], **machine()}


def _contest(runs: dict[str, Callable[[], int]], rounds: int, first: str) -> dict[str, Any]:
    """Units a second of each, once before it counts, then in turns; and the first's by the others'."""
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            num = run()
            if number:
                rates[name].append(num / (time.perf_counter() - start))
    made: dict[str, Any] = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        if name != first:
            made[f"{first}_by_{name}"] = statistics.median(
                a / b for a, b in zip(rates[first], values, strict=True)
            )
    return made


def _links(bench: SpeedBench, store: Store, data: Interactions) -> dict[str, Any]:
    """Edge seeds a second, each with a negative and a sample of two hops around its three ends."""
    options = {"fanout": list(FANOUT), "hops": 2, "batch_size": bench.batch_size, "seed": 0}

    def ours(threads: int) -> Callable[[], int]:
        loader = LinkLoader(store, data.reverse, negatives=1, threads=threads, **options)  # type: ignore[arg-type]
        state = {"epoch": 0, "next_batch": 0}

        def run() -> int:
            loader.load_state_dict(state)
            num = 0
            for _, batch in zip(range(bench.batches), loader, strict=False):
                num += len(batch.edges)
            return num

        return run

    runs: dict[str, Callable[[], int]] = {"one_thread": ours(1), "two_threads": ours(2)}
    if (peer := _pyg_links(bench, data)) is not None:
        runs["pyg"] = peer
    return {"unit": "edge seeds/s", "fanout": list(FANOUT), **_contest(runs, bench.rounds, "one_thread")}


def _pyg_links(bench: SpeedBench, data: Interactions) -> Callable[[], int] | None:
    """PyG's loader on the same edges; None where nothing that it samples by is installed."""
    import torch_geometric.typing
    from torch_geometric.data import HeteroData
    from torch_geometric.loader import LinkNeighborLoader
    from torch_geometric.sampler import NegativeSampling

    if not (torch_geometric.typing.WITH_PYG_LIB or torch_geometric.typing.WITH_TORCH_SPARSE):
        return None
    train, graph = data.train, HeteroData()
    graph["user"].num_nodes, graph["item"].num_nodes = train.num_users, train.num_items
    index = torch.from_numpy(np.stack([train.users, train.items]))
    graph["user", "took", "item"].edge_index = index
    graph["item", "rev_took", "user"].edge_index = index.flip(0)
    loader = LinkNeighborLoader(
        graph,
        num_neighbors=list(FANOUT),
        edge_label_index=(("user", "took", "item"), index),
        neg_sampling=NegativeSampling("triplet", 1),
        batch_size=bench.batch_size,
        shuffle=True,
    )

    def run() -> int:
        num = 0
        for _, batch in zip(range(bench.batches), loader, strict=False):
            num += len(batch["user"].src_index)
        return num

    return run


def _lightgcn(bench: SpeedBench, data: Interactions) -> dict[str, Any]:
    """Steps a second of LightGCN over the whole graph, forward, backward and optimiser, and PyG's."""
    from torch_geometric.nn.models import LightGCN as PygLightGCN

    config = RecommenderConfig(model="lightgcn", batch_size=bench.batch_size)
    seed_torch(0)
    model = model_class("lightgcn")(data, config)
    loader = TripleLoader(data.train, batch_size=bench.batch_size, seed=0)
    steps = [step for _, step in zip(range(bench.batches), loader.stream(0), strict=False)]
    num_users, num = data.train.num_users, data.train.num_users + data.train.num_items
    theirs = PygLightGCN(num, config.width, config.layers)
    one_way = torch.from_numpy(np.stack([data.train.users, data.train.items + num_users]))
    index = torch.cat([one_way, one_way.flip(0)], dim=1)
    optimizers = [torch.optim.Adam(one.parameters(), lr=config.lr) for one in (model, theirs)]

    def ours() -> int:
        for step in steps:
            optimizers[0].zero_grad()
            (model.loss(step) / len(step)).backward()  # type: ignore[no-untyped-call]
            optimizers[0].step()
        return len(steps)

    def pyg() -> int:
        for step in steps:
            optimizers[1].zero_grad()
            ends = [step.users, step.items + num_users, step.negatives + num_users]
            labels = torch.stack([torch.cat([ends[0], ends[0]]), torch.cat(ends[1:])])
            positive, negative = theirs(index, labels).chunk(2)
            theirs.recommendation_loss(positive, negative, torch.cat(ends), 1e-4).backward()
            optimizers[1].step()
        return len(steps)

    found = _contest({"netgpt": ours, "pyg": pyg}, bench.rounds, "netgpt")
    epoch = {f"{name}_epoch_s": len(loader) / found[name] for name in ("netgpt", "pyg")}
    return {"unit": "steps/s", "threads": bench.threads, **found, **epoch}


def _factorisation(bench: SpeedBench, data: Interactions) -> dict[str, Any]:
    """Pairs a second of BPR-MF: a step's negatives, forward, backward and optimiser."""
    config = RecommenderConfig(model="bpr", batch_size=bench.batch_size)
    seed_torch(0)
    model = model_class("bpr")(data, config)
    loader = TripleLoader(data.train, batch_size=bench.batch_size, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)

    def ours() -> int:
        num = 0
        for _, step in zip(range(bench.batches), loader.stream(0), strict=False):
            optimizer.zero_grad()
            (model.loss(step) / len(step)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            num += len(step)
        return num

    return {"unit": "pairs/s", "threads": bench.threads, **_contest({"netgpt": ours}, bench.rounds, "netgpt")}


def _ranking(bench: SpeedBench, data: Interactions, users: np.ndarray, items: np.ndarray) -> dict[str, Any]:
    """Users ranked a second by vectors of width 64, all items, train masked."""
    scores = scores_of(torch.from_numpy(users), torch.from_numpy(items))
    num = int((data.test.num_by_user > 0).sum())

    def ours() -> int:
        full_ranking(scores, data.test, [data.train])
        return num

    return {"unit": "users/s", "ranked_users": num, **_contest({"netgpt": ours}, bench.rounds, "netgpt")}


def line(result: dict[str, Any]) -> str:
    """A result as text."""
    match result["case"]:
        case "model":
            test = ", ".join(f"{name} {value:.4f}" for name, value in _shown(result["test"]))
            best, head = "", f"{result['split']}, seed {result['seed']}, {result['model']}"
            if "epochs" in result:
                best = f", best epoch {result['best_epoch']} of {result['epochs']}"
            return f"{head}: {test}{best}, {result['seconds']:.0f} s"
        case "mean":
            means = [f"{name} {m:.4f} ({a:.4f}…{b:.4f})" for name, (m, a, b) in result["test"].items()]
            return f"{result['split']}, {result['model']}, {result['num']} seeds: {', '.join(means)}"
        case "scale":
            parts = [f"built in {result['build_s']:.0f} s ({result['build_peak_bytes'] / 1e9:.1f} GB)"]
            if result["step_ok"]:
                peak = result["step_peak_bytes"] / 1e9
                parts.append(f"a step {result['step_s']:.1f} s ({peak:.1f} GB)")
            if result["sampled_step_ok"]:
                peak = result["sampled_step_peak_bytes"] / 1e9
                parts.append(f"a sampled one {result['sampled_step_s']:.1f} s ({peak:.1f} GB)")
            if result["ranking_ok"]:
                num, peak = result["ranked_users"], result["ranking_peak_bytes"] / 1e9
                parts.append(f"{num:,} users ranked in {result['ranking_s']:.1f} s ({peak:.1f} GB)")
            sizes = f"{result['user']:,} users, {result['item']:,} items, {result['pairs']:,} pairs"
            return f"{sizes}: {', '.join(parts)}"
    names = [name for name in ("one_thread", "two_threads", "netgpt", "pyg", *NAMES) if name in result]
    return f"{result['case']}: " + ", ".join(f"{name} {result[name]:,.1f} {result['unit']}" for name in names)


def _shown(measures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in measures.items():
        if value is not None and name.partition("@")[0] in METRICS:
            yield name, value
