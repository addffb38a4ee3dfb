"""Settings of the trainers: a frozen dataclass for each component, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from netgpt.trainers.errors import require
from netgpt.trainers.precision import PRECISIONS


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    fanout: int = 50
    """Heads sampled a relation and hop."""

    def __post_init__(self) -> None:
        require(self.fanout >= 1, "sampler.fanout", self.fanout, "at least 1")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Stage 1: pretraining of the graph encoder."""

    encoder: str = "rgcn"
    """rgcn, gcn, sage, han, hetsann, hgt, or package.module:Name."""
    neighbors: str = "sampled"
    """sampled: mini-batches of `batch_size` seeds; all: one exact step an epoch over the whole graph."""
    hidden: int = 1024
    """Width of node embeddings."""
    layers: int = 2
    """Layers of the encoder, and hops that are sampled: how far a node's state reaches."""
    heads: int = 4
    """Attention heads of han, hetsann and hgt; a divisor of `hidden`."""
    num_bases: int = 0
    """Bases that the relation weights of rgcn are mixed from; 0: a weight of its own for each."""
    scalar_bins: int = 0
    """Quantile bins of each scalar as further inputs (piecewise linear encoding); 0: none."""
    thresholds: bool = False
    """On which side of each of the schema's steps a number is, as further inputs."""
    dropout: float = 0.1
    """Share of the states that are zero in a step, between layers and before the head: from 0, below 1."""
    feature_dropout: float = 0.0
    """Share of the nodes with text, time or video features whose content is hidden in a step."""
    keep_features: list[str] = field(default_factory=list)
    """Node types that are not hidden: a few categories of many nodes, with nothing to learn by heart."""
    featureless: str = "table"
    """What node types without features have: table: a learnt vector a node, zero for nodes that come later;
    degree: their numbers of heads, which rows that come later have too."""
    batch_size: int = 512
    """Seed nodes a step, over all ranks."""
    epochs: int = 100
    """At most; early stopping may end before."""
    patience: int = 10
    """Epochs without a better validation MAE before training stops."""
    select: str = "best"
    """best: keep the weights of the epoch with the least validation MAE; last: train all epochs and keep
    the last's, for validation parts too small to choose by."""
    lr: float = 1e-3
    """Peak learning rate; warm-up over the first 5% of steps, then cosine to zero."""
    weight_decay: float = 1e-4
    """Decoupled (AdamW)."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    beta: float = 1.0
    """Error below which Smooth L1 is quadratic; small values aim at the median, large at the mean."""
    checkpoint_steps: int = 200
    """Steps between checkpoints; there is one at the end of every epoch too."""
    precision: str = "auto"
    """auto: bfloat16 autocast on GPUs and float32 on CPUs; float32, bfloat16: no other."""
    tables_gb: float = 16.0
    """Feature tables (10^9 bytes) that stay on the device; of larger ones rows travel with each batch."""
    inference_gb: float = 8.0
    """Memory of exact inference on CPUs (10^9 bytes), besides Python and the mapped store."""

    @property
    def inference_bytes(self) -> int:
        return int(self.inference_gb * 1e9)

    def __post_init__(self) -> None:
        require(self.neighbors in ("sampled", "all"), "graph.neighbors", self.neighbors, "sampled or all")
        require(self.hidden >= 1, "graph.hidden", self.hidden, "at least 1")
        require(self.layers >= 1, "graph.layers", self.layers, "at least 1")
        require(self.heads >= 1, "graph.heads", self.heads, "at least 1")
        require(
            self.featureless in ("table", "degree"), "graph.featureless", self.featureless, "table or degree"
        )
        require(self.select in ("best", "last"), "graph.select", self.select, "best or last")
        require(self.num_bases >= 0, "graph.num_bases", self.num_bases, "at least 0")
        precisions = ("auto", "float32", "bfloat16")
        require(self.precision in precisions, "graph.precision", self.precision, ", ".join(precisions))
        require(0 <= self.tables_gb < math.inf, "graph.tables_gb", self.tables_gb, "at least 0")
        require(0 < self.inference_gb < math.inf, "graph.inference_gb", self.inference_gb, "above 0")
        require(self.scalar_bins >= 0, "graph.scalar_bins", self.scalar_bins, "at least 0")
        require(0 <= self.dropout < 1, "graph.dropout", self.dropout, "a share from 0, below 1")
        require(
            0 <= self.feature_dropout < 1,
            "graph.feature_dropout",
            self.feature_dropout,
            "a share from 0, below 1",
        )
        require(self.batch_size >= 1, "graph.batch_size", self.batch_size, "at least 1")
        require(self.epochs >= 1, "graph.epochs", self.epochs, "at least 1")
        require(self.patience >= 1, "graph.patience", self.patience, "at least 1")
        require(0 < self.lr < math.inf, "graph.lr", self.lr, "above 0")
        require(0 <= self.weight_decay < math.inf, "graph.weight_decay", self.weight_decay, "at least 0")
        require(0 < self.beta < math.inf, "graph.beta", self.beta, "above 0")
        require(0 < self.clip < math.inf, "graph.clip", self.clip, "above 0")
        require(self.checkpoint_steps >= 1, "graph.checkpoint_steps", self.checkpoint_steps, "at least 1")


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Groups that metrics are told apart by; all are columns of the target."""

    by: list[str] = field(default_factory=list)
    """Categories; the training curve of a scoring stage is by the first of them."""
    period: str = ""
    """Number column of whole days that periods are cut from; empty: no periods."""
    period_days: list[int] = field(default_factory=list)
    """Bounds of the periods: [3, 7] is up to 3 days, 4 to 7, more than 7; none: the quartiles of the
    labelled examples."""
    stages: list[str] = field(default_factory=list)
    """Stages that are measured; none: all that give scores."""
    apart: str = ""
    """Number column: test examples for which it is not zero are measured apart from the rest, too."""

    def __post_init__(self) -> None:
        days = list(self.period_days)
        ok = not days or (days == sorted(set(days)) and days[0] >= 0)
        require(ok, "evaluation.period_days", days, "rising numbers of days from 0")


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """What a run does without, in graph and prompts."""

    types: list[str] = field(default_factory=list)
    """Node types whose relations are left out, in sampling and in the model: those that they are heads of."""
    features: list[str] = field(default_factory=list)
    """Node types whose features are the zero vector."""
    fields: list[str] = field(default_factory=list)
    """Fields of the document that prompts are without."""
    pixels: bool = False
    """Without clips too (language.pixels)."""


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """The randomly initialised Qwen2-VL that `language.model: tiny` makes."""

    hidden: int = 128
    """Width of the hidden states; a multiple of 8 × heads."""
    layers: int = 8
    """Decoder layers, 6 at least."""
    heads: int = 4
    """Attention heads; half as many key-value heads."""
    vocab: int = 4096
    """Entries of the byte-level BPE tokenizer, trained on the run's own training text."""
    warmup_steps: int = 0
    """Steps of a plain language-model pass over the training text before stage 2, where the answers for nodes
    are a list; 0: none."""
    warmup_lr: float = 1e-3
    """Peak learning rate of that pass."""

    def __post_init__(self) -> None:
        require(self.layers >= 6, "language.tiny.layers", self.layers, "at least 6")
        require(
            self.heads >= 2 and self.heads % 2 == 0,
            "language.tiny.heads",
            self.heads,
            "an even number from 2",
        )
        require(
            self.hidden % (8 * self.heads) == 0,
            "language.tiny.hidden",
            self.hidden,
            "a multiple of 8 × heads",
        )
        require(self.vocab >= 300, "language.tiny.vocab", self.vocab, "at least 300")
        require(self.warmup_steps >= 0, "language.tiny.warmup_steps", self.warmup_steps, "at least 0")
        finite = 0 < self.warmup_lr < math.inf
        require(finite, "language.tiny.warmup_lr", self.warmup_lr, "above 0")


@dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """Earlier examples in prompts, with their labels: the newest of those that share a key with the example,
    the oldest of them first."""

    relation: str = ""
    """A relation of the target to itself, such as that of a group; empty: no history."""
    num: int = 3
    """Examples at most: the shots."""
    fields: list[str] = field(default_factory=list)
    """Fields of the document that are shown of each, beside its label."""
    apart: str = ""
    """Category of the target: of examples with one value the newest is shown, of those with the example's own
    none. Empty: as the data set says it, such as of states of one video."""
    known_days: float = 0.0
    """Only those that are earlier by so many days, when their labels were final; at least as many as the data
    set says."""

    def __post_init__(self) -> None:
        require(self.num >= 1, "language.history.num", self.num, "at least 1")
        known = self.known_days
        require(0 <= known < 1e5, "language.history.known_days", known, "days from 0")


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """How a model's answers are drawn (nucleus sampling)."""

    section: ClassVar[str] = "language.drawn"
    """Where these settings are."""

    temperature: float = 0.95
    """Logits are divided by it."""
    top_p: float = 0.7
    """The likeliest tokens that have this share together are drawn from."""
    top_k: int = 50
    """Tokens that are drawn from, at most."""

    def __post_init__(self) -> None:
        section = self.section
        require(0 < self.temperature < math.inf, f"{section}.temperature", self.temperature, "above 0")
        require(0 < self.top_p <= 1, f"{section}.top_p", self.top_p, "above 0, at most 1")
        require(self.top_k >= 1, f"{section}.top_k", self.top_k, "at least 1")


@dataclass(frozen=True, kw_only=True)
class DrawnConfig(DrawConfig):
    """Answers that are drawn in an evaluation, beside the greedy one."""

    num: int = 0
    """Of each example, where numbers are written: their mean is measured too; 0: none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.num <= 1000, "language.drawn.num", self.num, "0 to 1000")


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """What language stages share."""

    model: str = "tiny"
    """`tiny`, or a directory or hub id of a Qwen2-VL, or of a Qwen2, Llama or Mistral of text alone."""
    max_tokens: int = 4000
    """Longest sample, response included; of a longer one comments go first, then the oldest of lists, then
    the ends of texts."""
    max_comments: int = 50
    """Comments drawn at random a record, by (seed, id)."""
    token_budget: int = 4096
    """Tokens of a pack: the samples that one rank runs at once."""
    packs_per_step: int = 8
    """Packs of an optimiser step over all ranks; a multiple of the world size."""
    precision: str = "auto"
    """auto: bfloat16 on GPUs, float32 on CPUs; bfloat16: on CPUs oneDNN multiplies matrices, in bfloat16
    where that is faster (AMX), with float32 sums and float32 between."""
    activation_checkpointing: bool = False
    """Keep each layer's input alone and compute the rest again backwards: less memory, a third more work."""
    pixels: str = ""
    """Folder of ID.safetensors with what the model's processor made of each clip; empty: text alone."""
    history: HistoryConfig = field(default_factory=HistoryConfig)
    drawn: DrawnConfig = field(default_factory=DrawnConfig)
    tiny: TinyConfig = field(default_factory=TinyConfig)

    def __post_init__(self) -> None:
        require(self.max_tokens >= 128, "language.max_tokens", self.max_tokens, "at least 128")
        require(self.max_comments >= 0, "language.max_comments", self.max_comments, "at least 0")
        require(
            self.token_budget >= self.max_tokens,
            "language.token_budget",
            self.token_budget,
            f"at least max_tokens ({self.max_tokens})",
        )
        require(self.packs_per_step >= 1, "language.packs_per_step", self.packs_per_step, "at least 1")
        known = self.precision in PRECISIONS
        require(known, "language.precision", self.precision, " or ".join(PRECISIONS))


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Training of one language stage."""

    section: ClassVar[str] = "stage"
    """Name of these settings in a configuration: the stage's own."""

    objective: str = "answer"
    """What is learnt: answer, the response's words; score, a head's score; or package.module:Name."""
    epochs: int = 1
    """Passes over the train examples; 0 skips training and keeps the initial weights."""
    max_steps: int = 0
    """Optimiser steps at most, over all epochs; 0: no limit."""
    lr: float = 1e-4
    """Peak learning rate; warm-up over the first 5% of steps, then cosine to zero."""
    weight_decay: float = 0.0
    """Decoupled (AdamW), of what is trained."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    select: str = "best"
    """best: keep the weights of the epoch with the least validation MAE; last: the last's, for validation
    parts too small to choose by."""
    text_dropout: float = 0.0
    """Share of the prompts of an epoch that each field with a text, an id or a time is left out of."""
    checkpoint_steps: int = 50
    """Optimiser steps between checkpoints."""
    log_steps: int = 10
    """Optimiser steps that make one point of the training curve."""

    def __post_init__(self) -> None:
        whole, above = "at least 0", "above 0"
        self.require(self.select in ("best", "last"), "select", "best or last")
        self.require(0 <= self.text_dropout < 1, "text_dropout", "a share from 0, below 1")
        self.require(self.log_steps >= 1, "log_steps", "at least 1")
        self.require(self.epochs >= 0, "epochs", whole)
        self.require(self.max_steps >= 0, "max_steps", whole)
        self.require(0 < self.lr < math.inf, "lr", above)
        self.require(0 < self.clip < math.inf, "clip", above)
        self.require(0 <= self.weight_decay < math.inf, "weight_decay", whole)
        self.require(self.checkpoint_steps >= 1, "checkpoint_steps", "at least 1")

    def require(self, ok: bool, name: str, expected: str) -> None:
        """TrainerError that names the whole key, unless `ok`."""
        require(ok, f"{self.section}.{name}", getattr(self, name), expected)


@dataclass(frozen=True, kw_only=True)
class AlignConfig(StageConfig):
    """Stage 2: alignment."""

    section: ClassVar[str] = "stage2"


@dataclass(frozen=True, kw_only=True)
class RateConfig(StageConfig):
    """Stage 3 on top of what any stage has."""

    section: ClassVar[str] = "stage3"

    objective: str = "score"
    """What is learnt: answer, score, or package.module:Name."""
    layers: int = 4
    """Last decoder layers that are trained."""
    beta: float = 1.0
    """Error below which Smooth L1 is quadratic."""
    start: str = "mean"
    """What the head starts as: mean, the mean train label; graph, each example's score of stage 1, to which
    the head then learns what the text adds."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.start in ("mean", "graph"), "start", "mean or graph")
        self.require(0 < self.beta < math.inf, "beta", "above 0")
        self.require(self.layers >= 1, "layers", "at least 1")


@dataclass(frozen=True, kw_only=True)
class LoraConfig(StageConfig):
    """The paper's text and multimodal baselines: the language model with adapters, without the graph."""

    section: ClassVar[str] = "lora"

    rank: int = 16
    """Inner width of each adapter."""
    alpha: float = 32.0
    """The adapters' product is scaled by alpha / rank."""
    dropout: float = 0.05
    """Share of an adapter's inputs that are zero in a step: from 0, below 1."""
    targets: list[str] = field(
        default_factory=lambda: [
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("gate_proj", "up_proj", "down_proj"),
        ]
    )
    """Linear layers of each decoder layer that get an adapter."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(0 < self.alpha < math.inf, "alpha", "above 0")
        self.require(0 <= self.dropout < 1, "dropout", "a share from 0, below 1")
        self.require(bool(self.targets), "targets", "names of linear layers")


@dataclass(frozen=True, kw_only=True)
class TuneConfig(LoraConfig):
    """The language model tuned on prompts and written answers, without the graph."""

    section: ClassVar[str] = "tune"

    objective: str = "number"
    """What is learnt: number, answer, or package.module:Name."""
    method: str = "lora"
    """What is trained: lora, adapters; freeze, the last `layers` decoder layers; full, all of the decoder but
    its embeddings; prefix, keys and values before every sample's own in each layer."""
    layers: int = 2
    """Of freeze."""
    prefix: int = 16
    """Keys and values of a layer, of prefix."""
    dropout: float = 0.0
    """Share of an adapter's inputs that are zero in a step: from 0, below 1."""
    epochs: int = 5
    """Passes over the train examples; 0 skips training and keeps the model as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        methods = ("lora", "freeze", "full", "prefix")
        self.require(self.method in methods, "method", f"one of {', '.join(methods)}")
        self.require(self.layers >= 1, "layers", "at least 1")
        self.require(1 <= self.prefix <= 4096, "prefix", "1 to 4096")
