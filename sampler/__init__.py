"""Neighbour sampling: kernels, mini-batches, the local loader."""

from sampler.batch import FlatBatch, MiniBatch
from sampler.errors import SamplerError
from sampler.features import BatchFeatures, FeatureGatherer
from sampler.kernels.generator import GENERATOR
from sampler.loader import NeighborLoader, SamplingEngine
from sampler.neighbor import NeighborSampler
from sampler.options import SamplingOptions
from sampler.requests import Request

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
