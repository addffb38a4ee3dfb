"""Models and samples put together from a run's folder: base, tokens, embeddings, finished weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from netgpt.graphstore import Document, Store
from netgpt.trainers import weights
from netgpt.trainers.config import LoraConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.exact import cache_digests, open_cache
from netgpt.trainers.graph.files import VECTORS
from netgpt.trainers.graph.train import MODEL
from netgpt.trainers.language.model.backbone import check_tokenizer, load_base, load_tokenizer
from netgpt.trainers.language.model.lora import tuned_model
from netgpt.trainers.language.model.netgpt import NetGPT, PackedLM
from netgpt.trainers.language.pixels import PixelFolder
from netgpt.trainers.language.samples import GraphStates, Samples
from netgpt.trainers.language.text.fields import document_of, hidden_fields
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.template import Words
from netgpt.trainers.language.text.tokens import Tokens, cache_attributes, open_tokens
from netgpt.trainers.schedule import seed_torch
from netgpt.trainers.settings import Settings
from netgpt.trainers.tasks.base import Examples, Task

WEIGHTS = "netgpt.safetensors"


def base_path(run: Path, settings: Settings) -> str:
    """Where the base model is: the run's own tiny one, or what the settings name."""
    return str(run / "base" / "model") if settings.language.model == "tiny" else settings.language.model


def make_builder(
    tokenizer_of: str,
    store: Store,
    settings: Settings,
    task: Task,
    *,
    with_graph: bool = True,
    document: Document | None = None,
) -> PromptBuilder:
    """Prompts of a document, by default that of the target, with the tokenizer of a folder or hub id."""
    language = settings.language
    return PromptBuilder(
        load_tokenizer(tokenizer_of),
        document_of(store, task.config.label, language.history) if document is None else document,
        Words.of(task),
        max_tokens=language.max_tokens,
        max_comments=language.max_comments,
        seed=settings.seed,
        with_graph=with_graph,
    )


@dataclass(frozen=True)
class Assembly:
    """What language stages of one run need, each made when it is first asked for.

    with_graph: whether prompts have the graph's part; the text baselines do not.
    """

    run: Path
    store: Store
    settings: Settings
    task: Task
    device: torch.device
    with_graph: bool = True

    @cached_property
    def examples(self) -> Examples:
        return self.task.examples(self.store)

    @cached_property
    def base_path(self) -> str:
        return base_path(self.run, self.settings)

    @cached_property
    def builder(self) -> PromptBuilder:
        return make_builder(self.base_path, self.store, self.settings, self.task, with_graph=self.with_graph)

    def graph_states(self, scores: bool) -> GraphStates:
        """The run's embedding cache, mapped, with the scale of the train examples. scores: stage 1's too."""
        digests = cache_digests(self.run / "stage1" / MODEL, self.store)
        h, of_stage1 = open_cache(self.run / "embeddings" / VECTORS, digests)
        return GraphStates.of(h, self.examples.train, of_stage1 if scores else None)

    @cached_property
    def tokens(self) -> Tokens:
        """The run's token cache, mapped. TrainerError where it is of something else."""
        return open_tokens(self.run / "tokens", cache_attributes(self.store, self.builder))

    @property
    def names(self) -> Sequence[str]:
        """What messages call each sample by."""
        return self.store.node_names(self.builder.document.node_type)

    @cached_property
    def hidden(self) -> np.ndarray:
        """[fields] bool: fields that every prompt is without, by the run's ablation."""
        settings = self.settings
        key = f"ablations.{settings.without}.fields"
        return hidden_fields(self.builder.document, settings.ablation.fields, key)

    @cached_property
    def pixels(self) -> PixelFolder | None:
        """The clips of the run, if it has any and is not an ablation without them."""
        if not self.settings.language.pixels or self.settings.ablation.pixels:
            return None
        config = AutoConfig.from_pretrained(self.base_path)
        return PixelFolder(Path(self.settings.language.pixels), config, self.builder.tokenizer)

    def samples(self, nodes: np.ndarray, graph: GraphStates | None) -> Samples:
        """Samples of some of the store's nodes; under an ablation without its fields."""
        samples = Samples(
            nodes,
            self.tokens,
            self.builder,
            self.device,
            graph,
            names=self.names,
            pixels=self.pixels,
        )
        return samples.without(self.hidden)

    def _base(self) -> PreTrainedModel:
        on_gpu = self.device.type == "cuda"
        base = load_base(self.base_path, torch.bfloat16 if on_gpu else torch.float32)
        check_tokenizer(base, self.builder.tokenizer, self.builder.num_known)
        return base

    def netgpt(self, graph_dim: int, start: str) -> NetGPT:
        """The model with fresh trainable parts, a function of the seed. graph_dim: width of h_v."""
        base = self._base()
        seed_torch(self.settings.seed, "netgpt")
        graph_ids = (self.builder.start_id, self.builder.pad_id, self.builder.end_id)
        return NetGPT(base, graph_dim, graph_ids, start, self.task.width).to(self.device)

    def tuned(self, config: LoraConfig) -> PackedLM:
        """The model without graph and head, with fresh trainable parts, a function of the seed."""
        base = self._base()
        seed_torch(self.settings.seed, config.section)
        return tuned_model(base, config).to(self.device)


def load_weights(model: PackedLM, path: Path, parts: Iterable[str]) -> None:
    """Put a finished stage's weights into the model. TrainerError unless they are exactly those parts'."""
    trained: dict[str, nn.Parameter] = model.parts(parts)
    tensors, _ = weights.load(path)
    if set(tensors) != set(trained):
        odd = sorted(set(tensors) ^ set(trained))[:3]
        raise TrainerError(f"{path}: found weights of another model ({odd}…), expected those of the stage")
    for name, p in trained.items():
        if tensors[name].shape != p.shape:
            raise TrainerError(
                f"{path}: found {name} of shape {tuple(tensors[name].shape)}, expected {tuple(p.shape)}"
            )
    model.load_state_dict(tensors, strict=False)
