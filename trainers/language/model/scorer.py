"""Scores of an exported NetGPT. This file lies in its folder; it needs torch, transformers and safetensors.

    from scorer import Scorer
    scorer = Scorer("FOLDER")
    scorer.predict([{"document": {"title": "…"}, "embedding": [0.1, …]}])

A row has the vector of its node by the run's graph model ([D], as `netgpt embeddings` writes it, and a
service with ?embedding=true), and what prompts say of it: `document`, its fields in order, or of a run whose
prompts are sentences `pieces`, a text for each field. Nothing is cut short: what is too long is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

PART, PROMPT = "netgpt.safetensors", "netgpt.json"


class Scorer:
    """An exported model, loaded once."""

    def __init__(self, folder: str | Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        """dtype: of the language model's weights. Projector and head are float32."""
        folder = Path(folder)
        config = AutoConfig.from_pretrained(folder)
        kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        model: Any = kind.from_pretrained(folder, dtype=dtype)
        model = model.to(device).eval()
        inner = model.model
        self.decoder = inner.language_model if hasattr(inner, "language_model") else inner
        self.device = torch.device(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        with safe_open(str(folder / PART), framework="pt") as file:
            self.meta: dict[str, Any] = json.loads(file.metadata()["netgpt"])["meta"]
            self.own = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
        self.said: dict[str, Any] = json.loads((folder / PROMPT).read_text(encoding="utf-8"))

    @torch.no_grad()
    def scores(self, rows: Sequence[Mapping[str, Any]]) -> list[float | list[float]]:
        """A score for each row, as the head gives it: a number, or one for each answer."""
        return [self._score(row) for row in rows]

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What the run's task makes of the scores: the answers of `netgpt predict`, but for the id."""
        return [self._answer(score) for score in self.scores(rows)]

    def prompt(self, row: Mapping[str, Any]) -> list[int]:
        """Tokens of a row's prompt. ValueError for a row without pieces or document, or one too long."""
        said = self.said
        if "pieces" in row:
            pieces = list(row["pieces"])
        elif said["form"] != "json":
            raise ValueError("row: found no pieces, expected a text for each field: prompts are sentences")
        elif not isinstance(row.get("document"), dict):
            raise ValueError("row: found no document, expected its fields")
        else:
            pieces = [
                f" {json.dumps(name, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False)}"
                for name, value in row["document"].items()
                if name not in said["left_out"]
            ]
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True  # what a record says is never read as special tokens
        try:
            encoded = [one.ids for one in backend.encode_batch(pieces, add_special_tokens=False)]
        finally:
            backend.encode_special_tokens = False
        ids = [*said["before"], *said["opening"]]
        for i, piece in enumerate(encoded):
            ids += [*(said["between"] if i else ()), *piece]
        ids += [*said["closing"], *said["after"]]
        if len(ids) > said["max_tokens"]:
            raise ValueError(f"row: found {len(ids)} tokens, expected at most {said['max_tokens']}")
        return ids

    @torch.no_grad()
    def prompt_embeds(self, row: Mapping[str, Any]) -> Tensor:
        """What the decoder reads of a row, for an engine that takes prompt embeddings: [L, H]."""
        ids = torch.tensor(self.prompt(row), device=self.device)
        first, pad, last = self.meta["graph_ids"]
        is_graph = (ids == first) | (ids == pad) | (ids == last)
        x = self.decoder.embed_tokens(ids.masked_fill(is_graph, 0))
        scaled = ((self._embedding(row).double() - self.own["mean"].double()) / self.meta["length"]).float()
        for token, vector in (
            (first, self.own["markers_2H"][0]),
            (last, self.own["markers_2H"][1]),
            (pad, self._projected(scaled)),
        ):
            x = torch.where((ids == token)[:, None], vector.to(x.dtype), x)
        return x  # type: ignore[no-any-return]

    @torch.no_grad()
    def score_of(self, state: Tensor, row: Mapping[str, Any]) -> float | list[float]:
        """The score of a prompt's last state [H], behind the decoder's last norm."""
        score = F.linear(state.to(self.device).float(), self.own["head.weight"], self.own["head.bias"])
        if self.meta["start"] == "graph":
            score = score + self._of_graph(self._embedding(row))
        return score.tolist() if len(score) > 1 else float(score)

    def _score(self, row: Mapping[str, Any]) -> float | list[float]:
        states = self.decoder(inputs_embeds=self.prompt_embeds(row)[None], use_cache=False)
        return self.score_of(states.last_hidden_state[0, -1], row)

    def _embedding(self, row: Mapping[str, Any]) -> Tensor:
        h = torch.tensor(row["embedding"], dtype=torch.float32, device=self.device)
        if h.shape != self.own["mean"].shape:
            raise ValueError(f"embedding: found {list(h.shape)}, expected {list(self.own['mean'].shape)}")
        return h

    def _projected(self, h: Tensor) -> Tensor:
        own = self.own
        inner = F.gelu(F.linear(h, own["projector.0.weight"].float(), own["projector.0.bias"].float()))
        return F.linear(inner, own["projector.2.weight"].float(), own["projector.2.bias"].float())

    def _of_graph(self, h: Tensor) -> Tensor:
        """The graph model's own score, which the head adds to."""
        made = F.linear(h, self.own["graph_head.weight"], self.own["graph_head.bias"])
        head = self.meta["graph_head"]
        if head["kind"] == "bounded":
            return torch.as_tensor(head["most"] * torch.sigmoid(made))
        if head["kind"] == "scaled":
            return self.own["graph_head.mean"] + self.own["graph_head.std"] * made
        return made

    def _answer(self, score: float | list[float]) -> dict[str, Any]:
        task = self.said["task"]
        chances = []
        if isinstance(score, list):
            chances = torch.tensor(score, dtype=torch.float64).softmax(0).tolist()
        if task["name"] == "classification":
            best = max(range(len(chances)), key=chances.__getitem__)
            named = zip(task["choices"], chances, strict=True)
            return {"class": task["choices"][best], "chances": {one: round(p, 6) for one, p in named}}
        if task["name"] != "rating":
            return {"number": round(float(score), 6)}  # type: ignore[arg-type]
        most = len(task["choices"]) - 1
        if chances:
            mean = sum(level * p for level, p in enumerate(chances))
            return {"level": max(range(most + 1), key=chances.__getitem__), "score": round(mean, 6)}
        clipped = min(max(float(score), 0.0), float(most))  # type: ignore[arg-type]
        return {"level": int(clipped + 0.5), "score": round(clipped, 6)}
