"""Encoders of graphs behind one interface: `Layer` says what one layer of each is."""

from __future__ import annotations

from netgpt.trainers.graph.encoders.layer import AttentionLayer, Layer, LayerEdges, LayerSpec, MeanLayer
from netgpt.trainers.graph.encoders.names import encoder_class

__all__ = ["AttentionLayer", "Layer", "LayerEdges", "LayerSpec", "MeanLayer", "make_layer"]


def make_layer(encoder: str, spec: LayerSpec) -> Layer:
    """One layer of an encoder, freshly initialised. encoder: of the table, or package.module:Name."""
    return encoder_class(encoder).make(spec)
