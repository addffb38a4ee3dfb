"""Exact full-neighbour inference, layer by layer, within a memory budget, and its cache.

States of the types that relations end in, before and behind a layer, are arrays, in memory as far as the
budget goes and else in mapped files; everything else is made in blocks. Nodes of other types have no heads:
their states follow from their features alone, so they are made once for each distinct content.
"""

from netgpt.trainers.graph.exact.cache import (
    cache_digests,
    cached_mean_scores,
    open_cache,
    write_cache,
    write_ids,
    write_vectors,
)
from netgpt.trainers.graph.exact.inference import ExactInference, embed, exact_scores
from netgpt.trainers.graph.exact.joining import KeptStates, NewNodes

__all__ = [
    "ExactInference",
    "KeptStates",
    "NewNodes",
    "cache_digests",
    "cached_mean_scores",
    "embed",
    "exact_scores",
    "open_cache",
    "write_cache",
    "write_ids",
    "write_vectors",
]
