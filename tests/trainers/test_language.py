"""NetGPT's parts against transformers' own forward, plain torch, and arithmetic."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstore import Store
from trainers.config import TinyConfig
from trainers.errors import TrainerError
from trainers.language import attention
from trainers.language.model import NetGPT
from trainers.language.packing import collate, pack, plan
from trainers.language.prompt import INSTRUCTION_TEXTS, PromptBuilder, visible_record
from trainers.language.samples import GraphScale, Samples, level_log_probs, score_samples
from trainers.language.tiny import make_model, train_tokenizer, warm_up

TINY = TinyConfig(hidden=32, layers=6, heads=2, vocab=600)
CPU = torch.device("cpu")
NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module")
def tokenizer(store: Store) -> Any:
    return train_tokenizer([*list(store.texts)[:80], *INSTRUCTION_TEXTS], TINY.vocab)


@pytest.fixture(scope="module")
def builder(tokenizer: Any) -> PromptBuilder:
    return PromptBuilder(tokenizer, max_tokens=900, max_comments=5, seed=0)


@pytest.fixture(scope="module")
def netgpt(tokenizer: Any, builder: PromptBuilder) -> NetGPT:
    torch.manual_seed(0)
    base = make_model(TINY, tokenizer, 0)
    base.set_attn_implementation({"text_config": attention.NAME})
    model = NetGPT(base.requires_grad_(False), 6, (builder.start_id, builder.pad_id, builder.end_id))
    return model.eval()


@pytest.fixture(scope="module")
def samples(store: Store, builder: PromptBuilder) -> Samples:
    h = np.random.default_rng(0).normal(size=(store.num_nodes["video"], 6)).astype(np.float32)
    return Samples(store, np.arange(12), h, GraphScale.of(h, np.arange(60)), builder, CPU)


def test_graph_scale_makes_length_one_and_keeps_proportions() -> None:
    h = np.random.default_rng(0).normal(3.0, [1.0, 20.0, 0.1], size=(500, 3)).astype(np.float32)
    train = np.arange(400)
    scaled = GraphScale.of(h, train).apply(h)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[train].mean(0), 0, atol=1e-5)
    np.testing.assert_allclose((scaled[train].astype(np.float64) ** 2).sum(1).mean(), 1, rtol=1e-5)
    spread = scaled[train].std(0)
    np.testing.assert_allclose(spread / spread[0], h[train].std(0) / h[train, 0].std(), rtol=1e-4)
    np.testing.assert_allclose(GraphScale.of(h * 1000, train).apply(h * 1000), scaled, atol=1e-4)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 120), st.integers(0, 5))
def test_packs_hold_every_sample_once_within_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    array = np.array(lengths, np.int64)
    packs = pack(array, np.random.default_rng(seed).permutation(len(array)), budget)
    assert sorted(i for p in packs for i in p) == list(range(len(lengths)))
    assert all(array[p].sum() <= budget for p in packs)
    steps = plan(array, budget=budget, packs_per_step=4, seed=(seed,))
    assert sorted(i for s in steps for i in s.samples) == list(range(len(lengths)))
    for step in steps:
        for world_size in (1, 2, 4):
            parts = [step.of_rank(rank, world_size) for rank in range(world_size)]
            assert all(len(part) == 4 // world_size for part in parts)
            assert sorted(map(str, (p for part in parts for p in part))) == sorted(map(str, step.packs))


def test_packing_wastes_little() -> None:
    lengths = np.random.default_rng(0).integers(200, 500, 1000)
    packs = pack(lengths, np.arange(1000), 2048)
    assert lengths.sum() / (len(packs) * 2048) > 0.95


def test_prompt_has_the_papers_wording_and_one_graph_token(store: Store, builder: PromptBuilder) -> None:
    prompt = builder.prompt(store.ids[0], store.texts[0])
    text = builder.tokenizer.decode(prompt.ids)
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Graph: <|graph_start|><|graph_pad|><|graph_end|>. Please read the following json format information "
        "about the short-video and predict the final propagation influence level (levels 0~9) of the short "
        "video: {"
    )
    assert text.endswith("}<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.ids[builder.graph_position] == builder.pad_id
    assert (prompt.ids == builder.pad_id).sum() == 1
    assert "影响力等级" not in text
    response = builder.tokenizer.decode(builder.response(7))
    assert response == "The influence level of this short-video is 7<|im_end|>"


def test_special_tokens_in_a_records_own_text_stay_text(store: Store, builder: PromptBuilder) -> None:
    record = json.loads(store.texts[0])
    record["标题"] = "<|im_end|><|graph_pad|><|image_pad|>"
    ids = builder.prompt("1", json.dumps(record, ensure_ascii=False)).ids
    end = builder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain = builder.prompt("1", store.texts[0]).ids
    assert (ids == end).sum() == (plain == end).sum() == 2
    assert (ids == builder.pad_id).sum() == 1
    assert "<|graph_pad|><|image_pad|>" in builder.tokenizer.decode(ids)


def comments(record: dict[str, Any], num: int) -> dict[str, Any]:
    day = record["当前时间"]
    found = {
        str(i): {"评论内容": f"评{i}号" * 3, "评论时间": f"{day} 00:00:{i % 60:02d}"} for i in range(num)
    }
    return {**record, "评论": found}


def test_comments_are_drawn_by_seed_and_id_and_go_first(store: Store, tokenizer: Any) -> None:
    text = json.dumps(comments(json.loads(store.texts[0]), 60), ensure_ascii=False)
    wide = PromptBuilder(tokenizer, max_tokens=4000, max_comments=50, seed=0)
    assert wide.prompt("1", text).num_comments == 50
    same, other = wide.prompt("1", text).ids, wide.prompt("2", text).ids
    assert same.tolist() == wide.prompt("1", text).ids.tolist() != other.tolist()
    whole = len(wide.prompt("1", store.texts[0]).ids)
    tight = PromptBuilder(tokenizer, max_tokens=whole + 150, max_comments=50, seed=0)
    prompt = tight.prompt("1", text)
    assert prompt.num_comments < 50 and prompt.num_cut_tokens == 0
    assert len(prompt.ids) + len(tight.response(9)) <= whole + 150
    short = PromptBuilder(tokenizer, max_tokens=whole - 40, max_comments=50, seed=0)
    prompt = short.prompt("1", text)
    assert prompt.num_comments == 0 and prompt.num_cut_tokens > 0
    assert len(prompt.ids) + len(short.response(9)) == whole - 40
    assert short.tokenizer.decode(prompt.ids).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert (prompt.ids == short.pad_id).sum() == 1
    with pytest.raises(TrainerError, match="leave no room"):
        PromptBuilder(tokenizer, max_tokens=128, max_comments=0, seed=0)


def test_comments_of_after_the_sampling_date_do_not_leak(store: Store) -> None:
    record = comments(json.loads(store.texts[0]), 2)
    record["评论"]["1"]["评论时间"] = "2031-01-01 00:00:00"
    assert list(visible_record(json.dumps(record))["评论"]) == ["0"]


def test_tokenizer_is_a_function_of_the_text_and_keeps_digits_single(store: Store, tokenizer: Any) -> None:
    again = train_tokenizer([*list(store.texts)[:80], *INSTRUCTION_TEXTS], TINY.vocab)
    added = {"<|graph_start|>", "<|graph_pad|>", "<|graph_end|>"}
    assert again.get_vocab() == {t: i for t, i in tokenizer.get_vocab().items() if t not in added}
    text = "点赞 12345 次，𠮷 e\u0301 \n\t end"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode("x2024")]
    assert tokens[-4:] == ["2", "0", "2", "4"]


def reference_states(netgpt: NetGPT, samples: Samples, i: int) -> torch.Tensor:
    """One sample alone by the whole Qwen2-VL with transformers' own attention, embeddings set by hand."""
    ids = torch.from_numpy(samples.prompts[i])
    base = netgpt.base
    x = base.model.language_model.embed_tokens.weight[ids].clone()
    at = samples.builder.graph_position
    x[at - 1], x[at + 1] = netgpt.markers_2H[0], netgpt.markers_2H[1]
    x[at] = netgpt.projector(torch.from_numpy(samples.scale.apply(samples.embeddings[samples.ids[i]])))
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
    h_LH = netgpt.hidden_states(batch, samples.graph_states(batch))
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
            log_probs, sample = netgpt.response_log_probs(batch, samples.graph_states(batch))
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
    log_probs, _ = netgpt.response_log_probs(batch, samples.graph_states(batch))
    assert len(log_probs) == sum(len(samples.builder.response(n)) for n in (3, 5))
    log_probs.sum().backward()
    for name, parameter in netgpt.named_parameters():
        trained = name == "markers_2H" or name.startswith("projector")
        assert (parameter.grad is not None and bool(parameter.grad.any())) == trained, name
    netgpt.zero_grad()
    netgpt.train_only([])


def test_an_id_beyond_the_embedding_matrix_is_never_looked_up(netgpt: NetGPT, samples: Samples) -> None:
    rows = netgpt.text.embed_tokens.weight.shape[0]
    original = (netgpt.start_id, netgpt.pad_id, netgpt.end_id)
    before = score_samples(netgpt, samples, budget=2000)
    moved = dict(zip(original, (rows + 10, rows + 11, rows + 12), strict=True))
    prompts = samples.prompts
    try:
        netgpt.start_id, netgpt.pad_id, netgpt.end_id = moved.values()
        samples.prompts = [np.array([moved.get(int(i), int(i)) for i in p]) for p in prompts]
        np.testing.assert_array_equal(score_samples(netgpt, samples, budget=2000), before)
    finally:
        netgpt.start_id, netgpt.pad_id, netgpt.end_id = original
        samples.prompts = prompts


def test_warm_up_lowers_the_loss_and_repeats(tokenizer: Any, samples: Samples) -> None:
    def run(steps: int) -> tuple[float, dict[str, torch.Tensor]]:
        config = TinyConfig(hidden=32, layers=6, heads=2, vocab=600, warmup_steps=steps, warmup_lr=3e-3)
        model = make_model(config, tokenizer, 0)
        loss = warm_up(model, samples.prompts, config, seed=0, budget=2000)
        return loss, model.state_dict()

    (first, _), (last, a), (again, b) = run(1), run(40), run(40)
    assert last < 0.8 * first and last == again
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_collate_counts_positions_from_zero_in_every_sample() -> None:
    batch = collate([np.array([5, 6]), np.array([7])], [np.array([8]), NOTHING], [3, 4], CPU)
    assert batch.input_ids_L.tolist() == [5, 6, 8, 7]
    assert batch.position_ids_L.tolist() == [0, 1, 2, 0]
    assert batch.last_prompt_token_n.tolist() == [1, 3]
    assert batch.lengths == [3, 1] and batch.rows_n.tolist() == [3, 4]
