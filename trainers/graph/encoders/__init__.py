"""The encoders: RGCN, and the three graph baselines of the paper, behind one interface."""

from __future__ import annotations

from collections.abc import Callable

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders.gcn import GCNLayer
from netgpt.trainers.graph.encoders.han import HANLayer
from netgpt.trainers.graph.encoders.hetsann import HetSANNLayer
from netgpt.trainers.graph.encoders.layer import AttentionLayer, Block, Layer, MeanLayer
from netgpt.trainers.graph.encoders.rgcn import RGCNLayer

__all__ = ["TITLES", "AttentionLayer", "Block", "Layer", "MeanLayer", "make_layer"]

TITLES = {"rgcn": "RGCN", "gcn": "GCN", "han": "HAN", "hetsann": "HetSANN"}
"""Encoders by name in a configuration, as the literature spells them."""


def make_layer(
    encoder: str,
    edge_types: tuple[EdgeType, ...],
    node_types: tuple[str, ...],
    *,
    hidden: int,
    heads: int,
    num_bases: int,
) -> Layer:
    """One layer of an encoder, freshly initialised. `heads` is for han and hetsann, `num_bases` for rgcn."""
    makers: dict[str, Callable[[], Layer]] = {
        "rgcn": lambda: RGCNLayer(edge_types, hidden, num_bases),
        "gcn": lambda: GCNLayer(edge_types, hidden),
        "han": lambda: HANLayer(edge_types, node_types, hidden, heads),
        "hetsann": lambda: HetSANNLayer(edge_types, node_types, hidden, heads),
    }
    return makers[encoder]()
