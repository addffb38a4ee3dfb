"""NetGPT's parts against transformers' own forward, plain torch, and arithmetic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from netgpt.graphstore import Store
from netgpt.trainers.config import TinyConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model import attention
from netgpt.trainers.language.model.netgpt import NetGPT
from netgpt.trainers.language.model.tiny import make_model, warm_up
from netgpt.trainers.language.packing import collate
from netgpt.trainers.language.pixels import PixelFolder
from netgpt.trainers.language.samples import GraphStates, Samples
from netgpt.trainers.language.scoring import choice_log_probs, score_samples
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.stages.names import stage_of
from tests.reference import settings_of

CPU = torch.device("cpu")
STAGE2, STAGE3 = (stage_of(name).parts(settings_of()) for name in ("stage2", "stage3"))  # type: ignore[attr-defined]
NOTHING = np.empty(0, np.int64)


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
    found = choice_log_probs(netgpt, samples, budget=2000)
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
    other = choice_log_probs(netgpt, samples, budget=2000)
    keep = [level for level in range(10) if level != 3]
    np.testing.assert_allclose(other[:, keep], found[:, keep], atol=1e-3)
    assert (other[:, 3] < found[:, 3]).all()


@torch.no_grad()
def test_an_answer_that_another_begins_with_is_scored_with_its_end(
    netgpt: NetGPT, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it could never be less likely than the longer one: "short" and "short film"."""
    builder = samples.builder
    first, more = builder.scored_response(0), builder.scored_response(1)[-1:]
    tail = builder.response(0)[len(first) :]
    words = [first, np.concatenate([first, more])]
    monkeypatch.setattr(type(builder), "num_choices", property(lambda self: 2))
    monkeypatch.setattr(builder, "scored_response", words.__getitem__)
    monkeypatch.setattr(builder, "response", lambda choice: np.concatenate([words[choice], tail]))
    found = choice_log_probs(netgpt, samples, budget=2000)
    for i in range(3):
        for choice, said in enumerate(words):
            batch = samples.batch([i], [np.concatenate([said, tail[:1]])])
            log_probs, _ = netgpt.response_log_probs(batch)
            assert found[i, choice] == pytest.approx(float(log_probs.sum()), abs=1e-3)


def test_stages_train_exactly_what_the_design_names(netgpt: NetGPT) -> None:
    hidden, graph = 32, 6
    projector = {f"projector.{name}" for name, _ in netgpt.projector.named_parameters()}
    stage2 = netgpt.parts(STAGE2)
    assert set(stage2) == {"markers_2H"} | projector
    assert sum(p.numel() for p in stage2.values()) == (
        2 * hidden + (graph + 1) * hidden + (hidden + 1) * hidden
    )
    stage3 = netgpt.parts(STAGE3)
    layers = {name for name in stage3 if name.startswith("base.")}
    assert set(stage3) - layers == set(stage2) | {"head.weight", "head.bias"}
    assert {int(name.split(".")[4]) for name in layers} == {2, 3, 4, 5}
    everything = dict(netgpt.named_parameters())
    for index in (2, 5):
        prefix = f"base.model.language_model.layers.{index}."
        assert {n for n in everything if n.startswith(prefix)} == {n for n in layers if n.startswith(prefix)}
    netgpt.train_only(stage3)
    assert {n for n, p in everything.items() if p.requires_grad} == set(stage3)
    with pytest.raises(TrainerError, match=r"trained layers: found the last 7, expected 1 to 6"):
        netgpt.parts(("last:7",))
    with pytest.raises(
        TrainerError, match=r"trained parts: found 'tail', expected all, decoder, last:N or adapters"
    ):
        netgpt.parts(("tail",))
    netgpt.train_only([])


def test_gradients_reach_the_trained_parts_alone(netgpt: NetGPT, samples: Samples) -> None:
    netgpt.train_only(netgpt.parts(STAGE2))
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
    responses = [samples.builder.response(i) for i in range(6)]

    def run(steps: int) -> tuple[float, dict[str, torch.Tensor]]:
        config = TinyConfig(hidden=32, layers=6, heads=2, vocab=600, warmup_steps=steps, warmup_lr=3e-3)
        model = make_model(config, tokenizer, 0)
        loss = warm_up(model, prompts, responses, config, seed=0, budget=2000)
        return loss, model.state_dict()

    (first, _), (last, a), (again, b) = run(1), run(25), run(25)
    assert last < 0.9 * first and last == again
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("responses", [False, True])
def test_packed_equals_single_from_20_to_4000_tokens(
    responses: bool, netgpt: NetGPT, builder: PromptBuilder
) -> None:
    """Logits, loss and gradients of one pack and of each sample alone: graph-token samples of all sizes."""
    rng, graph = np.random.default_rng(0), np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    prompts = [rng.integers(0, builder.num_known, size) for size in (20, 333, 4000, 150, 1201)]
    for prompt in prompts:
        prompt[4:7] = builder.start_id, builder.pad_id, builder.end_id
    trained = netgpt.parts(STAGE3)
    netgpt.train_only(trained)
    torch.nn.init.normal_(netgpt.head.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([1.0, 8.0, 4.0, 0.0, 6.0])

    def run(chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        answers = [builder.response(int(levels[i])) if responses else NOTHING for i in chosen]
        batch = collate([prompts[i] for i in chosen], answers, CPU, graph=graph[chosen])
        out = netgpt.response_log_probs(batch)[0] if responses else netgpt.scores(batch)
        target = levels[chosen] - 4
        loss = -out.sum() if responses else F.smooth_l1_loss(out, target, reduction="sum")
        return out.detach(), loss

    try:
        packed, loss = run([0, 1, 2, 3, 4])
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        netgpt.zero_grad()
        alone = [run([i]) for i in range(5)]
        total = torch.stack([one for _, one in alone]).sum()
        total.backward()
        torch.testing.assert_close(packed, torch.cat([out for out, _ in alone]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(loss.detach(), total.detach(), rtol=1e-5, atol=1e-5)
        assert set(gradients) == {n for n, p in trained.items() if p.grad is not None}
        for name, gradient in gradients.items():
            scale = float(gradient.abs().max()) + 1e-3
            torch.testing.assert_close(
                gradient / scale, trained[name].grad / scale, rtol=1e-5, atol=1e-5, msg=name
            )
    finally:
        netgpt.zero_grad()
        netgpt.train_only([])
        netgpt.start_head_at(0.0)


def test_activation_checkpointing_changes_no_gradient(netgpt: NetGPT, samples: Samples) -> None:
    trained = netgpt.parts(STAGE3)
    netgpt.train_only(trained)
    batch, found = samples.batch([0, 1, 2], [samples.builder.response(3)] * 3), []
    for on in (False, True):
        if on:
            netgpt.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            netgpt.train()
        netgpt.response_log_probs(batch)[0].sum().backward()
        found.append({name: p.grad.clone() for name, p in trained.items() if p.grad is not None})
        netgpt.zero_grad()
    netgpt.base.gradient_checkpointing_disable()
    netgpt.eval().train_only([])
    assert set(found[0]) == set(found[1])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@torch.no_grad()
def test_video_pixels_reach_the_model_as_transformers_takes_them(
    netgpt: NetGPT, samples: Samples, store: Store, tmp_path: Path
) -> None:
    """Two of three samples with clips of different sizes, packed, against the whole Qwen2-VL on each."""
    config, builder = netgpt.base.config, samples.builder
    width = config.vision_config.in_channels * config.vision_config.temporal_patch_size * 14 * 14
    grids = {0: (2, 4, 6), 2: (1, 8, 2)}
    generator = torch.Generator().manual_seed(0)
    for i, grid in grids.items():
        pixels = torch.randn(int(np.prod(grid)), width, generator=generator)
        path = tmp_path / f"{store.ids[i]}.safetensors"
        save_file({"pixel_values_videos": pixels, "video_grid_thw": torch.tensor([grid])}, path)
    folder = PixelFolder(tmp_path, config, builder.tokenizer)
    own = replace(samples, pixels=folder)
    assert [bool(clip) for clip in own.clips[:4]] == [True, False, True, False]
    assert (own.lengths[:3] - samples.lengths[:3]).tolist() == [2 * 4 * 6 // 4 + 2, 0, 1 * 8 * 2 // 4 + 2]
    batch = own.batch([2, 1, 0], [builder.response(4)] * 3)
    packed = netgpt.hidden_states(batch).split(batch.lengths)
    netgpt.base.set_attn_implementation({"text_config": "sdpa"})
    try:
        for i, found in zip([2, 1, 0], packed, strict=True):
            one = own.batch([i], [builder.response(4)])
            ids = one.input_ids_L[None]
            options: dict[str, Any] = {}
            if i in grids:
                is_video = (ids == config.video_token_id).int() * 2
                positions, _ = netgpt.base.model.get_rope_index(
                    ids, is_video, video_grid_thw=one.video_grid, attention_mask=torch.ones_like(ids)
                )
                options["position_ids"] = positions
            else:
                options["position_ids"] = torch.arange(ids.shape[1]).expand(3, 1, -1)
            alone = netgpt.base.model(
                inputs_embeds=netgpt.embed(one)[None], use_cache=False, **options
            ).last_hidden_state[0]
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=2e-5)
    finally:
        netgpt.base.set_attn_implementation({"text_config": attention.NAME})
    # The clip matters, and its own pixels do
    assert not torch.allclose(score_of(netgpt, own), score_of(netgpt, samples), atol=1e-4)
    save_file(
        {"pixel_values_videos": torch.zeros(5, width), "video_grid_thw": torch.tensor([[1, 4, 4]])},
        tmp_path / f"{store.ids[4]}.safetensors",
    )
    with pytest.raises(TrainerError, match=r"found pixels \[5, 1176\] and a grid of 1 × 4 × 4"):
        replace(own, ids=np.array([4])).lengths  # noqa: B018
    with pytest.raises(TrainerError, match=r"language\.pixels: found no folder"):
        PixelFolder(tmp_path / "nowhere", config, builder.tokenizer)


def score_of(netgpt: NetGPT, samples: Samples) -> torch.Tensor:
    return netgpt.hidden_states(samples.batch([0]))[-1]
