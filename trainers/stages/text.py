"""The stages that make text ready: the tiny base model, where a run has one, and the token cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from netgpt.graphstore import Graph, Store
from netgpt.graphstore.documents import documents
from netgpt.graphstore.files import files_digest
from netgpt.trainers.errors import require
from netgpt.trainers.stages.base import Json, Made, MappedStage, Origins, Stage, StageJob, Tools
from netgpt.trainers.stages.graph import common_inputs

if TYPE_CHECKING:
    from netgpt.trainers.language.text.tokens import TokenBlock
    from netgpt.trainers.settings import Settings

SHORTEST_PROMPT = 100
"""Tokens; no prompt with a record is shorter."""


def has_choices(settings: Settings) -> bool:
    """Whether the task's answers are a list that a response could say."""
    from netgpt.trainers.tasks.names import make_task

    return bool(make_task(settings.task).choices)


def require_choices(stage: Stage, settings: Settings) -> None:
    """TrainerError where the task's answers are no list that a response could say."""
    expected = (
        "one whose answers are a list, as those of a regression with task.said; its other stages run: "
        "stages=[stage1,embeddings,base,tokens,stage3,evaluation]"
    )
    require(has_choices(settings), stage.name, f"the task {settings.task.name}", expected)


def require_numbers(stage: Stage, settings: Settings) -> None:
    """TrainerError where the task lets no number be written."""
    from netgpt.trainers.tasks.names import make_task

    found, expected = f"the task {settings.task.name}", "a regression with task.digits from 0"
    require(make_task(settings.task).writes, f"{stage.name}.objective", found, expected)


def asked(settings: Settings) -> Json:
    """What of the task gets into prompts and responses: for tasks of nodes all of its settings."""
    from netgpt.trainers.tasks.names import make_task

    return make_task(settings.task).prompted.config.to_dict()


def limits(settings: Settings) -> Json:
    """What of a record gets into a prompt."""
    language = settings.language
    history = {"history": asdict(language.history)} if language.history.relation else {}
    return {"max_tokens": language.max_tokens, "max_comments": language.max_comments, **history}


def base_digest(run: Origins) -> str:
    """Digest of the base model: the run's own tiny one, or the files or the hub name that settings name."""
    model = run.settings.language.model
    if model == "tiny":
        return run.digest("base")

    def of_files() -> str:
        path = Path(model)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        return files_digest(path, files) if files else model

    return run.remembered("base", of_files)


class Base(Stage):
    name, title, command = "base", "tiny base model", "tokenize"
    leaves = ("model",)
    placing = "one"
    uses_gpu = False

    def applies(self, settings: Settings) -> bool:
        return settings.language.model == "tiny"

    def inputs(self, run: Origins) -> Json:
        settings = run.settings
        return {
            **common_inputs(self, run),
            "tiny": asdict(settings.language.tiny),
            "token_budget": settings.language.token_budget,
            **limits(settings),
            "task": asked(settings),
            "without": settings.ablation.fields,
        }

    def run(self, job: StageJob, tools: Tools) -> Made:
        """Tokenizer, weights, and the warm-up if one is set, where what is asked is of nodes."""
        from netgpt.trainers.language.model.tiny import (
            WARMUP_PACKS,
            make_model,
            save_base,
            train_tokenizer,
            warm_up,
        )
        from netgpt.trainers.language.text.fields import document_of, hidden_fields
        from netgpt.trainers.language.text.prompt import PromptBuilder
        from netgpt.trainers.language.text.template import Words, instruction_texts
        from netgpt.trainers.recommend.cases import item_document
        from netgpt.trainers.recommend.data import Interactions

        store, settings, task = tools.store, job.settings, tools.task
        language, tiny, words = settings.language, settings.language.tiny, Words.of(task.prompted)
        if task.ranks:
            data = Interactions.of(store)
            document, train = item_document(data), np.arange(data.num_items)
        else:
            examples = task.examples(store)
            document = document_of(store, task.config.label, language.history)
            train = examples.train
        # The instruction as often as the records, so that its words are tokens too
        texts = (
            text
            for _, record in documents(store, document, train.tolist())
            for text in (record, *instruction_texts(words))
        )
        tokenizer = train_tokenizer(texts, tiny.vocab)
        model = make_model(tiny, tokenizer, settings.seed)
        loss: float | None = None
        if tiny.warmup_steps and task.choices:  # it learns what responses look like
            builder = PromptBuilder(
                tokenizer,
                document,
                words,
                max_tokens=language.max_tokens,
                max_comments=language.max_comments,
                seed=settings.seed,
            )
            # Sorted: how often each answer is, and not whose
            choices = np.sort(np.array([task.choice_of(t) for t in examples.truth[train].tolist()]))
            # No more records than the steps can see
            most = tiny.warmup_steps * WARMUP_PACKS * language.token_budget // SHORTEST_PROMPT
            order = np.random.default_rng((settings.seed, 0)).permutation(len(train))[:most]
            chosen = train[np.sort(order)].tolist()
            ids = store.node_names(document.node_type)
            records = builder.tokenize(documents(store, document, chosen))
            hidden = hidden_fields(document, settings.ablation.fields, f"ablations.{settings.without}.fields")
            loss = warm_up(
                model,
                [builder.assemble(r, hidden) for r in records],
                [builder.any_response(ids[v], choices) for v in chosen],
                tiny,
                seed=settings.seed,
                budget=language.token_budget,
                progress=tools.progress("step"),
            )
        save_base(job.folder / "model", model, tokenizer)
        parameters = float(sum(p.numel() for p in model.parameters()))
        return Made(self.leaves, {"warmup_loss": loss, "parameters": parameters})


class Tokenize(MappedStage["tuple[int, int]", "TokenBlock"]):
    """Parts are the first and the last record, not included, of a block."""

    name, title, command = "tokens", "token cache", "tokenize"
    help = "The token cache alone (and the tiny base model, if it is one)."
    with_ = ("base",)
    reads = ("base",)
    leaves = ("zarr.json",)
    kind = "tokens"
    unit = "block"

    def check_graph(self, settings: Settings, graph: Graph) -> None:
        from netgpt.trainers.language.text.fields import document_of

        document_of(graph, settings.task.label, settings.language.history)

    def inputs(self, run: Origins) -> Json:
        from netgpt.trainers.language.text import VERSION

        words = asdict(run.settings.task.words)
        made_of = {**limits(run.settings), "words": words, "base": base_digest(run), "version": VERSION}
        return {**common_inputs(self, run), **made_of}

    def parts(self, store: Store) -> list[tuple[int, int]]:
        from netgpt.trainers.language.text.tokens import blocks_of

        return blocks_of(store)

    def maker(self, job: StageJob, store: Store) -> Callable[[tuple[int, int]], TokenBlock]:
        from netgpt.trainers.language.assembly import base_path, make_builder
        from netgpt.trainers.language.text.tokens import tokenize_block
        from netgpt.trainers.tasks.names import make_task

        task = make_task(job.settings.task)
        builder = make_builder(base_path(job.run, job.settings), store, job.settings, task)
        return lambda part: tokenize_block(store, builder, *part)

    def write(self, job: StageJob, store: Store, made: Iterator[TokenBlock]) -> Made:
        from netgpt.trainers.language.assembly import base_path, make_builder
        from netgpt.trainers.language.text.tokens import ARRAYS, cache_attributes, write_tokens
        from netgpt.trainers.tasks.names import make_task

        task = make_task(job.settings.task)
        builder = make_builder(base_path(job.run, job.settings), store, job.settings, task)
        counts = write_tokens(job.folder, made, cache_attributes(store, builder))
        return Made(["zarr.json", *ARRAYS], counts)
