"""The encoders by name: RGCN, the three graph baselines of the paper, and others of the field."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netgpt.trainers import names

if TYPE_CHECKING:
    from netgpt.trainers.graph.encoders.layer import Layer

ENCODERS = {
    "rgcn": "netgpt.trainers.graph.encoders.rgcn:RGCNLayer",
    "gcn": "netgpt.trainers.graph.encoders.gcn:GCNLayer",
    "han": "netgpt.trainers.graph.encoders.han:HANLayer",
    "hetsann": "netgpt.trainers.graph.encoders.hetsann:HetSANNLayer",
    "sage": "netgpt.trainers.graph.encoders.sage:SAGELayer",
    "hgt": "netgpt.trainers.graph.encoders.hgt:HGTLayer",
}
ATTENTION = frozenset({"han", "hetsann", "hgt"})
"""Those with attention heads, which walk every edge."""


def encoder_class(name: str) -> type[Layer]:
    """The layer's class of an encoder of the table, or of package.module:Name."""
    kind: type[Layer] = names.load(ENCODERS, name, "graph.encoder")
    return kind
