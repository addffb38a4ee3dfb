"""Neighbour sampling: kernels, mini-batches, the local loader."""

from netgpt.sampler.batch import FlatBatch, MiniBatch
from netgpt.sampler.errors import SamplerError
from netgpt.sampler.features import BatchFeatures, FeatureGatherer
from netgpt.sampler.kernels.generator import GENERATOR
from netgpt.sampler.links import LinkBatch, LinkLoader
from netgpt.sampler.loader import NeighborLoader, SamplingEngine
from netgpt.sampler.neighbor import NeighborSampler
from netgpt.sampler.options import SamplingOptions
from netgpt.sampler.requests import Request

__all__ = [
    "GENERATOR",
    "BatchFeatures",
    "FeatureGatherer",
    "FlatBatch",
    "LinkBatch",
    "LinkLoader",
    "MiniBatch",
    "NeighborLoader",
    "NeighborSampler",
    "Request",
    "SamplerError",
    "SamplingEngine",
    "SamplingOptions",
]
