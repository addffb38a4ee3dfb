"""Models and samples put together from a run's folder: base, token cache, and a finished stage's weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig

from netgpt.graphstore import Store
from netgpt.trainers.graph.exact import cache_digests, open_cache
from netgpt.trainers.graph.train import MODEL
from netgpt.trainers.language.model.backbone import check_tokenizer, load_base, load_tokenizer
from netgpt.trainers.language.model.lora import LoraLM
from netgpt.trainers.language.model.netgpt import NetGPT, PackedLM
from netgpt.trainers.language.model.tiny import WARMUP_PACKS, make_model, save_base, train_tokenizer, warm_up
from netgpt.trainers.language.pixels import PixelFolder
from netgpt.trainers.language.samples import GraphStates, Samples
from netgpt.trainers.language.text.fields import ablated_fields
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.template import instruction_texts
from netgpt.trainers.language.text.tokens import (
    Block,
    Tokens,
    blocks_of,
    cache_attributes,
    open_tokens,
    tokenize_block,
    write_tokens,
)
from netgpt.trainers.language.train import WEIGHTS, load_weights
from netgpt.trainers.progress import Progress
from netgpt.trainers.schedule import seed_torch
from netgpt.trainers.settings import Settings
from netgpt.trainers.splits import make_splits

LORA = "lora"
SHORTEST_PROMPT = 100
"""Tokens; no prompt with a record is shorter."""


def base_path(run: Path, settings: Settings) -> str:
    """Where the base model is: the run's own tiny one, or what the settings name."""
    return str(run / "base" / "model") if settings.language.model == "tiny" else settings.language.model


def prompt_builder(run: Path, settings: Settings, *, with_graph: bool = True) -> PromptBuilder:
    language = settings.language
    return PromptBuilder(
        load_tokenizer(base_path(run, settings)),
        max_tokens=language.max_tokens,
        max_comments=language.max_comments,
        seed=settings.seed,
        with_graph=with_graph,
    )


def make_base(store: Store, settings: Settings, folder: Path) -> dict[str, float | None]:
    """Make the tiny base under `folder`/model: tokenizer, weights, and the warm-up if one is set."""
    progress = Progress(folder)
    train = make_splits(store, settings.graph.val_share).train
    tiny = settings.language.tiny
    # The instruction as often as the records, so that its words are tokens too
    texts = (text for v in train.tolist() for text in (store.texts[v], *instruction_texts()))
    tokenizer = train_tokenizer(texts, tiny.vocab)
    model = make_model(tiny, tokenizer, settings.seed)
    loss: float | None = None
    if tiny.warmup_steps:
        language = settings.language
        builder = PromptBuilder(
            tokenizer, max_tokens=language.max_tokens, max_comments=language.max_comments, seed=settings.seed
        )
        # Sorted: how often each level is, and not whose
        levels = np.sort(np.asarray(store.labels)[train])
        # No more records than the steps can see
        most = tiny.warmup_steps * WARMUP_PACKS * language.token_budget // SHORTEST_PROMPT
        order = np.random.default_rng((settings.seed, 0)).permutation(len(train))[:most]
        chosen = train[np.sort(order)].tolist()
        records = builder.tokenize((store.ids[v], store.texts[v]) for v in chosen)
        hidden = ablated_fields(settings.graph.ablation)
        loss = warm_up(
            model,
            [builder.assemble(r, hidden) for r in records],
            [builder.any_response(store.ids[v], levels) for v in chosen],
            tiny,
            seed=settings.seed,
            budget=language.token_budget,
            progress=lambda done, total: progress.update(done, total, "step"),
        )
    save_base(folder / "model", model, tokenizer)
    return {"warmup_loss": loss, "parameters": float(sum(p.numel() for p in model.parameters()))}


def make_tokens(run: Path, store: Store, settings: Settings, folder: Path) -> dict[str, int]:
    """Make the token cache in this process, without Ray."""
    builder, progress = prompt_builder(run, settings), Progress(folder)
    blocks = blocks_of(store)

    def tokenized() -> Iterator[Block]:
        for done, (first, last) in enumerate(blocks):
            yield tokenize_block(store, builder, first, last)
            progress.update(done + 1, len(blocks), "block")

    return write_tokens(folder, tokenized(), cache_attributes(store, builder))


def run_tokens(run: Path, store: Store, builder: PromptBuilder) -> Tokens:
    """The run's token cache, mapped. TrainerError where it is of something else."""
    return open_tokens(run / "tokens", cache_attributes(store, builder))


def graph_states(run: Path, store: Store, settings: Settings) -> GraphStates:
    """The run's embedding cache, mapped, with the scale of the train states."""
    train = make_splits(store, settings.graph.val_share).train
    h, scores = open_cache(run / "embeddings", cache_digests(run / "stage1" / MODEL, store))
    return GraphStates.of(h, train, scores if settings.stage3.start == "graph" else None)


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def make_netgpt(
    run: Path, settings: Settings, builder: PromptBuilder, graph_dim: int, device: torch.device
) -> NetGPT:
    """The model with fresh trainable parts, a function of the seed."""
    base = load_base(base_path(run, settings), _dtype(device))
    check_tokenizer(base, builder.tokenizer, builder.num_known)
    seed_torch(settings.seed, "netgpt")
    graph_ids = (builder.start_id, builder.pad_id, builder.end_id)
    return NetGPT(base, graph_dim, graph_ids, settings.stage3.start).to(device)


def make_lora(run: Path, settings: Settings, builder: PromptBuilder, device: torch.device) -> LoraLM:
    """The text baseline with fresh adapters, a function of the seed."""
    base = load_base(base_path(run, settings), _dtype(device))
    check_tokenizer(base, builder.tokenizer, builder.num_known)
    seed_torch(settings.seed, LORA)
    return LoraLM(base, settings.lora).to(device)


def trained_parameters(model: PackedLM, stage: str, settings: Settings) -> dict[str, nn.Parameter]:
    """Exactly what a stage trains, by name."""
    if isinstance(model, LoraLM):
        return model.stage_parameters()
    assert isinstance(model, NetGPT)
    return model.stage_parameters(stage, settings.stage3.layers)


def load_model(
    run: Path, settings: Settings, builder: PromptBuilder, stage: str, graph_dim: int, device: torch.device
) -> PackedLM:
    """The model as a finished stage left it, in evaluation mode. graph_dim: width of h_v; the baseline has
    no use for it."""
    model: PackedLM
    if stage == LORA:
        model = make_lora(run, settings, builder, device)
    else:
        model = make_netgpt(run, settings, builder, graph_dim, device)
    load_weights(model, run / stage / WEIGHTS, trained_parameters(model, stage, settings))
    return model.eval()


def make_samples(
    run: Path,
    store: Store,
    settings: Settings,
    builder: PromptBuilder,
    ids: np.ndarray,
    graph: GraphStates | None,
    device: torch.device,
) -> Samples:
    """Samples of some states of the run's store; under an ablation without its fields."""
    samples = Samples(
        ids,
        run_tokens(run, store, builder),
        builder,
        device,
        graph,
        names=store.ids,
        pixels=pixel_folder(run, settings, builder),
    )
    return samples.without(ablated_fields(settings.graph.ablation))


def pixel_folder(run: Path, settings: Settings, builder: PromptBuilder) -> PixelFolder | None:
    """The clips of a run, if it has any and is not the ablation without them."""
    if not settings.language.pixels or settings.graph.ablation == "V":
        return None
    config = AutoConfig.from_pretrained(base_path(run, settings))
    return PixelFolder(Path(settings.language.pixels), config, builder.tokenizer)
