"""Whether a model would be told the label that it is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from netgpt.graphstore import Schema
from netgpt.graphstore.schema import NodeType, RelationType, edge_name
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.without import Without


@dataclass(frozen=True)
class _Place:
    """A type that a model's layers reach from the target."""

    node_type: str
    is_earlier: bool
    """Whether all its nodes there came to be before the target's node itself."""
    path: tuple[str, ...] = ()


def check_label_is_hidden(schema: Schema, label: str, num_layers: int, without: Without) -> None:
    """TrainerError where `label`, a column of the target, gets into the states of nodes that it is asked of.

    It may be a feature of a type that is numbered as the target is, if that is reached by groups alone whose
    heads are strictly earlier: then it is what others came to before.
    """
    target = schema.node_type(schema.target)
    tellers = {
        node.name
        for node in schema.node_types
        if node.table == target.name and node.name not in without.features and _has(node, target, label)
    }
    relations = [r for r in schema.relations if r.edge_type not in without.relations]
    for relation in relations:
        if schema.tells(relation, label):
            raise TrainerError(
                f"task.label: found {label!r}, by which {edge_name(relation.edge_type)} tells it of the "
                "examples themselves; expected no relation by it that ends in them"
            )
    if not tellers:
        return
    for place in (_Place(schema.target, False), *_places(schema, relations, num_layers)):
        if place.node_type in tellers and not place.is_earlier:
            way = f" by way of {', '.join(place.path)}" if place.path else ""
            raise TrainerError(
                f"task.label: found {label!r} among the features of {place.node_type}, which tell it of the "
                f"examples themselves{way}; expected it told of strictly earlier rows alone"
            )


def check_types_hide_label(
    schema: Schema, label: str, types: Iterable[str], relation: RelationType | None
) -> None:
    """TrainerError where a model that reads the features of some types, each with a node for each of the
    target, and one relation's heads would be told the label of the examples themselves."""
    target = schema.node_type(schema.target)
    for name in types:
        if _has(schema.node_type(name), target, label):
            raise TrainerError(
                f"task.label: found {label!r} among the features of {name}, which tell it of the examples "
                "themselves; expected features without it"
            )
    if relation is not None and schema.tells(relation, label):
        raise TrainerError(
            f"task.label: found {label!r}, by which {edge_name(relation.edge_type)} tells it of the examples "
            "themselves; expected no relation by it that ends in them"
        )


def _has(node: NodeType, target: NodeType, label: str) -> bool:
    """Whether a type of the target's rows has the label among its features."""
    if node.origin == "values":
        return False
    if not node.made_of and any(name.startswith("_") for name in node.inputs):
        # A store of before it said what a text was made of
        column = target.column_named(label)
        return column is not None and column.kind in ("text", "category")
    return label in (*node.inputs, *node.made_of)


def _places(schema: Schema, relations: list[RelationType], num_layers: int) -> Iterator[_Place]:
    """What layers reach, each by one of the shortest ways."""
    seen: set[tuple[str, bool]] = set()
    here = [_Place(schema.target, True)]
    for _ in range(num_layers):
        further = []
        for place in here:
            for relation in (r for r in relations if r.edge_type[2] == place.node_type):
                is_earlier = place.is_earlier and schema.is_strict(relation)
                head = relation.edge_type[0]
                if (head, is_earlier) not in seen:
                    seen.add((head, is_earlier))
                    path = (*place.path, edge_name(relation.edge_type))
                    further.append(_Place(head, is_earlier, path))
        yield from further
        here = further
