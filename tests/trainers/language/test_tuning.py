"""Two answers behind one prompt, prefixes and parts, against the same computed apart, and transformers' own
attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from netgpt.trainers.config import TuneConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model import attention
from netgpt.trainers.language.model.backbone import load_base
from netgpt.trainers.language.model.export import export_plain
from netgpt.trainers.language.model.lora import PrefixLM, merged, tuned_model, tuned_parts
from netgpt.trainers.language.model.netgpt import PackedLM
from netgpt.trainers.language.model.tiny import make_model
from netgpt.trainers.language.packing import collate
from tests.trainers.language.conftest import CPU, TINY


def base_of(kind: str, tokenizer: Any) -> Any:
    torch.manual_seed(1)
    if kind == "qwen2_vl":
        base: Any = make_model(TINY, tokenizer, 0)
        base.set_attn_implementation({"text_config": attention.NAME})
        return base
    attention.register()
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "vocab_size": 600}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2}
    base = LlamaForCausalLM(LlamaConfig(**shape, **heads))
    base.set_attn_implementation(attention.NAME)
    return base


def model_of(kind: str, method: str, tokenizer: Any) -> PackedLM:
    model = tuned_model(base_of(kind, tokenizer), TuneConfig(method=method, prefix=5, rank=4)).eval()
    for name, p in model.named_parameters():
        if "lora_B" in name or name == "prefix":  # else a fresh one says nothing
            torch.nn.init.normal_(p, std=0.5 if name == "prefix" else 0.05)
    return model


def case(num: int = 5) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
    random = np.random.default_rng(3)
    prompts = [random.integers(5, 590, n) for n in random.integers(3, 30, num)]
    answers = [[random.integers(5, 590, n) for n in random.integers(1, 7, 2)] for _ in prompts]
    return prompts, answers


def apart(model: PackedLM) -> torch.Tensor:
    """Both answers behind a prompt of their own each: [n, 2]."""
    prompts, answers = case()
    batch = collate([p for p in prompts for _ in range(2)], [a for both in answers for a in both], CPU)
    log_probs, of = model.response_log_probs(batch)
    return torch.zeros(2 * len(prompts)).index_add(0, of, log_probs).view(-1, 2)


def together(model: PackedLM) -> torch.Tensor:
    prompts, answers = case()
    firsts = [len(both[0]) for both in answers]
    batch = collate(prompts, [np.concatenate(both) for both in answers], CPU, first_answers=firsts)
    assert sum(batch.lengths) == sum(map(len, prompts)) + sum(len(a) for both in answers for a in both)
    log_probs, of = model.response_log_probs(batch)
    return torch.zeros(2 * len(prompts)).index_add(0, of, log_probs).view(-1, 2)


@pytest.mark.parametrize("method", ["lora", "freeze", "full", "prefix"])
@pytest.mark.parametrize("kind", ["qwen2_vl", "llama"])
def test_two_answers_behind_one_prompt_are_those_of_two(kind: str, method: str, tokenizer: Any) -> None:
    """Log-probabilities, and gradients of a sum that tells the answers apart."""
    model = model_of(kind, method, tokenizer)
    layers = TuneConfig(method=method, layers=2)
    trained = model.parts(tuned_parts(layers))
    model.train_only(trained)
    found = []
    for made in (apart, together):
        values = made(model)
        (values * torch.tensor([1.0, -0.5])).sum().backward()
        found.append((values.detach(), [p.grad.clone() for p in trained.values() if p.grad is not None]))
        model.zero_grad()
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    assert len(found[0][1]) == len(trained) and any(g.abs().max() > 1e-4 for g in found[0][1])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, float(one.abs().max())), rtol=1e-4)


def test_an_answer_sees_nothing_of_the_other(tokenizer: Any) -> None:
    model = model_of("llama", "freeze", tokenizer)
    prompts, answers = case(1)
    values = []
    for second in (answers[0][1], answers[0][1][::-1].copy(), np.array([7, 8, 9])):
        whole = np.concatenate([answers[0][0], second])
        batch = collate(prompts, [whole], CPU, first_answers=[len(answers[0][0])])
        log_probs, of = model.response_log_probs(batch)
        values.append(log_probs[of == 0])
    torch.testing.assert_close(values[0], values[1], atol=0, rtol=0)
    torch.testing.assert_close(values[0], values[2], atol=0, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["qwen2_vl", "llama"])
def test_a_prefix_is_what_a_cache_begins_with(kind: str, tokenizer: Any) -> None:
    """In packs as transformers' own attention has it behind the same keys and values."""
    model = model_of(kind, "prefix", tokenizer)
    assert isinstance(model, PrefixLM) and model.num_prefix == 5
    prompts, _ = case(3)
    nothing = [np.empty(0, np.int64)] * 3
    packed = model.hidden_states(collate(prompts, nothing, CPU)).split([len(p) for p in prompts])
    model.use_attention("sdpa")
    for prompt, found in zip(prompts, packed, strict=True):
        ids = torch.from_numpy(prompt)[None]
        places = torch.arange(len(prompt)).expand(3, 1, -1)
        mask = torch.ones(1, 5 + len(prompt), dtype=torch.long)
        cache = model.new_cache(1)
        expected = model.decode(model.text.embed_tokens(ids), places, mask, cache)[0]
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        without = PackedLM.new_cache(model, 1)
        plain = model.decode(model.text.embed_tokens(ids), places, mask[:, 5:], without)[0]
        assert (plain - expected).abs().max() > 1e-2


def test_methods_train_what_they_say(tokenizer: Any) -> None:
    base = base_of("llama", tokenizer)
    model = PackedLM(base)
    decoder = set(model.parts(("decoder",)))
    assert decoder == {
        n for n, _ in model.named_parameters() if n.startswith("base.model.") and "embed_tokens" not in n
    }
    last = set(model.parts(tuned_parts(TuneConfig(method="freeze", layers=2))))
    assert last == {n for n in decoder if n.startswith(("base.model.layers.1.", "base.model.layers.2."))}
    prefix = model_of("llama", "prefix", tokenizer)
    assert {n: tuple(p.shape) for n, p in prefix.parts(("prefix",)).items()} == {"prefix": (3, 2, 2, 5, 8)}
    adapters = model_of("llama", "lora", tokenizer).parts(("adapters",))
    assert len(adapters) == 3 * 7 * 2 and all(".lora_" in name for name in adapters)


@pytest.mark.parametrize("method", ["lora", "freeze", "full"])
@pytest.mark.parametrize("kind", ["qwen2_vl", "llama"])
def test_a_plain_model_says_the_same(kind: str, method: str, tokenizer: Any, tmp_path: Path) -> None:
    """Read again from its folder, by transformers alone."""
    model = model_of(kind, method, tokenizer)
    with torch.no_grad():
        for p in model.parts(tuned_parts(TuneConfig(method=method, layers=2))).values():
            p += 0.02 * torch.randn_like(p)
        expected = apart(model)
        export_plain(tmp_path / "out", merged(model), tokenizer, "# card\n")
        again = PackedLM(load_base(str(tmp_path / "out"), torch.float32)).eval()
        torch.testing.assert_close(apart(again), expected, rtol=1e-4, atol=1e-4)
    assert not any("lora" in name or "base_layer" in name for name, _ in again.named_parameters())
    assert (tmp_path / "out" / "README.md").read_text() == "# card\n"


def test_a_prefix_is_no_plain_model(tokenizer: Any) -> None:
    with pytest.raises(TrainerError, match="a plain model has no prefix"):
        merged(model_of("llama", "prefix", tokenizer))
