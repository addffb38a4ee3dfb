"""The plan counts exactly what it can count, moves the right way, and suggests what fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from netgpt.cluster.bench.plan import CASES, Case, line, run_case
from netgpt.cluster.cli import app
from netgpt.cluster.config import load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.plan import graphs
from netgpt.cluster.plan.budget import fits, largest_budget
from netgpt.cluster.plan.memory import LanguageCase, activation_terms, language_memory, saved_per_token
from netgpt.cluster.plan.planner import make_plan
from netgpt.cluster.plan.request import PlanRequest, planned_config
from netgpt.cluster.plan.shapes import decoder_of, language_shape
from netgpt.cluster.plan.text import table
from netgpt.graphstore import Store
from netgpt.trainers.config import TinyConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.encoders.names import ENCODERS
from netgpt.trainers.graph.model import GraphModel, ModelShape
from netgpt.trainers.language.model import attention
from netgpt.trainers.language.model.netgpt import NetGPT
from netgpt.trainers.language.model.tiny import random_qwen2_vl
from netgpt.trainers.language.packing import collate
from netgpt.trainers.stages.language import LanguageStage
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.tasks.names import make_task


def parts(layers: int) -> dict[str, tuple[str, ...]]:
    """What each language stage says that it trains, with so many layers in stage 3."""
    settings, named = load_config("demo", [f"stage3.layers={layers}"]).settings, {}
    for name in ("stage2", "stage3"):
        stage = stage_of(name)
        assert isinstance(stage, LanguageStage)
        named[name] = stage.parts(settings)
    return named


SEVEN = language_shape("Qwen/Qwen2-VL-7B-Instruct", TinyConfig(), graph_dim=1024, parts=parts(4))


def request(*overrides: str, gpus: int = 8, config: str = "xs-video", **more: Any) -> PlanRequest:
    return PlanRequest(config=planned_config(config, list(overrides), gpus), gpus=gpus, **more)


def count(parameters: Any) -> int:
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize("model, parameters", [("2B", 2_208_985_600), ("7B", 8_291_375_616)])
def test_published_models_have_their_published_size(model: str, parameters: int) -> None:
    shape = language_shape(f"Qwen/Qwen2-VL-{model}-Instruct", TinyConfig(), graph_dim=64, parts=parts(4))
    assert shape.base == parameters
    assert shape.file_bytes == 2 * parameters and (shape.output == 0) == (model == "2B")


def test_counts_are_those_of_a_real_model() -> None:
    tiny = TinyConfig(hidden=64, layers=7, heads=4, vocab=500)
    shape = language_shape("tiny", tiny, graph_dim=24, parts=parts(3))
    base = random_qwen2_vl(vocab=512, hidden=64, layers=7, heads=4, kv_heads=2, intermediate=192)
    netgpt = NetGPT(base, 24, (500, 501, 502))
    assert shape.decoder == decoder_of(base.config) and shape.base == count(base.parameters())
    assert shape.parameters == count(netgpt.parameters())
    assert shape.trained["stage2"] == count(netgpt.parts(parts(3)["stage2"]).values())
    assert shape.trained["stage3"] == count(netgpt.parts(parts(3)["stage3"]).values())
    assert shape.layer == count(netgpt.text.layers[0].parameters())
    assert shape.vision == count(base.model.visual.parameters())
    products = [p for n, p in netgpt.text.layers[0].named_parameters() if p.dim() == 2]
    assert shape.decoder.layer_products == count(products)
    assert shape.frozen("stage3") + shape.trained["stage3"] == shape.parameters


def test_a_directory_is_counted_without_its_weights(tmp_path: Path) -> None:
    base = random_qwen2_vl(vocab=512, hidden=64, layers=6, heads=4, kv_heads=2, intermediate=96)
    base.config.save_pretrained(tmp_path)
    shape = language_shape(str(tmp_path), TinyConfig(), graph_dim=8, parts=parts(4))
    assert shape.base == count(base.parameters()) and shape.decoder == decoder_of(base.config)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_graph_models_are_counted(encoder: str, store: Store) -> None:
    more = ["graph.scalar_bins=4", "graph.thresholds=true", "graph.hidden=16", f"graph.encoder={encoder}"]
    more.append("task.val_share=0.3")
    config = load_config("demo", more)
    shape = graphs.model_shape(graphs.of_store(store.path, config), config)
    graph = config.graph
    real = ModelShape.of(
        store.schema,
        {name: store.features(name).dim for name in store.schema.encoded_types},
        hidden=16,
        encoder=encoder,
        heads=graph.heads,
        num_bases=0,
        scalar_bins=4,
        thresholds=True,
    )
    assert shape == real
    assert graphs.graph_parameters(shape, config) == count(
        GraphModel(real, make_task(config.task).head).parameters()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [False, True])
def test_what_a_layer_keeps_is_what_autograd_keeps(dtype: torch.dtype, trained: bool) -> None:
    base = random_qwen2_vl(vocab=512, hidden=64, layers=6, heads=4, kv_heads=2, intermediate=200, dtype=dtype)
    base.set_attn_implementation({"text_config": attention.NAME})
    netgpt = NetGPT(base, 4, (500, 501, 502)).to(dtype)
    netgpt.train_only(netgpt.parts(parts(6 if trained else 1)["stage3"]))
    prompt = np.arange(300) % 400
    prompt[3:6] = 500, 501, 502
    batch = collate([prompt], [np.empty(0, np.int64)], torch.device("cpu"), graph=np.ones((1, 4), np.float32))
    weights = {p.untyped_storage()._cdata for p in netgpt.parameters()}
    kept: dict[int, torch.Tensor] = {}
    marks: list[int] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage()._cdata not in weights:
            kept.setdefault(t.untyped_storage()._cdata, t)
        return t

    for layer in netgpt.text.layers:
        layer.register_forward_hook(
            lambda *_: marks.append(sum(t.untyped_storage().nbytes() for t in kept.values()))
        )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        netgpt.scores(batch).sum()
    formula = saved_per_token(decoder_of(base.config), dtype.itemsize, trained=trained)
    assert (marks[2] - marks[1]) / 300 == pytest.approx(formula, rel=0.002)


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.integers(1, 1 << 17),
    more=st.integers(0, 1 << 15),
    world_size=st.sampled_from([1, 2, 4, 8, 64]),
    stage=st.sampled_from(["stage2", "stage3"]),
    device=st.sampled_from(["cpu", "cuda"]),
    checkpointing=st.booleans(),
)
def test_memory_rises_with_the_budget_and_not_with_ranks(
    tokens: int, more: int, world_size: int, stage: str, device: str, checkpointing: bool
) -> None:
    case = LanguageCase(
        shape=SEVEN,
        stage=stage,
        answers=stage == "stage2",
        token_budget=tokens,
        world_size=world_size,
        accumulation=2,
        activation_checkpointing=checkpointing,
        layers_trained=4 if stage == "stage3" else 0,
        device=device,
    )
    peak = language_memory(case).peak_bytes
    if device == "cuda":  # on CPUs large blocks leave no holes: a larger pack may take less
        assert peak <= language_memory(case, tokens + more).peak_bytes
        assert language_memory(replace(case, world_size=2 * world_size)).peak_bytes <= peak
    kept = activation_terms(case, tokens)[0]
    with_all = activation_terms(replace(case, activation_checkpointing=False), tokens)[0]
    assert sum(t.num_bytes for t in kept) <= sum(t.num_bytes for t in with_all)


@settings(max_examples=25, deadline=None)
@given(memory=st.floats(24, 200), gpus=st.sampled_from([1, 4, 8]), checkpointing=st.booleans())
def test_the_suggested_budget_fits_and_a_larger_one_does_not(
    memory: float, gpus: int, checkpointing: bool
) -> None:
    on = f"language.activation_checkpointing={str(checkpointing).lower()}"
    asked = request(on, gpus=gpus, gpu_memory_gb=memory)
    found = largest_budget(asked, SEVEN)
    assert found == 0 or fits(asked, SEVEN, found)
    assert not fits(asked, SEVEN, found + 256)


def test_a_plan_of_the_published_size() -> None:
    plan = make_plan(request())
    assert sum(plan.graph.nodes.values()) == 5_506_697 and plan.graph.edges == 1_667_716_553
    assert [s.name for s in plan.stages] == ["stage1", "embeddings", "tokens", "stage2", "stage3"]
    assert plan.budget is not None and plan.budget.tokens >= 4000
    text = table(plan)
    assert "assumed" in text and f"language.token_budget={plan.budget.tokens}" in text
    assert plan.stage("stage3").duration.assumed and not plan.stage("embeddings").duration.assumed
    assert plan.stage("stage3").with_checkpointing < plan.stage("stage3").without_checkpointing / 5
    small = make_plan(request(gpu_memory_gb=32.0))
    assert small.budget is not None and small.budget.tokens == 0
    assert "language.activation_checkpointing=true" in small.budget.advice
    none = make_plan(request(gpu_memory_gb=10.0))
    assert none.budget is not None and "smaller language.model" in none.budget.advice


@pytest.mark.all
def test_a_plan_of_a_store_on_cpus(store: Store) -> None:
    plan = make_plan(request("task.val_share=0.3", config="demo", gpus=0, store=store.path))
    assert plan.budget is None and plan.graph.states == store.num_nodes["video"]
    assert all(s.device == "cpu" and not s.duration.assumed for s in plan.stages)
    assert plan.graph.train_states == len(store.split("train"))
    assert "CPU workers" in table(plan)
    with pytest.raises(TrainerError, match=r"task\.label: found 'likes'"):
        make_plan(request("task.label=likes", config="demo", gpus=0, store=store.path))


def test_json_has_the_numbers_of_the_table() -> None:
    found = CliRunner().invoke(app, ["plan", "--config", "xs-video", "--gpus", "8", "--json"])
    assert found.exit_code == 0
    plan = json.loads(found.stdout)
    assert set(plan["stages"]) == {"stage1", "embeddings", "tokens", "stage2", "stage3"}
    for stage in plan["stages"].values():
        assert stage["memory"]["peak_bytes"] == sum(t["num_bytes"] for t in stage["memory"]["terms"])
        assert stage["duration"]["seconds"] > 0 and stage["duration"]["basis"]
    assert plan["budget"]["advice"] == f"language.token_budget={plan['budget']['tokens']}"
    assert plan["model"]["parameters"] == SEVEN.parameters and plan["assumed"]["mfu"] == 0.4


def test_refusals() -> None:
    for wrong in ({"gpus": -1}, {"gpu_memory_gb": 0.0}, {"nodes": 3}, {"mfu": 1.5}):
        with pytest.raises(ClusterError, match=r"found .*, expected"):
            request(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match="not on this machine"):
        make_plan(request("language.model=nobody/nothing"))
    with pytest.raises(ClusterError, match=r"packs_per_step.*cluster\.workers to --gpus"):
        request(gpus=5)
    with pytest.raises(ClusterError, match="one a GPU"):
        request("cluster.workers=2")
    with pytest.raises(
        TrainerError, match=r"graph\.encoder: found 'gat', expected one of rgcn, gcn, han, hetsann"
    ):
        request("graph.encoder=gat")
    with pytest.raises(TrainerError, match=r"graph\.heads: found 5, expected a divisor"):
        request("graph.encoder=han", "graph.heads=5")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["process-language", "stage3-narrow"])
def test_a_measured_case(name: str, tmp_path: Path) -> None:
    case: Case = next(c for c in CASES if c.name == name)
    result = run_case(case, tmp_path)
    assert result["close"], line(result)
