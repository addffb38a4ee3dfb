"""Neighbour sampling: kernels, mini-batches, the local loader."""

from sampler.batch import MiniBatch
from sampler.errors import SamplerError
from sampler.kernels import GENERATOR
from sampler.loader import NeighborLoader, SamplingEngine
from sampler.neighbor import NeighborSampler

__all__ = ["GENERATOR", "MiniBatch", "NeighborLoader", "NeighborSampler", "SamplerError", "SamplingEngine"]
