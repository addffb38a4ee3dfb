"""The graph of a run as a report shows it: tables of the store, its splits and distributions."""

from __future__ import annotations

import numpy as np

from netgpt.cluster.report.facts import (
    Chart,
    GraphFacts,
    NodeRow,
    Quantiles,
    RelationRow,
    Series,
    SplitRow,
)
from netgpt.graphstore import Store
from netgpt.graphstore.info import describe
from netgpt.trainers.config import EvaluationConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.tasks.base import Examples, Task
from netgpt.trainers.tasks.evaluate import Judge


def graph_facts(store: Store, task: Task, evaluation: EvaluationConfig) -> GraphFacts:
    """What a run's store holds, and how its task splits it."""
    info, data = describe(store), store.dataset.facts(store)
    try:
        examples = task.examples(store)
    except TrainerError:  # of a store that cannot be trained on
        examples = None
    return GraphFacts(
        nodes=tuple(NodeRow(name, **node) for name, node in info["nodes"].items()),
        relations=tuple(
            RelationRow(*edge, num_edges=store.num_edges[edge], layout=str(relation["layout"]))
            for edge, relation in zip(store.edge_types, info["relations"].values(), strict=True)
        ),
        splits=() if examples is None else _splits(store, task, evaluation, examples),
        categories=tuple((title, tuple(named.items())) for title, named in data.categories.items()),
        encoders=tuple((str(k), str(v)) for k, v in info["encoders"].items()),
        facts=data.counts,
        choices=None if examples is None else _choices(task, examples),
        quantile_names=data.quantile_names,
        quantiles=tuple(Quantiles(name, values) for name, values in data.quantiles),
    )


def _splits(
    store: Store, task: Task, evaluation: EvaluationConfig, examples: Examples
) -> tuple[SplitRow, ...]:
    split, num = task.config.split, store.num_nodes[examples.node_type]
    node = store.schema.node_type(examples.node_type)
    test_note, val_note = "labelled", f"about {task.config.val_share:.0%} of the examples"
    periods: tuple[SplitRow, ...] = ()
    if split.by == "time":
        early = int(np.count_nonzero(np.asarray(store.column(node.name, split.column)) < split.end_s()))
        when = node.title_of(split.column)
        val_note = f"about the latest {task.config.val_share:.0%} of the train period"
        periods = (
            SplitRow("train period", early, f"{when} up to {split.until}"),
            SplitRow("test period", num - early, f"{when} after {split.until}"),
        )
    elif split.by == "column":
        val_note = f"as {node.title_of(split.column)} says"
    apart = Judge(store, task, examples, evaluation).is_apart(examples.test)
    if apart is not None:
        test_note += f"; {int(apart.sum()):,} {node.title_of(evaluation.apart)}"
    return (
        *periods,
        SplitRow("train", len(examples.train), "labelled; the models learn from these"),
        SplitRow("validation", len(examples.val), f"labelled; {val_note}"),
        SplitRow("test", len(examples.test), test_note),
    )


def _choices(task: Task, examples: Examples) -> Chart | None:
    """Shares of the labels among the answers that there are, in the train period and in the test period."""
    names = task.choices
    if not names:
        return None
    parts = {"train": np.concatenate([examples.train, examples.val]), "test": examples.test}
    places, series = tuple(float(i) for i in range(len(names))), []
    for style, (part, nodes) in enumerate(parts.items()):
        chosen = [task.choice_of(truth) for truth in examples.truth[nodes].tolist()]
        shares = 100 * np.bincount(chosen, minlength=len(names)) / max(1, len(chosen))
        series.append(Series(part, style, places, tuple(shares.tolist())))
    return Chart(
        title=f"Labels by split: {task.noun}",
        xlabel=task.noun,
        ylabel="share of the split",
        series=tuple(series),
        ticks=names,
        bars=True,
    )
