"""The offline base model: a small Qwen2-VL with random weights and a tokenizer of the run's own text.

It has the architecture, the tokens and the file layout of the real one, so that a run needs no
download and another base is a change of one setting. An optional warm-up is a plain language-model
pass over the training text: it gives stage 2 something to align to.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from netgpt.trainers.config import TinyConfig
from netgpt.trainers.language.model import attention
from netgpt.trainers.language.packing import collate, plan_packs
from netgpt.trainers.language.text.template import CHATML
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.schedule import learning_rate, seed_torch

SPECIAL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
WARMUP_PACKS = 2


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the texts; digits stay single, so every level is one token of a response."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(Regex(r"\s?[\p{L}\p{M}]+|\s?[^\s\p{L}\p{M}\p{N}]+|\p{N}|\s"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        chat_template=CHATML,
    )


def make_model(
    config: TinyConfig, tokenizer: PreTrainedTokenizerFast, seed: int
) -> Qwen2VLForConditionalGeneration:
    """A randomly initialised Qwen2-VL over this tokenizer, in float32."""
    seed_torch(seed, "tiny")
    return random_qwen2_vl(
        vocab=-(-(len(tokenizer) + 8) // 64) * 64,  # spare rows, as the real ones have
        hidden=config.hidden,
        layers=config.layers,
        heads=config.heads,
        kv_heads=config.heads // 2,
        intermediate=3 * config.hidden,
        # 0.02 is for widths of thousands: at this width attention would start out all but uniform
        initializer_range=config.hidden**-0.5,
        ids={name: int(tokenizer.convert_tokens_to_ids(name)) for name in SPECIAL_TOKENS},  # type: ignore[arg-type]
    )


def random_qwen2_vl(
    *,
    vocab: int,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    initializer_range: float = 0.02,
    ids: dict[str, int] | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL of this shape with random weights and a small vision tower.

    ids: numbers of SPECIAL_TOKENS; without them the first ones.
    """
    attention.register()
    half = hidden // heads // 2
    ids = ids or {name: i for i, name in enumerate(SPECIAL_TOKENS)}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "initializer_range": initializer_range,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 32768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                # temporal, height and width parts of half a head
                "mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": None,
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": hidden, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # made where and as it is used: 7B in float32 on a host would be 30 GB
    try:
        with device or torch.device("cpu"):
            return Qwen2VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def warm_up(
    model: Qwen2VLForConditionalGeneration,
    prompts: list[np.ndarray],
    responses: list[np.ndarray],
    config: TinyConfig,
    *,
    seed: int,
    budget: int,
    progress: OnProgress | None = None,
) -> float:
    """Train all weights to predict the next token of each prompt with its response; the last step's loss.

    The response counts as much as the whole: it is a few tokens of hundreds, and a text of its own kind.
    """
    model.set_attn_implementation({"text_config": attention.NAME})
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.warmup_lr, weight_decay=0.01)
    lengths = np.array([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)])
    step, epoch, loss_value = 0, 0, float("nan")
    while step < config.warmup_steps:
        for group in plan_packs(lengths, budget=budget, packs_per_step=WARMUP_PACKS, seed=(seed, epoch)):
            if step == config.warmup_steps:
                break
            packs = [p for p in group.packs if p]
            num_targets = sum(int(lengths[i]) - 1 for i in group.samples)
            num_response = max(1, sum(len(responses[i]) for i in group.samples))
            loss_value = 0.0
            for samples_of_pack in packs:
                batch = collate(
                    [prompts[i] for i in samples_of_pack],
                    [responses[i] for i in samples_of_pack],
                    torch.device("cpu"),
                )
                h_LH = model.model.language_model(
                    input_ids=batch.input_ids_L[None],
                    position_ids=batch.text_position_ids_L.expand(4, 1, -1),
                    use_cache=False,
                    pack_lengths=batch.lengths,
                ).last_hidden_state[0]
                target = torch.nonzero(batch.text_position_ids_L > 0)[:, 0]
                logits = model.lm_head(h_LH[target - 1])
                losses = F.cross_entropy(logits, batch.input_ids_L[target], reduction="none")
                sample_L = torch.repeat_interleave(
                    torch.arange(len(batch.lengths)), torch.tensor(batch.lengths)
                )
                answered = (batch.text_position_ids_L >= batch.prompt_n[sample_L])[target]
                loss = losses.sum() / num_targets + losses[answered].sum() / num_response
                loss.backward()
                loss_value += float(loss.detach())
            for param_group in optimizer.param_groups:
                param_group["lr"] = learning_rate(config.warmup_lr, step, config.warmup_steps)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            if progress:
                progress(step, config.warmup_steps)
        epoch += 1
    return loss_value


def save_base(
    folder: Path, model: Qwen2VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Model and tokenizer in the layout that `from_pretrained` reads."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
