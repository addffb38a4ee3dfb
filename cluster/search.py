"""Which settings a sweep tries: all combinations, or those that a search asks for (Optuna's TPE).

A search lies in a file of its own beside the runs, and goes on where it stopped: what it asked for and did
not hear of is asked again first.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from netgpt.cluster.errors import ClusterError

if TYPE_CHECKING:
    from optuna import Study, Trial

STUDY = "study.journal"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")


@dataclass(frozen=True)
class Axis:
    """A key and what it is tried with: values, or numbers of a range."""

    key: str
    values: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None
    is_log: bool = False
    is_whole: bool = False

    @staticmethod
    def of(text: str) -> Axis:
        """KEY=V1|V2, KEY=LOW..HIGH or KEY=LOW..HIGH:log. ClusterError for others."""
        key, equals, said = text.partition("=")
        if not equals or not said:
            raise ClusterError(f"--vary: found {text!r}, expected KEY=V1|V2 such as graph.lr=0.004|0.008")
        if (found := _RANGE.fullmatch(said)) is None:
            return Axis(key, tuple(said.split("|")))
        low, high = float(found[1]), float(found[2])
        is_log = found[3] is not None
        if low >= high or (is_log and low <= 0):
            rising = "rising numbers above 0" if is_log else "rising numbers"
            raise ClusterError(f"--vary: found the range {said!r}, expected {rising}")
        is_whole = all(re.fullmatch(r"[-+]?\d+", one) for one in (found[1], found[2]))
        return Axis(key, (), (low, high), is_log, is_whole)

    @property
    def ends(self) -> tuple[str, ...]:
        """What has to be a setting before anything is run: all values, or both ends."""
        return tuple(self.written(one) for one in self.bounds) if self.bounds else self.values

    def written(self, value: float | str) -> str:
        if isinstance(value, str):
            return value
        return str(int(value)) if self.is_whole else f"{value:.6g}"

    def suggested(self, trial: Trial) -> str:
        if self.bounds is None:
            return str(trial.suggest_categorical(self.key, self.values))
        low, high = self.bounds
        if self.is_whole:
            return str(trial.suggest_int(self.key, int(low), int(high), log=self.is_log))
        return self.written(trial.suggest_float(self.key, low, high, log=self.is_log))


@dataclass(frozen=True)
class Question:
    """What a setting comes to: answered once, before the next is asked."""

    values: tuple[str, ...]
    """One of each axis."""
    answer: Callable[[float | None], None]
    """With what is to be small; None where it failed."""


class Asked(Protocol):
    """What of a sweep a search needs."""

    @property
    def out(self) -> Path: ...
    @property
    def trials(self) -> int: ...
    @property
    def seeds(self) -> Sequence[int]: ...


def questions(asked: Asked, axes: Sequence[Axis]) -> Iterator[Question]:
    """All combinations; with `trials` so many settings that a search asks for, those of before among them.
    ClusterError where Optuna is not installed."""
    if not asked.trials:
        yield from (Question(one, lambda told: None) for one in product(*(axis.values for axis in axes)))
        return
    study = _study(asked)
    from optuna.trial import TrialState

    for cut_off in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(cut_off.number, state=TrialState.FAIL)
        study.enqueue_trial(cut_off.params)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    names = [axis.key for axis in axes]
    for known in done[: asked.trials]:
        if set(known.params) == set(names):
            values = tuple(axis.written(known.params[axis.key]) for axis in axes)
            yield Question(values, lambda told: None)
    for _ in range(asked.trials - len(done)):
        trial = study.ask()
        values = tuple(axis.suggested(trial) for axis in axes)

        def answer(told: float | None, trial: Trial = trial) -> None:
            study.tell(trial, told, state=TrialState.FAIL if told is None else TrialState.COMPLETE)

        yield Question(values, answer)


def _study(asked: Asked) -> Study:
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError:
        raise ClusterError("--trials: found no optuna, expected it: pip install netgpt[search]") from None
    optuna.logging.set_verbosity(logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(asked.out / STUDY)))
    study = optuna.create_study(
        storage=storage, study_name="sweep", direction="minimize", load_if_exists=True
    )
    # Another seed once some are there: the sampler of before must not draw the same again
    study.sampler = optuna.samplers.TPESampler(seed=asked.seeds[0] + len(study.trials))
    return study
