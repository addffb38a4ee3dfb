"""NetGPT's parts against transformers' own forward, plain torch, and arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainers.config import TinyConfig
from trainers.errors import TrainerError
from trainers.language.model import attention
from trainers.language.model.netgpt import NetGPT
from trainers.language.model.tiny import make_model, warm_up
from trainers.language.samples import GraphStates, Samples
from trainers.language.scoring import level_log_probs, score_samples

CPU = torch.device("cpu")


def test_graph_scale_makes_length_one_and_keeps_proportions() -> None:
    h = np.random.default_rng(0).normal(3.0, [1.0, 20.0, 0.1], size=(500, 3)).astype(np.float32)
    train = np.arange(400)
    scaled = GraphStates.of(h, train).rows(np.arange(500))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[train].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose((scaled[train].astype(np.float64) ** 2).sum(1).mean(), 1, rtol=1e-5)
    spread = scaled[train].std(0)
    np.testing.assert_allclose(spread / spread[0], h[train].std(0) / h[train, 0].std(), rtol=1e-4)
    larger = GraphStates.of(h * 1000, train).rows(np.arange(500))
    np.testing.assert_allclose(larger, scaled, atol=1e-4)


def reference_states(netgpt: NetGPT, samples: Samples, i: int) -> torch.Tensor:
    """One sample alone by the whole Qwen2-VL with transformers' own attention, embeddings set by hand."""
    ids = torch.from_numpy(samples.prompt(i))
    base = netgpt.base
    x = base.model.language_model.embed_tokens.weight[ids].clone()
    at = samples.builder.graph_position
    assert at is not None
    x[at - 1], x[at + 1] = netgpt.markers_2H[0], netgpt.markers_2H[1]
    assert samples.graph is not None
    x[at] = netgpt.projector(torch.from_numpy(samples.graph.rows(samples.ids[i : i + 1])))[0]
    base.set_attn_implementation({"text_config": "sdpa"})
    try:
        positions = torch.arange(len(ids)).expand(3, 1, -1)
        out = base.model(inputs_embeds=x[None], position_ids=positions, use_cache=False)
    finally:
        base.set_attn_implementation({"text_config": attention.NAME})
    return out.last_hidden_state[0]


@torch.no_grad()
def test_packed_samples_equal_single_ones_under_transformers(netgpt: NetGPT, samples: Samples) -> None:
    chosen = [4, 0, 7]
    batch = samples.batch(chosen)
    h_LH = netgpt.hidden_states(batch)
    for i, states in zip(chosen, h_LH.split(batch.lengths), strict=True):
        torch.testing.assert_close(states, reference_states(netgpt, samples, i), rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_scores_read_the_last_prompt_token_and_do_not_depend_on_the_pack(
    netgpt: NetGPT, samples: Samples
) -> None:
    torch.nn.init.normal_(netgpt.head.weight)
    try:
        small = score_samples(netgpt, samples, budget=900)
        large = score_samples(netgpt, samples, budget=6000)
        np.testing.assert_allclose(small, large, atol=1e-5)
        for i in range(3):
            expected = netgpt.head(reference_states(netgpt, samples, i)[-1])
            assert small[i] == pytest.approx(float(expected), abs=1e-4)
        assert len(set(np.round(small, 4))) == len(small)
    finally:
        netgpt.start_head_at(0.0)


@torch.no_grad()
def test_one_pass_for_ten_levels_equals_ten_passes(
    netgpt: NetGPT, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = level_log_probs(netgpt, samples, budget=2000)
    for i in range(2):
        for level in (0, 9):
            response = samples.builder.scored_response(level)
            batch = samples.batch([i], [response])
            log_probs, sample = netgpt.response_log_probs(batch)
            assert sample.tolist() == [0] * len(response)
            assert found[i, level] == pytest.approx(float(log_probs.sum()), abs=1e-3)
    # A tokenizer with levels of several tokens takes the other path: same numbers
    original = samples.builder.scored_response
    end = samples.builder.response(0)[-1:]
    monkeypatch.setattr(
        samples.builder,
        "scored_response",
        lambda level: np.concatenate([original(level), end][: 1 + (level == 3)]),
    )
    other = level_log_probs(netgpt, samples, budget=2000)
    keep = [level for level in range(10) if level != 3]
    np.testing.assert_allclose(other[:, keep], found[:, keep], atol=1e-3)
    assert (other[:, 3] < found[:, 3]).all()


def test_stages_train_exactly_what_the_design_names(netgpt: NetGPT) -> None:
    hidden, graph = 32, 6
    projector = {f"projector.{name}" for name, _ in netgpt.projector.named_parameters()}
    stage2 = netgpt.stage_parameters("stage2")
    assert set(stage2) == {"markers_2H"} | projector
    assert sum(p.numel() for p in stage2.values()) == (
        2 * hidden + (graph + 1) * hidden + (hidden + 1) * hidden
    )
    stage3 = netgpt.stage_parameters("stage3", 4)
    layers = {name for name in stage3 if name.startswith("base.")}
    assert set(stage3) - layers == set(stage2) | {"head.weight", "head.bias"}
    assert {int(name.split(".")[4]) for name in layers} == {2, 3, 4, 5}
    everything = dict(netgpt.named_parameters())
    for index in (2, 5):
        prefix = f"base.model.language_model.layers.{index}."
        assert {n for n in everything if n.startswith(prefix)} == {n for n in layers if n.startswith(prefix)}
    netgpt.train_only(stage3)
    assert {n for n, p in everything.items() if p.requires_grad} == set(stage3)
    with pytest.raises(TrainerError, match=r"stage3\.layers"):
        netgpt.stage_parameters("stage3", 7)
    netgpt.train_only([])


def test_gradients_reach_the_trained_parts_alone(netgpt: NetGPT, samples: Samples) -> None:
    netgpt.train_only(netgpt.stage_parameters("stage2"))
    batch = samples.batch([0, 1], [samples.builder.response(3), samples.builder.response(5)])
    log_probs, _ = netgpt.response_log_probs(batch)
    assert len(log_probs) == sum(len(samples.builder.response(n)) for n in (3, 5))
    log_probs.sum().backward()
    for name, parameter in netgpt.named_parameters():
        trained = name == "markers_2H" or name.startswith("projector")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == trained, name
    netgpt.zero_grad()
    netgpt.train_only([])


def test_an_id_beyond_the_embedding_matrix_is_never_looked_up(
    netgpt: NetGPT, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = netgpt.text.embed_tokens.weight.shape[0]
    before = score_samples(netgpt, samples, budget=2000)
    moved = {"start_id": rows + 10, "pad_id": rows + 11, "end_id": rows + 12}
    ids = {getattr(netgpt, name): new for name, new in moved.items()}
    assemble = samples.builder.assemble
    monkeypatch.setattr(
        samples.builder,
        "assemble",
        lambda *args: np.array([ids.get(int(i), int(i)) for i in assemble(*args)]),
    )
    for name, new in moved.items():
        monkeypatch.setattr(netgpt, name, new)
    np.testing.assert_array_equal(score_samples(netgpt, samples, budget=2000), before)


def test_warm_up_lowers_the_loss_and_repeats(tokenizer: Any, samples: Samples) -> None:
    prompts = [samples.prompt(i) for i in range(6)]

    def run(steps: int) -> tuple[float, dict[str, torch.Tensor]]:
        config = TinyConfig(hidden=32, layers=6, heads=2, vocab=600, warmup_steps=steps, warmup_lr=3e-3)
        model = make_model(config, tokenizer, 0)
        loss = warm_up(model, prompts, config, seed=0, budget=2000)
        return loss, model.state_dict()

    (first, _), (last, a), (again, b) = run(1), run(25), run(25)
    assert last < 0.9 * first and last == again
    assert all(torch.equal(a[name], b[name]) for name in a)
