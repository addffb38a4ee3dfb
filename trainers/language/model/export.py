"""A trained NetGPT as a folder that `transformers` loads, and the small part that is NetGPT's alone.

FOLDER/model.safetensors …    the language model with its trained layers, and the tokenizer
FOLDER/netgpt.safetensors     projector, markers and head; the scale of h_v in its header
FOLDER/netgpt.json            what surrounds a record in a prompt, as tokens, and what answers are
FOLDER/scorer.py              scores with transformers alone: `Scorer(FOLDER).predict(rows)`

A model that reads no graph is a plain folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from netgpt.graphstore.files import atomic_dir, write_json
from netgpt.trainers import weights
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model import scorer
from netgpt.trainers.language.model.backbone import load_base
from netgpt.trainers.language.model.netgpt import NetGPT
from netgpt.trainers.language.model.scorer import PART, PROMPT
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.tasks.base import Task
from netgpt.trainers.tasks.heads import BoundedHead, ScaledHead

_OWN = ("markers_2H", "projector.", "head.")


def export(
    out: Path,
    netgpt: NetGPT,
    tokenizer: PreTrainedTokenizerBase,
    card: str = "",
    *,
    mean: torch.Tensor,
    length: float,
    dtype: torch.dtype | None = None,
    said: dict[str, Any] | None = None,
    graph_head: nn.Module | None = None,
    beside: Sequence[Path] = (),
) -> None:
    """Write the folder, whole or not at all. card: its README.md, if any. mean [D] and length: of h_v, as
    training scaled it. dtype: of the language model's weights. said: as `prompt_parts` makes it; without it
    there is no scorer. graph_head: the graph model's, where scores start from its own. beside: files of the
    base model's that are copied.

    The markers also become the rows of their tokens in the embedding matrix, which grows where the tokens
    have no rows. Where that matrix is the output layer too, it is the same matrix there.
    """
    if out.exists():
        raise TrainerError(f"{out}: already there; remove it or choose another --out")
    base, text = netgpt.base, netgpt.text
    if len(tokenizer) > text.embed_tokens.weight.shape[0]:
        base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        rows = base.get_input_embeddings().weight
        for row, marker in zip((netgpt.start_id, netgpt.end_id), netgpt.markers_2H, strict=True):
            rows[row] = marker.to(rows.dtype)
    with atomic_dir(out) as temporary:
        _write_model(temporary, base, tokenizer, card, dtype)
        own: dict[str, torch.Tensor] = {
            name: t for name, t in netgpt.state_dict().items() if name.startswith(_OWN)
        }
        meta: dict[str, Any] = {
            "graph_ids": [netgpt.start_id, netgpt.pad_id, netgpt.end_id],
            "graph_dim": int(mean.shape[0]),
            "length": length,
            "start": netgpt.start,
        }
        if graph_head is not None:
            own |= {f"graph_head.{name}": t for name, t in graph_head.state_dict().items()}
            meta["graph_head"] = _kind(graph_head)
        weights.save(temporary / PART, {**own, "mean": mean}, meta)
        if said is not None:
            write_json(temporary / PROMPT, said)
            shutil.copyfile(scorer.__file__, temporary / "scorer.py")
        for file in beside:
            shutil.copyfile(file, temporary / file.name)


def prompt_parts(builder: PromptBuilder, task: Task, left_out: Sequence[str] = ()) -> dict[str, Any]:
    """What `Scorer` makes prompts and answers by. left_out: fields that every prompt is without."""
    return {
        **builder.parts(),
        "left_out": list(left_out),
        "task": {"name": task.config.name, "choices": list(task.choices)},
    }


def _kind(head: nn.Module) -> dict[str, Any]:
    if isinstance(head, BoundedHead):
        return {"kind": "bounded", "most": head.most}
    return {"kind": "scaled" if isinstance(head, ScaledHead) else "plain"}


def _write_model(
    folder: Path, base: Any, tokenizer: PreTrainedTokenizerBase, card: str, dtype: torch.dtype | None
) -> None:
    base.to(dtype or base.dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if card:
        (folder / "README.md").write_text(card, encoding="utf-8")


def export_plain(
    out: Path,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    card: str = "",
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model without graph and head as a folder, whole or not at all. dtype: of its weights."""
    if out.exists():
        raise TrainerError(f"{out}: already there; remove it or choose another --out")
    with atomic_dir(out) as temporary:
        _write_model(temporary, base, tokenizer, card, dtype)


def load_exported(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[NetGPT, torch.Tensor, float]:
    """The exported NetGPT in evaluation mode, and the mean [D] and length of h_v.

    Where its `start` is `graph`, its scores ask for those of stage 1 in a batch.
    """
    own, meta = weights.load(folder / PART)
    own = {name: t for name, t in own.items() if not name.startswith("graph_head.")}
    mean = own.pop("mean")
    first, pad, last = meta["graph_ids"]
    base, width = load_base(str(folder), dtype), len(own["head.weight"])
    netgpt = NetGPT(base, meta["graph_dim"], (first, pad, last), meta["start"], width)
    loaded = netgpt.load_state_dict(own, strict=False)
    lacking = [name for name in loaded.missing_keys if name.startswith(_OWN)]
    if lacking or loaded.unexpected_keys:
        raise TrainerError(f"{folder / PART}: found no {json.dumps(lacking or loaded.unexpected_keys)}")
    return netgpt.eval(), mean, float(meta["length"])
