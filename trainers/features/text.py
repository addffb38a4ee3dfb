"""Texts as vectors by a transformers encoder.

Legend: n texts, B of a batch, L tokens of its longest, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.checkpoint import (
    as_float16,
    encoder_digest,
    encoder_name,
    load_encoder,
    model_config,
    resolve,
)
from netgpt.trainers.features.config import FeaturesConfig

_BATCH_TOKENS = 8192
_SHARE = 0.5
"""Share of its part of a GPU's memory, and of what is free of it, that a batch may take."""


def text_identity(config: FeaturesConfig) -> tuple[str, int]:
    """(name, width) of the encoder that settings name, without its weights in memory."""
    folder = resolve(config.text, "features.text")
    encoder = model_config(folder, "features.text")
    # Of its position table RoBERTa keeps the rows up to its padding id for itself
    positions = getattr(encoder, "max_position_embeddings", config.max_tokens)
    if encoder.model_type in ("roberta", "xlm-roberta", "camembert"):
        positions -= encoder.pad_token_id + 1
    if config.max_tokens > positions:
        raise TrainerError(
            f"features.max_tokens: found {config.max_tokens}, expected at most {positions}, which "
            f"{config.text} has"
        )
    settings, dim = f"{config.pooling}/{config.max_tokens}", int(encoder.hidden_size)
    return encoder_name(encoder.model_type, dim, settings, config.precision, encoder_digest(folder)), dim


class TextModel:
    """An encoder on one device. `name` tells vectors of other weights, pooling or lengths apart.

    The vector of a text does not depend on the texts beside it, but for rounding (1e-6).
    """

    def __init__(self, config: FeaturesConfig, device: str = "cpu") -> None:
        """TrainerError where the model cannot be had or is no encoder."""
        from transformers import AutoTokenizer

        self.name, self.dim = text_identity(config)
        folder, dtype = resolve(config.text, "features.text"), getattr(torch, config.precision)
        self.pooling, self.max_tokens, self.device = config.pooling, config.max_tokens, torch.device(device)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).split("\n")[0]
            raise TrainerError(f"features.text: {config.text}: not a text encoder ({reason})") from error
        self._model: Any = load_encoder(folder, "features.text", "a text encoder", dtype, config.pooling)
        self._model = self._model.to(self.device).eval()
        if self.pooling == "pooler" and getattr(self._model, "pooler", None) is None:
            raise TrainerError(f"features.pooling: found pooler, but {config.text} has none; mean or cls")
        self.batch_tokens = config.batch_tokens or self._fitting_tokens(_SHARE * config.gpus)

    def _fitting_tokens(self, share: float) -> int:
        """Tokens of a batch that a share of a GPU's memory holds: a layer's activations, and its scores."""
        if self.device.type != "cuda":
            return max(_BATCH_TOKENS, self.max_tokens)
        config = self._model.config
        wide = int(getattr(config, "intermediate_size", 4 * self.dim))
        heads = int(getattr(config, "num_attention_heads", 16))
        a_token = 4 * (6 * self.dim + 2 * wide + 2 * heads * self.max_tokens)
        free, total = torch.cuda.mem_get_info(self.device)
        return max(self.max_tokens, int(min(share * total, _SHARE * free) / a_token))

    def encode(self, texts: list[str]) -> np.ndarray:
        """[n] strings → [n, D] float16: as graphstore's `TextEncoder`."""
        return as_float16(self.vectors(texts), self.name)

    @torch.inference_mode()
    def vectors(self, texts: list[str]) -> np.ndarray:
        """[n] strings → [n, D] float32. Texts of like lengths share a batch."""
        x = np.zeros((len(texts), self.dim), np.float32)
        if not texts:
            return x
        ids = self._tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        order = sorted(range(len(texts)), key=lambda i: -len(ids[i]))
        first = 0
        while first < len(order):
            length = len(ids[order[first]])
            batch = order[first : first + max(1, self.batch_tokens // max(1, length))]
            try:
                x[batch] = self._batch([ids[i] for i in batch])
            except torch.cuda.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                torch.cuda.empty_cache()
                self.batch_tokens = max(length, self.batch_tokens // 2)
                continue
            first += len(batch)
        return x

    def _batch(self, ids: list[list[int]]) -> np.ndarray:
        padded = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self.device)
        output = self._model(**padded)
        if self.pooling == "pooler":
            pooled = output.pooler_output
        elif self.pooling == "cls":
            pooled = output.last_hidden_state[:, 0]
        else:
            mask_BL1 = padded["attention_mask"][:, :, None].float()
            pooled = (output.last_hidden_state.float() * mask_BL1).sum(1) / mask_BL1.sum(1)
        return np.asarray(pooled.float().cpu().numpy())
