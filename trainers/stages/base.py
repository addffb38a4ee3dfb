"""The contract of a stage, and a stage as a job for any process that sees the run's folder and the store.

Importing a stage's module must be cheap: status and command line ask it for words alone. What is heavy
(torch, transformers) is imported where it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeVar

from netgpt.graphstore import Graph, Store
from netgpt.graphstore.files import Json, value_digest, write_json
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.stages import folder

if TYPE_CHECKING:
    from netgpt.sampler import SamplingEngine, SamplingOptions
    from netgpt.trainers.settings import Settings
    from netgpt.trainers.tasks.base import Task
    from netgpt.trainers.tasks.evaluate import Scores

JOB = "job.json"


class Origins(Protocol):
    """What a stage's inputs are taken from: the run that it is of, as far as stages need to know it."""

    @property
    def settings(self) -> Settings: ...
    @property
    def store(self) -> Store: ...
    @property
    def path(self) -> Path: ...
    @property
    def threads(self) -> int: ...

    def workers(self, stage: Stage) -> int:
        """Training workers of a stage."""
        ...

    def digest(self, stage: str) -> str:
        """Digest of what a finished stage made; empty where it is not done."""
        ...

    def is_done(self, stage: str) -> bool: ...

    def remembered(self, key: str, make: Callable[[], str]) -> str:
        """A digest that is made once a run."""
        ...


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """One stage of a run, for any process that can see the run's folder and the store."""

    stage: str
    """A stage of the tables, or package.module:Name."""
    run: Path
    store: Path
    settings: Settings
    inputs: Json
    """What the stage is made from (digests, settings): goes into its manifest."""
    device: str = "cpu"
    """cpu or cuda."""
    num_threads: int = 1
    """CPU threads of a worker: fixed, since the order of float sums depends on it."""

    @property
    def described(self) -> Stage:
        from netgpt.trainers.stages.names import stage_of

        return stage_of(self.stage)

    @property
    def folder(self) -> Path:
        return self.run / self.described.name

    @property
    def key(self) -> str:
        """Digest of the inputs: marks the stage's checkpoints."""
        return value_digest(self.inputs)

    def prepare(self) -> bool:
        """Make the folder ready and leave this job in it; True where earlier work is in it."""
        resumed = folder.prepare(self.folder, self.inputs, resumes=self.described.resumes)
        write_json(self.folder / JOB, self.to_dict())
        return resumed

    def to_dict(self) -> Json:
        return {
            "stage": self.stage,
            "run": str(self.run),
            "store": str(self.store),
            "settings": self.settings.to_dict(),
            "inputs": self.inputs,
            "device": self.device,
            "num_threads": self.num_threads,
        }

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> StageJob:
        from netgpt.trainers.settings import Settings

        return StageJob(
            stage=raw["stage"],
            run=Path(raw["run"]),
            store=Path(raw["store"]),
            settings=Settings.from_dict(raw["settings"]),
            inputs=raw["inputs"],
            device=raw["device"],
            num_threads=raw["num_threads"],
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Settings are of a class that the recipe composes: it is composed again where they arrive
        return StageJob.from_dict, (self.to_dict(),)


@dataclass(frozen=True)
class Tools:
    """What a running stage is given besides its job."""

    store: Store
    task: Task
    progress: Callable[[str], OnProgress]
    """A unit's name → what is told (done, total); silent but on rank 0."""
    engine: SamplingEngine | None = None
    """Samples for a stage that wants it; None: the stage samples itself."""


@dataclass(frozen=True)
class Made:
    """What a stage made: files or folders in its folder, and its metrics."""

    outputs: Sequence[str]
    metrics: Mapping[str, Any]


class Stage:
    """One stage, described. All that others say of it or do with it is asked here."""

    name: ClassVar[str]
    """Name of its folder in the run, and of its section of the settings."""
    title: ClassVar[str]
    """For people."""
    command: ClassVar[str]
    """The netgpt command that makes it."""
    with_: ClassVar[tuple[str, ...]] = ()
    """Stages that the command makes too, before it."""
    help: ClassVar[str] = ""
    """Help of the command, where this stage gives it its name."""
    Config: ClassVar[type | None] = None
    """Class of its section of the settings."""
    reads: ClassVar[tuple[str, ...]] = ()
    """Stages that must be done before, where the run has them."""
    leaves: ClassVar[tuple[str, ...]] = ()
    """Files or folders in its folder that a finished stage has."""
    placing: ClassVar[Literal["one", "all", "pool"]] = "all"
    """one: a single worker; all: every training worker; pool: see `MappedStage`."""
    uses_gpu: ClassVar[bool] = True
    resumes: ClassVar[bool] = False
    """Whether it has checkpoints; without, it starts anew in an empty folder."""
    kind: ClassVar[Literal["graph", "embeddings", "tokens", "language", "pairs", "modal", ""]] = ""
    """What plans and reports count it among."""
    planned: ClassVar[bool] = True
    """Whether a plan knows what it needs."""
    measured: ClassVar[bool] = False
    """Whether `measure` gives scores once it is done."""

    def applies(self, settings: Settings) -> bool:
        """Whether a run of these settings has it."""
        return True

    def check(self, settings: Settings) -> None:
        """TrainerError for settings that it cannot run with: asked before anything starts."""

    def check_graph(self, settings: Settings, graph: Graph) -> None:
        """TrainerError for a graph that it cannot run on: asked before anything of it starts."""

    def needs(self, run: Origins) -> Sequence[str]:
        """Stages that must be done before, whether or not the run has them."""
        return self.reads

    def num_workers(self, settings: Settings, asked: int) -> int:
        return 1 if self.placing == "one" else asked

    def inputs(self, run: Origins) -> Json:
        """What its result depends on: digests of store and stages, and settings. JSON."""
        raise NotImplementedError

    def sampling(self, job: StageJob, store: Store) -> SamplingOptions | None:
        """What workers beside it may sample for it; None: nothing."""
        return None

    def run(self, job: StageJob, tools: Tools) -> Made:
        """Do the work of a prepared job; every rank calls this."""
        raise NotImplementedError

    def titles(self, settings: Settings) -> dict[str, str]:
        """Names for people of what `measure` adds."""
        return {}

    def measure(self, job: StageJob, tools: Tools, scores: Scores) -> None:
        """Add the scores of the finished stage; every rank calls this. job: the evaluation's."""


Part = TypeVar("Part")
PartMade = TypeVar("PartMade")


class MappedStage(Stage, Generic[Part, PartMade]):
    """A stage of parts that do not need each other. A pool makes them, on Ray; else this process does.

    A part and what is made of it go from process to process: what pickle takes.
    """

    placing = "pool"
    uses_gpu = False
    unit: ClassVar[str] = "part"

    def parts(self, store: Store) -> list[Part]:
        raise NotImplementedError

    def maker(self, job: StageJob, store: Store) -> Callable[[Part], PartMade]:
        """What makes a part. TrainerError, here already, for what no part could be made with."""
        raise NotImplementedError

    def write(self, job: StageJob, store: Store, made: Iterator[PartMade]) -> Made:
        """Put the made parts, which come in order, into the stage's folder."""
        raise NotImplementedError

    def run(self, job: StageJob, tools: Tools) -> Made:
        make, parts = self.maker(job, tools.store), self.parts(tools.store)
        told = tools.progress(self.unit)

        def made() -> Iterator[PartMade]:
            for done, part in enumerate(parts, start=1):
                yield make(part)
                told(done, len(parts))

        return self.write(job, tools.store, made())
