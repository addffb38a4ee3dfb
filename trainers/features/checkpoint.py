"""Where an encoder's files are, and the name that its vectors are known by."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netgpt.graphstore.files import files_digest
from netgpt.trainers.errors import TrainerError

_ENDINGS = (".safetensors", ".bin", ".json", ".txt", ".model")
"""Endings of files that change what an encoder gives: weights, configuration, tokenizer."""
_DIGITS = 16


def resolve(model: str, key: str) -> Path:
    """The folder of a model: the one given, or a hub id's in the local cache, loaded where it is not there.

    key: the setting that names the model, for messages. Raises TrainerError.
    """
    if Path(model).is_dir():
        return Path(model)
    if Path(model).is_absolute() or model.startswith("."):
        raise TrainerError(f"{key}: found no folder {model}, expected a model's folder or hub id")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=[f"*{ending}" for ending in _ENDINGS]))
    except Exception as error:  # of the network, the hub, or the name: each has a class of its own
        reason = str(error).split("\n")[0]
        raise TrainerError(f"{key}: found no folder and no hub model {model!r} ({reason})") from error


def model_config(folder: Path, key: str) -> Any:
    """The configuration of a transformers model. TrainerError where the folder has none."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder)
    except Exception as error:  # of a file, or of a value in it: each has a class of its own
        reason = str(error).split("\n")[0]
        raise TrainerError(f"{key}: {folder}: not a model of transformers ({reason})") from error


def load_encoder(folder: Path, key: str, what: str, dtype: torch.dtype, pooling: str) -> Any:
    """A model of transformers with all its weights. TrainerError where the folder has none, or lacks some:
    they would be random. A pooler that nobody asks for may be."""
    from transformers import AutoModel

    try:
        model, said = AutoModel.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise TrainerError(f"{key}: {folder}: not {what} ({reason})") from error
    missing = sorted(name for name in said["missing_keys"] if pooling == "pooler" or "pooler" not in name)
    if missing:
        raise TrainerError(
            f"{key}: {folder}: found no weights of {missing[0]} (and {len(missing) - 1} more), expected all"
        )
    return model


def encoder_digest(folder: Path) -> str:
    """Digest of all files that change what an encoder gives."""
    return files_digest(folder, (p for p in folder.iterdir() if p.suffix in _ENDINGS and p.is_file()))


def tensor_digest(x: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes and type."""
    data = x.contiguous().view(torch.uint8).numpy() if x.numel() else b""
    return hashlib.sha256(str(x.dtype).encode() + bytes(data)).hexdigest()


def encoder_name(kind: str, dim: int, settings: str, precision: str, digest: str) -> str:
    """What tells an encoder's vectors from others', wherever its files lie: architecture, width, settings,
    precision, and the beginning of the digest of its weights."""
    exact = "" if precision == "float32" else f"/{precision}"
    return f"{kind}-{dim}/{settings}{exact}@{digest[:_DIGITS]}"


def as_float16(x: np.ndarray, name: str) -> np.ndarray:
    """TrainerError for vectors that are not finite numbers in float16."""
    with np.errstate(over="ignore"):
        half = x.astype(np.float16)
    if not np.isfinite(half).all():
        largest = np.abs(x[~np.isfinite(half)]).max()
        raise TrainerError(f"{name}: found a vector that float16 cannot hold (largest {largest:g})")
    return half
