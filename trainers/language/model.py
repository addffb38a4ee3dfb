"""NetGPT: a Qwen2-VL that reads one graph token, and the parts of it that each stage trains.

Shape suffixes: L tokens of a pack, n samples, H the language model's width, D the graph's width.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from trainers.errors import TrainerError
from trainers.language import attention
from trainers.language.packing import PackedBatch


class NetGPT(nn.Module):
    """A language model with `<|graph_pad|>` replaced by projector(h_v), and a rating head.

    The two marker tokens have parameters of their own: the embedding matrix stays frozen, and is
    never asked for an id that it may not have.
    """

    def __init__(
        self, base: Qwen2VLForConditionalGeneration, graph_dim: int, graph_ids: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.base = base
        self.start_id, self.pad_id, self.end_id = graph_ids
        text = base.model.language_model
        hidden = text.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(graph_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        mean = text.embed_tokens.weight.detach().float().mean(0)
        self.markers_2H = nn.Parameter(mean + 0.02 * torch.randn(2, hidden))
        self.head = nn.Linear(hidden, 1)

    @property
    def text(self) -> Any:
        return self.base.model.language_model

    def start_head_at(self, level: float) -> None:
        """Start the head as a constant: zero weight, this bias."""
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, level)

    def stage_parameters(self, stage: str, num_layers: int = 0) -> dict[str, nn.Parameter]:
        """Exactly what a stage trains, by name: stage2 the projector and the markers; stage3 those, the
        head and the last `num_layers` decoder layers."""
        modules: list[tuple[str, nn.Module]] = [("projector", self.projector)]
        if stage == "stage3":
            layers = self.text.layers
            if not 1 <= num_layers <= len(layers):
                raise TrainerError(f"stage3.layers: found {num_layers}, expected 1 to {len(layers)}")
            modules.append(("head", self.head))
            first = len(layers) - num_layers
            prefix = "base.model.language_model.layers"
            modules += [(f"{prefix}.{i}", layers[i]) for i in range(first, len(layers))]
        found = {f"{name}.{key}": p for name, module in modules for key, p in module.named_parameters()}
        return {"markers_2H": self.markers_2H, **found}

    def train_only(self, names: Iterable[str]) -> None:
        """Freeze everything else."""
        wanted = set(names)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in wanted)

    def hidden_states(self, batch: PackedBatch, graph_nD: Tensor) -> Tensor:
        """States after the final norm of every token: [L, H]."""
        ids_L = batch.input_ids_L
        is_graph_L = (ids_L == self.start_id) | (ids_L == self.pad_id) | (ids_L == self.end_id)
        x_LH = self.text.embed_tokens(ids_L.masked_fill(is_graph_L, 0))
        dtype = x_LH.dtype
        graph_nH = self.projector(graph_nD.to(self.markers_2H.dtype))
        x_LH = torch.where((ids_L == self.start_id)[:, None], self.markers_2H[0].to(dtype), x_LH)
        x_LH = torch.where((ids_L == self.end_id)[:, None], self.markers_2H[1].to(dtype), x_LH)
        x_LH = x_LH.index_put((torch.nonzero(ids_L == self.pad_id)[:, 0],), graph_nH.to(dtype))
        # Row 0: positions of the text, which packed attention of other kinds reads; rows 1 to 3: M-RoPE
        positions = batch.position_ids_L.expand(4, 1, -1)
        out = self.text(
            inputs_embeds=x_LH[None],
            position_ids=positions,
            attention_mask=None,
            use_cache=False,
            pack_lengths=batch.lengths,
        )
        return out.last_hidden_state[0]

    def scores(self, batch: PackedBatch, graph_nD: Tensor) -> Tensor:
        """Level score of each sample, unclipped: [n] float32."""
        h_nH = self.hidden_states(batch, graph_nD)[batch.last_prompt_token_n]
        # float32: bfloat16 scores between 4 and 8 come in steps of 0.031
        return F.linear(h_nH.float(), self.head.weight.float(), self.head.bias.float()).squeeze(-1)

    def response_log_probs(self, batch: PackedBatch, graph_nD: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each response token, and the sample that it is of: [r] float32, [r] int64.

        Logits are computed at the response's positions alone.
        """
        h_LH = self.hidden_states(batch, graph_nD)
        lengths_n = torch.tensor(batch.lengths, device=h_LH.device)
        sample_L = torch.repeat_interleave(torch.arange(len(lengths_n), device=h_LH.device), lengths_n)
        target_r = torch.nonzero(batch.position_ids_L >= batch.prompt_n[sample_L])[:, 0]
        logits_rV = self.base.lm_head(h_LH[target_r - 1]).float()
        ids_r = batch.input_ids_L[target_r]
        return -F.cross_entropy(logits_rV, ids_r, reduction="none"), sample_L[target_r]


def load_base(model: str, dtype: torch.dtype) -> Qwen2VLForConditionalGeneration:
    """A Qwen2-VL from a directory or the hub, with packed attention, frozen."""
    attention.register()
    try:
        base = Qwen2VLForConditionalGeneration.from_pretrained(
            model, dtype=dtype, attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"}
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainerError(
            f"language.model: found {model!r}, expected `tiny`, a Qwen2-VL directory or a hub id ({reason})"
        ) from error
    return base.requires_grad_(False)
