"""The language model that everything is built on: loaded whole or refused, frozen, with packed attention.

A Qwen2-VL, or a causal language model of text alone, from a directory or the hub. Weights are read from
safetensors only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2VLForConditionalGeneration,
)

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model import attention

MULTIMODAL = "qwen2_vl"
TEXT_FAMILIES = ("qwen2", "llama", "mistral")
_EXPECTED = f"`tiny`, a directory or a hub id of a model of type {MULTIMODAL}, {', '.join(TEXT_FAMILIES)}"


def _refuse(model: str, reason: object) -> TrainerError:
    return TrainerError(
        f"language.model: found {model!r} ({' '.join(str(reason).split())[:200]}), expected {_EXPECTED}"
    )


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """TrainerError where there is none, or one that is not of the fast kind."""
    if not Path(model).exists() and Path(model).is_absolute():
        raise _refuse(model, "no such folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as error:
        raise _refuse(model, f"no tokenizer: {error}") from error
    if not tokenizer.is_fast:
        raise _refuse(model, "a tokenizer without tokenizer.json")
    return tokenizer


def load_base(model: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model with packed attention, frozen. TrainerError where files or weights are missing, or where
    it is of a family whose attention was not tried."""
    attention.register()
    try:
        config = AutoConfig.from_pretrained(model)
        kind = config.model_type
        if kind != MULTIMODAL and kind not in TEXT_FAMILIES:
            raise ValueError(f"type {kind}")
        options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True}
        if kind == MULTIMODAL:
            options["attn_implementation"] = {"text_config": attention.NAME, "vision_config": "sdpa"}
            loaded: Any = Qwen2VLForConditionalGeneration.from_pretrained(model, **options)
        else:
            options["attn_implementation"] = attention.NAME
            loaded = AutoModelForCausalLM.from_pretrained(model, **options)
        base, loading = loaded
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise _refuse(model, error) from error
    # transformers would go on with random values in their place
    if lacking := sorted(loading["missing_keys"]):
        raise _refuse(model, f"no weights for {len(lacking)} tensors such as {lacking[0]}")
    frozen: PreTrainedModel = base.requires_grad_(False)
    return frozen


def is_multimodal(config: PreTrainedConfig) -> bool:
    return bool(config.model_type == MULTIMODAL)


def check_tokenizer(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_known: int) -> None:
    """TrainerError where the tokenizer cannot be the model's: ids beyond its embedding rows, or special
    tokens elsewhere than its configuration has them.

    num_known: entries of the tokenizer that the model has to have rows for.
    """
    embeddings: Any = base.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    if num_known > rows:
        raise TrainerError(
            f"language.model: found a tokenizer of {num_known} entries, expected at most the model's "
            f"{rows} embedding rows; they are not of one model"
        )
    config: Any = base.config
    wanted = {}
    if is_multimodal(config):
        wanted = {
            "<|image_pad|>": config.image_token_id,
            "<|video_pad|>": config.video_token_id,
            "<|vision_start|>": config.vision_start_token_id,
        }
    for token, expected in wanted.items():
        token_id = tokenizer.convert_tokens_to_ids(token)
        if token_id != expected:
            raise TrainerError(
                f"language.model: found {token} as token {token_id}, expected {expected} as in the model's "
                "configuration; tokenizer and model are not of one model"
            )
    ends = config.get_text_config().eos_token_id
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and end not in tokenizer.added_tokens_decoder:
            raise TrainerError(
                f"language.model: found no special token of id {end} in the tokenizer, expected the end of "
                "text of the model's configuration; tokenizer and model are not of one model"
            )
