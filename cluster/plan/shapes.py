"""Sizes of models, counted on the real module classes without their weights (torch's meta device)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from netgpt.cluster.errors import ClusterError
from netgpt.trainers.config import TinyConfig
from netgpt.trainers.language.model.backbone import MULTIMODAL, TEXT_FAMILIES
from netgpt.trainers.language.model.netgpt import NetGPT
from netgpt.trainers.language.model.tiny import random_qwen2_vl

SHAPES = {
    "tiny": {"hidden": 128, "layers": 6, "heads": 4, "kv_heads": 2, "intermediate": 344},
    "2b": {"hidden": 1536, "layers": 28, "heads": 12, "kv_heads": 2, "intermediate": 8960},
    "7b": {"hidden": 3584, "layers": 28, "heads": 28, "kv_heads": 4, "intermediate": 18944},
}
"""Decoders of Qwen2-VL-2B and 7B, and a small one for CPUs."""
PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": ("2b", 151_936, True),
    "Qwen/Qwen2-VL-7B-Instruct": ("7b", 152_064, False),
}
"""Hub id: decoder, rows of the embedding matrix, whether the output layer is that matrix (config.json of the
models). Their vision tower is transformers' default."""


@dataclass(frozen=True, kw_only=True)
class DecoderShape:
    """A decoder's dimensions."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int
    """Rows of the embedding matrix."""
    head_dim: int = 0
    """Width of an attention head; 0: hidden / heads."""

    @property
    def query_width(self) -> int:
        return self.heads * self.rope_width

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.rope_width

    @property
    def rope_width(self) -> int:
        return self.head_dim or self.hidden // self.heads

    @property
    def layer_products(self) -> int:
        """Weights of a layer that every token is multiplied with."""
        attention = 2 * self.hidden * (self.query_width + self.key_width)
        return attention + 3 * self.hidden * self.intermediate


@dataclass(frozen=True, kw_only=True)
class LanguageShape:
    """NetGPT over a base model: numbers of parameters, counted on the module itself."""

    name: str
    decoder: DecoderShape
    parameters: int
    """All of NetGPT: base, vision tower included, projector, markers, head."""
    vision: int
    embedding: int
    output: int
    """Parameters of the output layer; 0 where it is the embedding matrix."""
    layer: int
    """Parameters of one decoder layer."""
    own: int
    """Projector, markers and head."""
    trained: dict[str, int]
    """By stage."""
    file_bytes: int
    """Bytes of the base model's weights, a parameter as it is stored."""

    def frozen(self, stage: str) -> int:
        return self.parameters - self.trained[stage]

    @property
    def base(self) -> int:
        return self.parameters - self.own


def decoder_of(config: Any) -> DecoderShape:
    """The dimensions that a transformers configuration says."""
    text = config.get_text_config()
    return DecoderShape(
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        intermediate=text.intermediate_size,
        vocab=text.vocab_size,
        head_dim=getattr(text, "head_dim", None) or 0,
    )


def language_shape(
    model: str, tiny: TinyConfig, *, graph_dim: int, parts: Mapping[str, Sequence[str]]
) -> LanguageShape:
    """The shape of `language.model`: `tiny`, a directory, a published hub id, or one in the local hub cache.

      parts: what each stage trains, as `PackedLM.parts` names it. Nothing is downloaded. ClusterError where
    the model is not known here.
    """
    base, item_bytes = _base(model, tiny)
    return _shape_of(model, base, item_bytes, graph_dim=graph_dim, parts=parts)


def _shape_of(
    name: str, base: Any, item_bytes: int, *, graph_dim: int, parts: Mapping[str, Sequence[str]]
) -> LanguageShape:
    """The shape over a base model on the meta device."""
    with torch.device("meta"):
        netgpt = NetGPT(base, graph_dim, (0, 1, 2))
    embedding = base.get_input_embeddings().weight
    output = base.get_output_embeddings().weight
    parameters = sum(p.numel() for p in netgpt.parameters())
    base_parameters = sum(p.numel() for p in base.parameters())
    vision = sum(p.numel() for p in base.model.visual.parameters()) if netgpt.multimodal else 0
    return LanguageShape(
        name=name,
        decoder=decoder_of(base.config),
        parameters=parameters,
        vision=vision,
        embedding=embedding.numel(),
        output=0 if output is embedding else output.numel(),
        layer=sum(p.numel() for p in netgpt.text.layers[-1].parameters()),
        own=parameters - base_parameters,
        trained={s: sum(p.numel() for p in netgpt.parts(names).values()) for s, names in parts.items()},
        file_bytes=base_parameters * item_bytes,
    )


def _base(model: str, tiny: TinyConfig) -> tuple[Any, int]:
    """The base model without weights, and bytes of a stored parameter."""
    if model == "tiny":
        vocab = -(-(tiny.vocab + 8) // 64) * 64  # spare rows, as `make_model` has them
        made = random_qwen2_vl(
            vocab=vocab,
            hidden=tiny.hidden,
            layers=tiny.layers,
            heads=tiny.heads,
            kv_heads=tiny.heads // 2,
            intermediate=3 * tiny.hidden,
            device=torch.device("meta"),
        )
        return made, 4
    if model in PUBLISHED and not Path(model).is_dir():
        return _published(model), 2
    try:
        # From a directory or the local cache alone: a plan needs no network
        config = AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        known = ", ".join(PUBLISHED)
        raise ClusterError(
            f"language.model: found {model!r}, not on this machine, expected `tiny`, a directory or "
            f"one of {known}"
        ) from error
    if config.model_type != MULTIMODAL and config.model_type not in TEXT_FAMILIES:
        raise ClusterError(
            f"language.model: found {model!r} of type {config.model_type}, expected {MULTIMODAL}, "
            f"{', '.join(TEXT_FAMILIES)}"
        )
    with torch.device("meta"):
        text_config: Any = (
            Qwen2VLForConditionalGeneration(config)
            if config.model_type == MULTIMODAL
            else AutoModelForCausalLM.from_config(config)
        )
    stored = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return text_config, stored.itemsize


def _published(model: str) -> Any:
    name, vocab, tied = PUBLISHED[model]
    shape = SHAPES[name]
    text = {
        "vocab_size": vocab,
        "hidden_size": shape["hidden"],
        "intermediate_size": shape["intermediate"],
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"],
        "pad_token_id": None,
    }
    config = Qwen2VLConfig(
        text_config=text, vision_config={"hidden_size": shape["hidden"]}, tie_word_embeddings=tied
    )
    with torch.device("meta"):
        return Qwen2VLForConditionalGeneration(config)
