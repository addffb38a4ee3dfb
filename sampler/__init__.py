"""Neighbour sampling: kernels, mini-batches, the local loader."""

from sampler.batch import FlatBatch, MiniBatch
from sampler.errors import SamplerError
from sampler.features import BatchFeatures, FeatureGatherer
from sampler.generator import GENERATOR
from sampler.loader import NeighborLoader, SamplingEngine
from sampler.neighbor import NeighborSampler, Request
from sampler.options import SamplingOptions

__all__ = [
    "GENERATOR",
    "BatchFeatures",
    "FeatureGatherer",
    "FlatBatch",
    "MiniBatch",
    "NeighborLoader",
    "NeighborSampler",
    "Request",
    "SamplerError",
    "SamplingEngine",
    "SamplingOptions",
]
