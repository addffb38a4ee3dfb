"""A NetGPT put together from a run's folder: base, prompts, and a finished stage's weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer

from graphstore import Store
from trainers.errors import TrainerError
from trainers.language.model import NetGPT, load_base
from trainers.language.prompt import INSTRUCTION_TEXTS, PromptBuilder
from trainers.language.tiny import make_model, save_base, train_tokenizer, warm_up
from trainers.language.train import WEIGHTS, load_weights
from trainers.progress import Progress
from trainers.schedule import seed_torch
from trainers.settings import Settings
from trainers.splits import make_splits


def base_path(run: Path, settings: Settings) -> str:
    """Where the base model is: the run's own tiny one, or what the settings name."""
    return str(run / "base" / "model") if settings.language.model == "tiny" else settings.language.model


def prompt_builder(run: Path, settings: Settings) -> PromptBuilder:
    language, path = settings.language, base_path(run, settings)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TrainerError(f"language.model: found no tokenizer in {path!r} ({reason})") from error
    return PromptBuilder(
        tokenizer, max_tokens=language.max_tokens, max_comments=language.max_comments, seed=settings.seed
    )


def make_base(store: Store, settings: Settings, folder: Path) -> dict[str, float | None]:
    """Make the tiny base under `folder`/model: tokenizer, weights, and the warm-up if one is set."""
    progress = Progress(folder)
    train = make_splits(store, settings.graph.val_share).train.tolist()
    tiny = settings.language.tiny
    # The instruction as often as the records, so that its words are tokens too
    texts = (text for v in train for text in (store.texts[v], *INSTRUCTION_TEXTS))
    tokenizer = train_tokenizer(texts, tiny.vocab)
    model = make_model(tiny, tokenizer, settings.seed)
    loss: float | None = None
    if tiny.warmup_steps:
        language = settings.language
        builder = PromptBuilder(
            tokenizer, max_tokens=language.max_tokens, max_comments=language.max_comments, seed=settings.seed
        )
        samples = [builder.wording(store.ids[v], store.texts[v]) for v in train]
        loss = warm_up(
            model,
            samples,
            tiny,
            seed=settings.seed,
            budget=language.token_budget,
            progress=lambda done, total: progress.update(done, total, "step"),
        )
    save_base(folder / "model", model, tokenizer)
    return {"warmup_loss": loss, "parameters": float(sum(p.numel() for p in model.parameters()))}


def make_netgpt(
    run: Path, settings: Settings, builder: PromptBuilder, graph_dim: int, device: torch.device
) -> NetGPT:
    """The model with fresh trainable parts, a function of the seed."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    base = load_base(base_path(run, settings), dtype)
    seed_torch(settings.seed, "netgpt")
    netgpt = NetGPT(base, graph_dim, (builder.start_id, builder.pad_id, builder.end_id))
    return netgpt.to(device)


def load_netgpt(
    run: Path, settings: Settings, builder: PromptBuilder, graph_dim: int, stage: str, device: torch.device
) -> NetGPT:
    """The model as a finished stage left it, in evaluation mode."""
    netgpt = make_netgpt(run, settings, builder, graph_dim, device)
    load_weights(netgpt, run / stage / WEIGHTS, stage, settings.stage3.layers)
    return netgpt.eval()
