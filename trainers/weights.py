"""Tensors and a JSON value in one safetensors file, written whole or not at all. Never pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from netgpt.graphstore.files import atomic_file
from netgpt.trainers.errors import TrainerError

VERSION = 1


def save(path: Path, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
    """Write tensors and `meta` atomically; ties between tensors are not kept."""
    # One header entry: safetensors keeps several in no fixed order, and equal content must be equal bytes
    header = {"netgpt": json.dumps({"version": VERSION, "meta": meta})}
    values = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(values, str(temporary), metadata=header)


def load_of(path: Path, store: str, what: str) -> dict[str, torch.Tensor]:
    """Tensors that were saved with a store's digest as `store`. what: what they are, for messages.
    TrainerError where they are of another store."""
    tensors, meta = load(path)
    if meta.get("store") != store:
        found = str(meta.get("store"))[:12]
        raise TrainerError(f"{path}: found {what} of the store {found}, expected {store[:12]}")
    return tensors


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors on the CPU and the JSON value. TrainerError where the file is not one of `save`."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["netgpt"])
            if header["version"] != VERSION:
                raise TrainerError(f"{path}: found version {header['version']}, expected {VERSION}")
            return {name: file.get_tensor(name) for name in file.keys()}, header["meta"]  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        if isinstance(error, TrainerError):
            raise
        raise TrainerError(f"{path}: not a readable file of weights ({error})") from error
