"""What a report shows, as values: filled by the modules beside, read by the page alone.

Names of groups, types and settings are as the data has them: the page escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netgpt.graphstore.dataset import Published
from netgpt.trainers.tasks.base import Metric
from netgpt.trainers.tasks.intervals import Interval


@dataclass(frozen=True)
class Missing:
    """Why a section is empty, and the command that fills it (RUN stands for the run's folder)."""

    text: str
    command: str


@dataclass(frozen=True)
class Metrics:
    """The task's metrics of `num` examples, by name; None where there are none to measure."""

    values: Mapping[str, float | None]
    num: int
    unparsed: int = 0
    """Examples of which a generated text states no answer."""


@dataclass(frozen=True)
class Result:
    """What was measured, on the test split and on the others that are known."""

    key: str
    """Its name in the evaluation: stage3, lookup, …"""
    title: str
    test: Metrics
    splits: dict[str, Metrics]
    """train, val, test; of baselines test alone."""
    apart: Metrics | None
    """Metrics of the test examples that are measured apart."""
    rest: Metrics | None
    groups: dict[str, dict[str, Metrics]]
    """Metrics of the test split, by title of a grouping and displayed name of a group."""
    periods: dict[str, Metrics]
    within: Mapping[str, Interval]
    """Bootstrap intervals of the test split, by metric; none where the evaluation made none."""


@dataclass(frozen=True)
class Confusion:
    """Examples of the test split by true choice (row) and given choice (column)."""

    title: str
    choices: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Comparison:
    label: str
    value: str


@dataclass(frozen=True)
class HeadlineFigure:
    """One metric of the run's main result, beside what it should be compared with."""

    name: str
    meaning: str
    value: float | None
    beside: tuple[Comparison, ...]


@dataclass(frozen=True)
class Results:
    """All of a finished evaluation."""

    main: str
    """Title of what the headline is about."""
    headline: tuple[HeadlineFigure, ...]
    sentences: tuple[str, ...]
    baselines: tuple[Result, ...]
    stages: tuple[Result, ...]
    confusions: tuple[Confusion, ...]
    metrics: tuple[Metric, ...]
    chosen: Metric
    """The one by which the best epoch is chosen."""
    noun: str
    """What the task calls an answer."""
    apart: str
    """What the test examples are that are measured apart; empty where none are."""
    published: tuple[Published, ...]
    compared: tuple[str, ...]
    """Keys of what is compared by group; a style is a place here."""


@dataclass(frozen=True)
class Series:
    """A line of a chart. `style` 0 to 5 picks colour, dashes and marker: the same for a name everywhere."""

    name: str
    style: int
    xs: tuple[float, ...]
    ys: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """One chart: lines over numbers, or over the named places of `ticks`; `bars` for columns side by side."""

    title: str
    xlabel: str
    ylabel: str
    series: tuple[Series, ...]
    ticks: tuple[str, ...] = ()
    bars: bool = False
    top: float | None = None
    """Upper end of the y axis; None: by the data. The lower end is 0."""


@dataclass(frozen=True)
class ChartGroup:
    """Charts of one question, with one legend and one caption."""

    title: str
    charts: tuple[Chart, ...]
    caption: str
    missing: Missing | None = None


@dataclass(frozen=True)
class WorstAnswer:
    """An example of the test split that an answer is far from."""

    id: str
    truth: str
    answer: str
    fields: tuple[tuple[str, str], ...]
    """What the data say of it, cut short."""
    reasons: tuple[tuple[str, str, float], ...]
    """Kind, name and change of the answer of what the models read, the largest first."""


@dataclass(frozen=True)
class WorstAnswers:
    title: str
    """Whose answers they are."""
    rows: tuple[WorstAnswer, ...]
    """The worst first."""
    note: str
    """What the reasons are, or why there are none."""


@dataclass(frozen=True)
class Trained:
    """What a training stage trained."""

    title: str
    parameters: tuple[tuple[str, int], ...]
    """By part; empty where the stage does not say."""
    steps: str
    last_loss: float | None
    kept: str


@dataclass(frozen=True)
class NodeRow:
    name: str
    num_nodes: int
    num_rows: int
    dim: int
    dtype: str


@dataclass(frozen=True)
class RelationRow:
    head: str
    relation: str
    tail: str
    num_edges: int
    layout: str


@dataclass(frozen=True)
class SplitRow:
    name: str
    num: int
    note: str


@dataclass(frozen=True)
class Quantiles:
    """A column of numbers in short: its name with the unit, and values at `QUANTILES`."""

    name: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class GraphFacts:
    nodes: tuple[NodeRow, ...]
    relations: tuple[RelationRow, ...]
    splits: tuple[SplitRow, ...]
    categories: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
    """By title the nodes of each value, the most frequent first."""
    encoders: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    choices: Chart | None
    """Labels by part, of a task whose answers are a list."""
    quantile_names: tuple[str, ...]
    quantiles: tuple[Quantiles, ...]


@dataclass(frozen=True)
class CostRow:
    """Cost of a stage over all its attempts; None where it is not recorded."""

    title: str
    attempts: int | None = None
    workers: str = ""
    seconds: float | None = None
    worker_seconds: float | None = None
    cpu_hours: float | None = None
    gpu_hours: float | None = None
    restarts: int | None = None
    peak_bytes: int | None = None
    disk_bytes: int | None = None
    remark: str = ""
    """Attempts that did not end well."""


@dataclass(frozen=True)
class CostFacts:
    rows: tuple[CostRow, ...]
    total: CostRow
    notes: tuple[str, ...]


@dataclass(frozen=True)
class StageFacts:
    """A stage of the run and how far it is."""

    name: str
    title: str
    state: str
    """done, out of date, unfinished or not started."""
    detail: str
    inputs_key: str
    """Digest of what a finished stage was made from; empty before."""
    outputs_digest: str
    disk_bytes: int | None


@dataclass(frozen=True)
class Setting:
    name: str
    value: str
    changed: bool
    """Other than the default."""


@dataclass(frozen=True)
class SettingsGroup:
    name: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Report:
    name: str
    """Name of the run's folder."""
    stages: tuple[StageFacts, ...]
    results: Results | None
    results_missing: Missing | None
    periods: ChartGroup
    calibration: ChartGroup
    worst: WorstAnswers | None
    losses: ChartGroup
    convergence: tuple[ChartGroup, ...]
    trained: tuple[Trained, ...]
    graph: GraphFacts
    cost: CostFacts
    settings: tuple[SettingsGroup, ...]
    digests: tuple[tuple[str, str], ...]
    made: tuple[tuple[str, str], ...]
    """What the run was made of, by and on."""
    synthetic: bool
    """Whether the data are made up."""
