"""Scores of new nodes by a language stage of a finished run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.graphstore import Document
from netgpt.trainers.language.text.tokens import RecordTokens
from netgpt.trainers.precision import cpu_products
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.stages.language import LanguageStage


def require_scores(run: Run, stage: LanguageStage) -> None:
    """ClusterError for a stage whose objective gives new rows no score."""
    from netgpt.trainers.language.objectives.names import objective_class

    named = stage.config(run.settings).objective
    if "" not in objective_class(named, f"{stage.name}.objective").predicts:
        found = f"the objective {named} of {stage.name}"
        raise ClusterError(f"{run.path}: found {found}, expected one that gives new rows a score")


class LanguageScores:
    """Scores of new nodes by a language stage of a run, whose model is loaded once."""

    def __init__(self, run: Run, stage: LanguageStage, width: int, device: torch.device) -> None:
        """width: of h_v. ClusterError for a stage that gives new rows no score."""
        # Here and not above: bad input is refused before transformers is imported, which some runs do without
        from netgpt.trainers.language.assembly import Assembly
        from netgpt.trainers.language.objectives.names import objective_class

        require_scores(run, stage)
        config = stage.config(run.settings)
        objective = objective_class(config.objective, f"{stage.name}.objective")
        self._language, self._device = run.settings.language, device
        self._assembly = Assembly(run.path, run.store, run.settings, run.task, device)
        builder = self._assembly.builder
        model = stage.trained_model(self._assembly, width)
        self._objective = objective(model, run.task, builder, config)
        # The scale is the train examples': the run's, also for nodes of another graph
        states = stage.graph(self._assembly)
        assert states is not None
        self._states = states

    @property
    def document(self) -> Document:
        """What prompts say of a node."""
        return self._assembly.builder.document

    def tokens(self, records: Iterable[tuple[str, str]]) -> list[RecordTokens]:
        """Of ids and texts of the document. TrainerError for one that is too long."""
        return self._assembly.builder.tokenize(records)

    def of(
        self,
        records: Sequence[RecordTokens],
        h_MD: np.ndarray,
        graph_scores: np.ndarray,
        names: Sequence[str],
        progress: OnProgress,
        hidden: np.ndarray | None = None,
    ) -> np.ndarray:
        """Scores [M] or [M, width]. names: ids that clips go by. hidden [M, fields] bool: fields that a
        prompt is without."""
        from netgpt.trainers.language.samples import Samples
        from netgpt.trainers.language.text.tokens import Tokens

        builder, states = self._assembly.builder, self._states
        samples = Samples(
            np.arange(len(h_MD)),
            Tokens.of(records),
            builder,
            self._device,
            replace(states, embeddings=h_MD, scores=None if states.scores is None else graph_scores),
            names=names,
            pixels=self._assembly.pixels,
        ).without(self._assembly.hidden)
        if hidden is not None:
            samples = replace(samples, hidden=hidden if samples.hidden is None else hidden | samples.hidden)
        none = replace(samples, ids=np.empty(0, np.int64))
        with cpu_products(self._language.precision):
            predicted = self._objective.predict(samples, none, self._language.token_budget, progress)
        return np.asarray(predicted[""])
