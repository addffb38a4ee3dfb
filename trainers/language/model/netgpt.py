"""Language models over packs: a plain one, and NetGPT, which reads a graph token and scores.

Shape suffixes: L tokens of a pack, n samples, H the language model's width, D the graph's width,
V vocabulary, r response tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model.backbone import is_multimodal
from netgpt.trainers.language.packing import PackedBatch

ADAPTER = ".lora_"
"""In the names of adapters' weights."""


class PackedLM(nn.Module):
    """A frozen language model that runs packs of samples, which do not see each other."""

    def __init__(self, base: PreTrainedModel) -> None:
        super().__init__()
        self.base: Any = base
        self.multimodal = is_multimodal(base.config)

    @property
    def text(self) -> Any:
        """The decoder: embeddings to states after the final norm."""
        return self.base.model.language_model if self.multimodal else self.base.model

    def train_only(self, names: Iterable[str]) -> None:
        """Freeze everything else. TrainerError for a name that is no parameter's."""
        wanted, known = set(names), {name for name, _ in self.named_parameters()}
        if wanted - known:
            raise TrainerError(f"trained parameters: found no {sorted(wanted - known)[0]} in the model")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in wanted)

    def parts(self, names: Iterable[str]) -> dict[str, nn.Parameter]:
        """Parameters of some parts of the model, by name: what a stage trains.

        all; decoder, all its layers and what is behind them; last:N, the last N layers; adapters; and those
        of the subclass. TrainerError for others.
        """
        chosen: dict[str, nn.Parameter] = {}
        for name in names:
            chosen |= self._part(name)
        return chosen

    def _part(self, name: str) -> dict[str, nn.Parameter]:
        if name == "all":
            return dict(self.named_parameters())
        if name == "adapters":
            return {key: p for key, p in self.named_parameters() if ADAPTER in key}
        if name == "decoder":
            decoder = "base.model.language_model" if self.multimodal else "base.model"
            return {
                f"{decoder}.{key}": p
                for key, p in self.text.named_parameters()
                if not key.startswith("embed_tokens")
            }
        kind, _, number = name.partition(":")
        if kind == "last" and number.isdigit():
            layers, num = self.text.layers, int(number)
            if not 1 <= num <= len(layers):
                raise TrainerError(f"trained layers: found the last {num}, expected 1 to {len(layers)}")
            first = len(layers) - num
            prefix = "base.model.language_model.layers" if self.multimodal else "base.model.layers"
            return {
                f"{prefix}.{i}.{key}": p
                for i in range(first, len(layers))
                for key, p in layers[i].named_parameters()
            }
        raise TrainerError(f"trained parts: found {name!r}, expected all, decoder, last:N or adapters")

    @property
    def prefix_keys(self) -> Tensor | None:
        """Keys and values before every sample's own [layers, 2, heads, P, d], where it has some."""
        return None

    @property
    def num_prefix(self) -> int:
        """P, of them."""
        return 0

    def new_cache(self, num: int) -> DynamicCache:
        """What `decode` of so many samples begins with."""
        return DynamicCache()

    def embed(self, batch: PackedBatch) -> Tensor:
        """What the decoder reads: [L, H]."""
        return self._with_pixels(self.text.embed_tokens(batch.input_ids_L), batch)

    def _with_pixels(self, x_LH: Tensor, batch: PackedBatch) -> Tensor:
        """The vision tower's states in the places of the video tokens."""
        if batch.pixels is None:
            return x_LH
        assert self.multimodal, "pixels for a model of text alone"
        videos = self.base.model.get_video_features(batch.pixels, batch.video_grid)
        states = torch.cat(list(videos.pooler_output)).to(x_LH.dtype)
        at = torch.nonzero(batch.input_ids_L == self.base.config.video_token_id)[:, 0]
        return x_LH.index_put((at,), states)

    def hidden_states(self, batch: PackedBatch) -> Tensor:
        """States after the final norm of every token: [L, H]."""
        positions_3L = batch.position_ids_3L
        # Row 0: positions of the text, which packed attention of other kinds reads; rows 1 to 3: M-RoPE
        positions = (
            torch.cat([batch.text_position_ids_L[None], positions_3L])[:, None]
            if self.multimodal
            else batch.text_position_ids_L[None]
        )
        more: dict[str, Any] = {}
        if self.prefix_keys is not None:
            more["pack_prefix"] = self.prefix_keys
        if batch.forks is not None:
            more["pack_forks"] = batch.forks
        out = self.text(
            inputs_embeds=self.embed(batch)[None],
            position_ids=positions + self.num_prefix,
            attention_mask=None,
            use_cache=False,
            pack_lengths=batch.lengths,
            pack_offsets=batch.offsets,
            **more,
        )
        return out.last_hidden_state[0]

    def use_attention(self, name: str) -> None:
        """Switch the decoder's attention: by pack, or transformers' own for `decode`."""
        self.base.set_attn_implementation({"text_config": name} if self.multimodal else name)

    def decode(self, x_BLH: Tensor, position_ids_3BL: Tensor, mask_BL: Tensor, cache: Any) -> Tensor:
        """States [B, L, H] of new tokens of B padded samples behind what `cache` holds, which grows by them.

        mask_BL: of all tokens so far, 0 for padding, behind a prefix. For transformers' own attention.
        """
        positions = position_ids_3BL if self.multimodal else position_ids_3BL[0]
        out = self.text(
            inputs_embeds=x_BLH,
            position_ids=positions + self.num_prefix,
            attention_mask=mask_BL,
            past_key_values=cache,
            use_cache=True,
        )
        return out.last_hidden_state

    def logits(self, h_rH: Tensor) -> Tensor:
        """[r, H] → [r, V] float32."""
        return self.base.lm_head(h_rH).float()

    def response_log_probs(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Log-probability of each response token, and the sample that it is of: [r] float32, [r] int64; where
        samples have two answers, twice its number, and one more for the second.

        Logits are computed at the response's positions alone.
        """
        h_LH = self.hidden_states(batch)
        lengths_n = torch.tensor(batch.lengths, device=h_LH.device)
        sample_L = torch.repeat_interleave(torch.arange(len(lengths_n), device=h_LH.device), lengths_n)
        target_r = torch.nonzero(batch.text_position_ids_L >= batch.prompt_n[sample_L])[:, 0]
        of_r, source_r = sample_L[target_r], target_r - 1
        if batch.forks is not None:
            # Where the second answer begins
            first_n = torch.tensor([first for _, first in batch.forks], device=h_LH.device)
            is_second_r = target_r >= (batch.begin_n + first_n)[of_r]
            begins_r = target_r == (batch.begin_n + first_n)[of_r]
            source_r = torch.where(begins_r, batch.last_prompt_token_n[of_r], source_r)
            of_r = 2 * of_r + is_second_r
        logits_rV = self.logits(h_LH[source_r])
        ids_r = batch.input_ids_L[target_r]
        return -F.cross_entropy(logits_rV, ids_r, reduction="none"), of_r


class NetGPT(PackedLM):
    """With `<|graph_pad|>` replaced by projector(h_v), and a head.

    The two marker tokens have parameters of their own: the embedding matrix stays frozen, and is
    never asked for an id that it may not have.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        graph_dim: int,
        graph_ids: tuple[int, int, int],
        start: str = "mean",
        width: int = 1,
    ) -> None:
        """start: as in the settings of stage 3; with `graph` a score is what is added to stage 1's. width: of
        the task's scores."""
        super().__init__(base)
        self.start = start
        self.start_id, self.pad_id, self.end_id = graph_ids
        text = self.text
        hidden = text.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(graph_dim, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        mean = text.embed_tokens.weight.detach().float().mean(0)
        self.markers_2H = nn.Parameter(mean + 0.02 * torch.randn(2, hidden))
        self.head = nn.Linear(hidden, width)

    def start_head_at(self, score: float | np.ndarray) -> None:
        """Start the head as a constant: zero weight, this bias."""
        nn.init.zeros_(self.head.weight)
        with torch.no_grad():
            self.head.bias.copy_(torch.as_tensor(score))

    def _part(self, name: str) -> dict[str, nn.Parameter]:
        """Also projector, markers, head."""
        if name == "markers":
            return {"markers_2H": self.markers_2H}
        if name in ("projector", "head"):
            module: nn.Module = getattr(self, name)
            return {f"{name}.{key}": p for key, p in module.named_parameters()}
        return super()._part(name)

    def embed(self, batch: PackedBatch) -> Tensor:
        ids_L = batch.input_ids_L
        assert batch.graph_nD is not None
        is_graph_L = (ids_L == self.start_id) | (ids_L == self.pad_id) | (ids_L == self.end_id)
        x_LH = self.text.embed_tokens(ids_L.masked_fill(is_graph_L, 0))
        dtype = x_LH.dtype
        graph_nH = self.projector(batch.graph_nD.to(next(self.projector.parameters()).dtype))
        x_LH = torch.where((ids_L == self.start_id)[:, None], self.markers_2H[0].to(dtype), x_LH)
        x_LH = torch.where((ids_L == self.end_id)[:, None], self.markers_2H[1].to(dtype), x_LH)
        x_LH = x_LH.index_put((torch.nonzero(ids_L == self.pad_id)[:, 0],), graph_nH.to(dtype))
        return self._with_pixels(x_LH, batch)

    def scores(self, batch: PackedBatch) -> Tensor:
        """Score of each sample, as the head gives it: [n] float32, or [n, width]."""
        h_nH = self.hidden_states(batch)[batch.last_prompt_token_n]
        # float32: bfloat16 scores between 4 and 8 come in steps of 0.031
        scores = F.linear(h_nH.float(), self.head.weight.float(), self.head.bias.float())
        if self.head.out_features == 1:
            scores = scores.squeeze(-1)
        if self.start == "mean":
            return scores
        if batch.start_n is None:
            raise TrainerError("scores: found no scores of stage 1, expected those that this model adds to")
        return batch.start_n + scores
