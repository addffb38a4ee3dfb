"""The bench of models of modalities: figures of the test part, paired with the ridge's."""

from __future__ import annotations

from pathlib import Path

import pytest

from netgpt import graphstore
from netgpt.cluster.bench.multimodal import MultimodalBench, bench_multimodal, line
from netgpt.cluster.config import load_config
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore.datasets.microlens import MicroLens
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.tasks.baselines import RIDGE
from netgpt.trainers.tasks.names import make_task

QUICK = ("build.encoder=hash:16", "multimodal.epochs=2", "multimodal.width=8", "cluster.threads=1")


@pytest.mark.all
def test_models_beside_baselines_by_split(tmp_path: Path) -> None:
    MicroLens().write_synthetic(tmp_path / "data", 0.006, 0)
    models = ("mmra multimodal.k=3", "svr", "hyfea")
    bench = MultimodalBench("mmra-microlens", tmp_path / "data", models, (9, 4), None, QUICK)
    results = list(bench_multimodal(bench, tmp_path))
    named = {(r["model"], r.get("seed")): r for r in results}
    for seed in (9, 4):
        for model in (*models, RIDGE, "constant (mean)", "mean of the nearest (is_similar_to)"):
            assert named[model, seed]["test"]["num"] == 12 and line(named[model, seed])
        assert "gain" not in named[RIDGE, seed]
        gain, _ = named["svr", seed]["gain"]["nmse"]
        expected = named[RIDGE, seed]["test"]["nmse"] - named["svr", seed]["test"]["nmse"]
        assert gain == pytest.approx(expected)
    mean, least, most = named["svr", None]["test"]["mae"]
    both = sorted(named["svr", seed]["test"]["mae"] for seed in (9, 4))
    assert (least, most) == tuple(both) and mean == pytest.approx(sum(both) / 2)
    config = load_config("mmra-microlens", [*QUICK, "build.split_seed=4"])
    graphstore.build(tmp_path / "data", tmp_path / "store", config.build)
    task, store = make_task(config.task), graphstore.open(tmp_path / "store")
    examples = task.examples(store)
    ridge = task.baselines(store, examples.train, examples.test)[RIDGE].scores
    assert ridge is not None and task.measure(ridge, examples.truth[examples.test]) == named[RIDGE, 4]["test"]
    relation, test = store.relation(("video", "is_similar_to", "video")), examples.test
    near = task.baselines(store, examples.train, test)["mean of the nearest (is_similar_to)"].scores
    assert near is not None
    for i, v in enumerate(test.tolist()):
        heads, scores = relation.neighbors(v), relation.numbers["score"][relation.begin[v] : relation.end[v]]
        weights = [2.718281828459045 ** float(s) for s in scores]
        expected = sum(w * examples.truth[u] for w, u in zip(weights, heads.tolist(), strict=True))
        assert near[i] == pytest.approx(expected / sum(weights), rel=1e-6)


def test_what_it_cannot_run_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"multimodal\.model: found 'nothing', expected one of mmra"):
        next(bench_multimodal(MultimodalBench("mmra-microlens", tmp_path, ("nothing",)), tmp_path))
    with pytest.raises(
        ClusterError, match=r"--model: found 'build\.similar=1' behind mmra, expected keys of mult"
    ):
        next(
            bench_multimodal(MultimodalBench("mmra-microlens", tmp_path, ("mmra build.similar=1",)), tmp_path)
        )
    with pytest.raises(ClusterError, match="multimodal"):
        next(bench_multimodal(MultimodalBench("demo", tmp_path, ("mmra",)), tmp_path))
