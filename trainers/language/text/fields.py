"""The fields of a graph's document: which of them a prompt is without. Imports no tokenizer.

A piece's field is its position in the document.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from netgpt.graphstore import Document, Graph
from netgpt.graphstore.schema import Field
from netgpt.trainers.errors import TrainerError, require


def document_of(graph: Graph, label: str = "") -> Document:
    """The document of the target's nodes. TrainerError where they have none, or where it tells the label."""
    target = graph.schema.target
    document = graph.schema.document(target)
    if document is None:
        raise TrainerError(
            f"{getattr(graph, 'path', 'graph')}: found no document of {target}, expected texts for "
            "prompts; a run without language stages: stages=[stage1,embeddings,evaluation]"
        )
    told = label and not document.column and any(_tells(graph, field, label) for field in document.fields)
    require(
        not told, "task.label", label, f"a column that prompts do not show: name theirs in {target}.document"
    )
    return document


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
