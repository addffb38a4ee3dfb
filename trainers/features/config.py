"""Settings of the encoders of raw features."""

from __future__ import annotations

import math
from dataclasses import dataclass

from netgpt.trainers.errors import require

POOLINGS = ("mean", "cls", "pooler")
POLICIES = ("zero", "error")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """What makes the vectors of texts and videos before the graph store is built."""

    text: str = ""
    """Directory or hub id of a transformers encoder; empty: build.encoder makes them."""
    pooling: str = "mean"
    """One vector from a text's tokens: mean over them, the first (cls), or the model's own pooler."""
    max_tokens: int = 256
    """Longest text in tokens; what is longer is cut at its end."""
    precision: str = "float32"
    """Numbers that both encoders compute with: float32 or bfloat16. Vectors are kept in float16."""
    batch_tokens: int = 0
    """Tokens of a batch, padding included; 0: from the memory there is."""
    video: str = ""
    """Directory or hub id of a Qwen2-VL whose vision tower encodes videos, with `frames` of any encoder of
    pictures (ViT, CLIP, SigLIP, DINOv2, …); empty: zeros."""
    videos: str = ""
    """Folder of video files, named by any state of the video: ID.mp4 (or another ending)."""
    frames: int = 0
    """Vectors of so many frames of a video, evenly from its first to its last, one behind the other; 0: one
    vector of the whole video."""
    frame_pooling: str = "cls"
    """One vector from what an encoder of pictures says of a frame: the first token (cls), the mean over all,
    or the model's own pooler. A Qwen2-VL's is the mean."""
    fps: float = 2.0
    """Frames sampled of a second of video, where `frames` does not say how many."""
    max_frames: int = 768
    """Most frames of a video."""
    max_pixels: int = 768 * 28 * 28
    """Most pixels of a frame; larger ones are scaled down, also where the model's own processor would not: a
    released Qwen2-VL's leaves 12.8 million. 0: as the processor alone."""
    unreadable: str = "zero"
    """Videos without a file, or with one that cannot be decoded: zero (counted), or error."""
    timeout_s: float = 60.0
    """For decoding one file; one that takes longer cannot be decoded."""
    workers: int = 0
    """Encoders at once; 0: cluster.workers."""
    gpus: float = 1.0
    """GPU share of an encoder, where the cluster has GPUs and cluster.device allows them."""

    def __post_init__(self) -> None:
        require(self.pooling in POOLINGS, "features.pooling", self.pooling, ", ".join(POOLINGS))
        require(self.precision in PRECISIONS, "features.precision", self.precision, ", ".join(PRECISIONS))
        require(self.max_tokens >= 8, "features.max_tokens", self.max_tokens, "at least 8")
        require(self.batch_tokens >= 0, "features.batch_tokens", self.batch_tokens, "at least 0")
        require(0 <= self.frames <= 1024, "features.frames", self.frames, "0 to 1024")
        found = self.frame_pooling
        require(found in POOLINGS, "features.frame_pooling", found, ", ".join(POOLINGS))
        require(0 < self.fps < math.inf, "features.fps", self.fps, "above 0")
        require(self.max_frames >= 2, "features.max_frames", self.max_frames, "at least 2")
        require(
            self.max_pixels == 0 or self.max_pixels >= 784,
            "features.max_pixels",
            self.max_pixels,
            "0 or at least 784",
        )
        require(self.unreadable in POLICIES, "features.unreadable", self.unreadable, ", ".join(POLICIES))
        require(0 < self.timeout_s < math.inf, "features.timeout_s", self.timeout_s, "above 0")
        require(self.workers >= 0, "features.workers", self.workers, "at least 0")
        require(0 < self.gpus <= 1, "features.gpus", self.gpus, "above 0, at most 1")
        both = bool(self.video) == bool(self.videos)
        require(both, "features.videos", self.videos, "a folder with features.video, and none without it")
