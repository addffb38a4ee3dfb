"""The fields of a graph's document: which of them a prompt is without. Imports no tokenizer.

A piece's field is its position in the document.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from netgpt.graphstore import Document, Graph
from netgpt.graphstore.document_types import Field, Newest
from netgpt.graphstore.features import DAY_S
from netgpt.trainers.config import HistoryConfig
from netgpt.trainers.errors import TrainerError, require

HISTORY = "history"
"""The field of earlier examples."""


def document_of(graph: Graph, label: str = "", history: HistoryConfig | None = None) -> Document:
    """The document of the target's nodes, behind earlier ones where `history` names a relation. TrainerError
    where they have none, or where it tells the label."""
    target = graph.schema.target
    document = graph.schema.document(target)
    if document is None:
        raise TrainerError(
            f"{getattr(graph, 'path', 'graph')}: found no document of {target}, expected texts for "
            "prompts; a run without language stages: stages=[stage1,embeddings,evaluation]"
        )
    if history is not None and history.relation:
        document = replace(document, fields=(_history(graph, document, label, history), *document.fields))
    lists = [field for field in document.fields if field.newest is not None or not document.column]
    told = bool(label) and any(_tells(graph, field, label) for field in lists)
    require(
        not told, "task.label", label, f"a column that prompts do not show: name theirs in {target}.document"
    )
    return document


def _history(graph: Graph, document: Document, label: str, history: HistoryConfig) -> Field:
    """The field of earlier examples. TrainerError for a relation or fields that there are not, and for
    examples without a time, of which none is earlier."""
    target, key = graph.schema.target, "language.history"
    found = [e for e in graph.edge_types if (e[0], e[2]) == (target, target)]
    named = [e for e in found if e[1] == history.relation]
    known = ", ".join(e[1] for e in found) or "none, as no relation is of the target to itself"
    require(bool(named), f"{key}.relation", history.relation, f"one of {known}")
    require(target in graph.times, f"{key}.relation", history.relation, f"{target} with a time")
    require(not document.is_prose, f"{key}.relation", history.relation, "a document as JSON: this is prose")
    of_all = {field.name: field for field in document.fields}
    require(HISTORY not in of_all, f"{key}.relation", history.relation, f"a document without {HISTORY}")
    shown = {field.name: field for field in document.fields if not (field.items or field.newest)}
    for name in history.fields:
        require(name in shown and name != label, f"{key}.fields", name, f"some of {', '.join(shown)}")
    categories = [c.name for c in graph.schema.node_type(target).columns if c.kind == "category"]
    ok = not history.apart or history.apart in categories
    require(ok, f"{key}.apart", history.apart, f"a category of {target}: {', '.join(categories) or 'none'}")
    thing, days = graph.dataset.thing, graph.dataset.label_days
    apart = history.apart or thing
    require(not thing or apart == thing, f"{key}.apart", history.apart, f"{thing}, which says the label")
    fields = (*(replace(shown[name], cut=0) for name in history.fields), Field(label))
    newest = Newest(
        named[0],
        history.num,
        fields,
        oldest_first=True,
        apart=apart,
        known_s=round(max(history.known_days, days) * DAY_S),
    )
    return Field(HISTORY, free=any(field.free for field in fields), newest=newest)


def _tells(graph: Graph, field: Field, label: str) -> bool:
    """Whether a field of the target's document tells the label: the node's own, by what it is linked or
    grouped by, or that of another node of its type which may be later."""
    if field.newest is None:
        return field.name == label
    target, heads = graph.schema.target, field.newest.edge_type[0]
    if graph.schema.tells(graph.schema.relation_type(field.newest.edge_type), label):
        return True
    are_earlier = target in graph.times and heads in graph.times
    is_own = graph.schema.holder(heads) == target and not are_earlier
    return is_own and label in [one.name for one in field.newest.fields]


def hidden_fields(document: Document, names: Iterable[str], key: str) -> np.ndarray:
    """[fields] bool: which fields the names name. key: the setting that names them, for messages."""
    known = [field.name for field in document.fields]
    wanted = set(names)
    for name in wanted:
        require(name in known, key, name, f"fields of the document: {', '.join(known)}")
    return np.array([name in wanted for name in known])


def free_fields(document: Document) -> np.ndarray:
    """[fields] bool: texts, ids and times, which a small training set can be learnt by heart from."""
    return np.array([field.free for field in document.fields])
