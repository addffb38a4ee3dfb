"""A language stage's steps: packs of samples under ZeRO-2, whatever its objective is.

A `Steps` of the training loop. A step is a fixed number of packs over all ranks; an epoch's plan depends on
the seed alone, so it is the same at every world size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from netgpt.graphstore.files import Json
from netgpt.graphstore.mixing import seed_of
from netgpt.trainers import distributed, weights
from netgpt.trainers.curve import NO_GROUPS, Groups, group_sums
from netgpt.trainers.engine import ZeroEngine
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.assembly import WEIGHTS, Assembly
from netgpt.trainers.language.memory import named_out_of_memory
from netgpt.trainers.language.model.netgpt import PackedLM
from netgpt.trainers.language.objectives.names import objective_class
from netgpt.trainers.language.packing import PackedBatch, PackStep, plan_packs
from netgpt.trainers.language.samples import GraphStates, Samples
from netgpt.trainers.language.text.fields import free_fields
from netgpt.trainers.loop import Loop, LoopConfig, StepResult
from netgpt.trainers.progress import Progress
from netgpt.trainers.schedule import seed_torch
from netgpt.trainers.tasks.baselines import Measures

if TYPE_CHECKING:
    from netgpt.trainers.stages.language import LanguageStage

SHOWN_IDS = 5


class LanguageTrainer:
    """Trains one language stage: `loop.run`, then `finish`. Needs a torch process group, of one at least."""

    def __init__(
        self,
        stage: LanguageStage,
        assembly: Assembly,
        model: PackedLM,
        graph: GraphStates | None,
        folder: Path,
        *,
        key: str = "",
    ) -> None:
        """model: as the stage starts. key: of the stage's inputs; a checkpoint of other inputs is not one of
        this training."""
        settings = assembly.settings
        self.stage, self.folder, self.model = stage.name, folder, model
        self.language, self.config, self.seed = settings.language, stage.config(settings), settings.seed
        self.truth = assembly.examples.truth
        self.samples = assembly.samples(assembly.examples.train, graph)
        self.val = assembly.samples(assembly.examples.val, graph)
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        packs = self.language.packs_per_step
        if packs % self.world_size:
            raise TrainerError(
                f"language.packs_per_step: found {packs}, expected a multiple of the world size "
                f"({self.world_size})"
            )
        objective = objective_class(self.config.objective, f"{stage.name}.objective")
        self.objective = stage.objective(objective, model, assembly)
        self.trained = model.parts(stage.parts(settings))
        model.train_only(self.trained)
        if self.language.activation_checkpointing:
            model.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.progress = Progress(folder if self.rank == 0 else None)
        self._free = free_fields(assembly.builder.document)
        self._epoch_of_samples, self._samples = -1, self.samples
        with self._named_out_of_memory(0):
            self.engine = ZeroEngine(
                self.objective,
                self.trained,
                lr=self.config.lr,
                weight_decay=self.config.weight_decay,
                clip=self.config.clip,
                accumulation=packs // self.world_size,
                bfloat16=assembly.device.type == "cuda",
            )
        self._check_trained()
        how = LoopConfig(
            section=stage.name,
            lr=self.config.lr,
            chooses=assembly.task.chooses,
            select=self.config.select,
            checkpoint_steps=self.config.checkpoint_steps,
            log_steps=self.config.log_steps,
            counts_steps=True,
        )
        groups = self._groups(assembly) if self.objective.scores_steps else NO_GROUPS
        self.loop = Loop(self, self.engine, how, folder, key=key, groups=groups, progress=self.progress)

    def _groups(self, assembly: Assembly) -> Groups:
        """The first of the groups that metrics are told apart by."""
        by = assembly.settings.evaluation.by
        if not by:
            return NO_GROUPS
        return Groups(*assembly.store.category(assembly.examples.node_type, by[0]), by[0])

    def _check_trained(self) -> None:
        """That the model and the optimiser train exactly what the stage names; says what, with counts."""
        asks = {name for name, p in self.model.named_parameters() if p.requires_grad}
        holds, counts = self.engine.num_held, trained_counts(self.trained)
        if asks != set(self.trained) or holds != sum(counts.values()):
            odd = sorted(asks ^ set(self.trained))[:3]
            raise RuntimeError(f"{self.stage}: trains {holds} parameters and {odd}, expected {counts}")
        parts = ", ".join(f"{name} {num:,}" for name, num in counts.items())
        frozen = sum(p.numel() for p in self.model.parameters()) - holds
        self.progress.note(f"{self.stage} trains {holds:,} parameters ({parts}); {frozen:,} are frozen")

    @cached_property
    def _responses(self) -> list[Sequence[np.ndarray]]:
        """What follows each train sample's prompt: one sequence of tokens, or several."""
        return [self.objective.responses(t) for t in self.truth[self.samples.ids].tolist()]

    @cached_property
    def _response_tokens(self) -> np.ndarray:
        """Response tokens of each train sample, of all its sequences: [n] int64."""
        return np.array([sum(map(len, parts)) for parts in self._responses], np.int64)

    @cached_property
    def _num_sequences(self) -> np.ndarray:
        """Times that each train sample's prompt is computed: [n] int64."""
        if self.objective.shares_prompt:
            return np.ones(len(self._responses), np.int64)
        return np.array([len(parts) for parts in self._responses], np.int64)

    def samples_of(self, epoch: int) -> Samples:
        """The train samples as an epoch sees them."""
        if epoch != self._epoch_of_samples:
            seed = (self.seed, seed_of(self.stage, "text"), epoch)
            self._samples = self.samples.hiding(self._free, self.config.text_dropout, seed)
            self._epoch_of_samples = epoch
        return self._samples

    def _plan(self, epoch: int) -> list[PackStep]:
        samples = self.samples_of(epoch)
        lengths = samples.lengths * self._num_sequences + self._response_tokens
        samples.check_fit(self.language.token_budget, int((lengths - samples.lengths).max(initial=0)))
        return plan_packs(
            lengths,
            budget=self.language.token_budget,
            packs_per_step=self.language.packs_per_step,
            seed=(self.seed, seed_of(self.stage), epoch),
        )

    @cached_property
    def plans(self) -> list[list[PackStep]]:
        """The steps of each epoch; the last one ends early where the steps are limited."""
        plans: list[list[PackStep]] = []
        for epoch in range(self.config.epochs):
            plans.append(self._plan(epoch))
            left = self.config.max_steps - sum(len(steps) for steps in plans[:-1])
            if self.config.max_steps and len(plans[-1]) >= left:
                return [*plans[:-1], plans[-1][:left]]
        return plans

    def finish(self) -> Json:
        """Write the weights that are kept; the stage's history."""
        num_steps = sum(self.lengths())
        best = self.loop.best
        if not num_steps:
            best = {name: p.detach().float().cpu().clone() for name, p in self.trained.items()}
        if self.rank == 0:
            weights.save(self.folder / WEIGHTS, best, {"stage": self.stage})
        distributed.barrier()
        return {
            "history": self.loop.state.history,
            "curve": self.loop.curve.points,
            "trained_parameters": trained_counts(self.trained),
            "steps": num_steps,
        }

    def lengths(self) -> list[int]:
        return [len(steps) for steps in self.plans]

    def stream(self, epoch: int, first: int) -> Iterator[PackStep]:
        self.samples_of(epoch)
        yield from self.plans[epoch][first:]

    def train(self, step: PackStep, number: int) -> StepResult:
        """One optimiser step. TrainerError before the weights change if its loss is not finite."""
        self.model.train()
        device, groups = self.samples.device, self.loop.groups
        per_token = self.objective.per == "token"
        count = int(self._response_tokens[step.samples].sum()) if per_token else len(step.samples)
        watches = self.objective.watches
        width = len(watches) or 3 * len(groups.names)
        sums = torch.zeros(1 + width, dtype=torch.float64, device=device)
        packs = step.of_rank(self.rank, self.world_size)
        result = StepResult(float("nan"))
        for micro, pack in enumerate(packs):
            # By the pack and not by the rank, so that every world size drops the same
            seed_torch(self.seed, self.stage, number, micro * self.world_size + self.rank)
            last = micro + 1 == len(packs)
            # A filler runs a sample of the step with weight zero, so that every rank takes part
            batch, nodes = self._batch(pack or step.samples[:1])
            truth_n = torch.from_numpy(self.truth[nodes].astype(np.float32)).to(device)
            with self._named_out_of_memory(sum(batch.lengths)):
                loss, scores = self.engine.forward(batch, truth_n)
                loss = loss * float(bool(pack))
                sums[0] += loss.detach().double()
                if pack and watches:
                    sums[1:] += scores.double().sum(0)
                elif pack and groups.names:
                    errors = group_sums(
                        self.objective.task, groups, nodes, scores.cpu().numpy(), self.truth[nodes]
                    )
                    sums[1:] += torch.from_numpy(errors).to(device).flatten()
                self.engine.backward(loss, count, last=last)
            if last:
                total = distributed.sum_across_ranks(sums).cpu().numpy()
                mean = self._finite(float(total[0]) / count, step, number, "loss")
                if watches:
                    means = dict(zip(watches, (total[1:] / len(step.samples)).tolist(), strict=True))
                    result = StepResult(mean, watched=means)
                else:
                    result = StepResult(mean, total[1:].reshape(-1, 3))
                with self._named_out_of_memory(sum(batch.lengths)):
                    self.engine.step(lambda norm: self._finite(norm, step, number, "gradient norm"))
        return result

    def _batch(self, chosen: list[int]) -> tuple[PackedBatch, np.ndarray]:
        """A pack of train samples with all their sequences, and the node of each sequence; of samples whose
        responses follow one prompt a sequence each."""
        if self.objective.shares_prompt:
            answers = [self._responses[i] for i in chosen]
            whole, firsts = [np.concatenate(one) for one in answers], [len(one[0]) for one in answers]
            return self._samples.batch(chosen, whole, firsts), self.samples.ids[chosen]
        sequences = [(i, response) for i in chosen for response in self._responses[i]]
        samples = [i for i, _ in sequences]
        batch = self._samples.batch(samples, [response for _, response in sequences])
        return batch, self.samples.ids[samples]

    def _finite(self, value: float, step: PackStep, number: int, what: str) -> float:
        if not np.isfinite(value):
            ids = self.samples.ids[step.samples[:SHOWN_IDS]].tolist()
            raise TrainerError(
                f"{what} of step {number}: found {value}, expected a finite number; its nodes are {ids}"
                f"{'…' if len(step.samples) > SHOWN_IDS else ''}; lower {self.stage}.lr or {self.stage}.clip"
            )
        return value

    def _named_out_of_memory(self, num_tokens: int) -> AbstractContextManager[None]:
        return named_out_of_memory(self.stage, num_tokens, self.language.token_budget, self.language)

    def judge(self) -> Measures:
        return self.objective.judge(self.val, self.truth[self.val.ids], self.language.token_budget)


def trained_counts(trained: dict[str, torch.nn.Parameter]) -> dict[str, int]:
    """Parameters by part: projector, markers, head, decoder layers, adapters."""
    counts: dict[str, int] = {}
    for name, p in trained.items():
        part = name.split(".")[0].removesuffix("_2H")
        if part == "base":
            part = "adapters" if ".lora_" in name else "decoder layers"
        counts[part] = counts.get(part, 0) + p.numel()
    return counts
