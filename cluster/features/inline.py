"""Encoders in this process, without Ray: for the few records of a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cluster.errors import ClusterError
from cluster.features.contents import Contents, video_files
from graphstore.features import TextEncoder, VideoEncoder
from graphstore.xsvideo.records import Record
from trainers.features.config import FeaturesConfig


class _VideoFiles:
    """Vectors of the videos that have a file: a `VideoEncoder` that decodes what it is asked for."""

    def __init__(self, config: FeaturesConfig, files: dict[str, Path]) -> None:
        from trainers.features.frames import FramesError
        from trainers.features.reader import FrameReader
        from trainers.features.video import VideoModel

        model = VideoModel(config)
        self.name, self.dim = model.name, model.dim
        self._x: dict[str, np.ndarray] = {}
        with FrameReader(model.rule, config.timeout_s) as reader:
            for url, path in files.items():
                try:
                    self._x[url] = model.vector(reader.read(path)).astype(np.float16)
                except FramesError as error:
                    if config.unreadable == "error":
                        raise ClusterError(f"{path}: {error}") from error

    def has(self, url: str) -> bool:
        return url in self._x

    def encode(self, urls: list[str]) -> np.ndarray:
        return np.stack([self._x[url] for url in urls]) if urls else np.zeros((0, self.dim), np.float16)


def inline_encoders(
    config: FeaturesConfig, records: Sequence[Record], videos: str | None
) -> tuple[TextEncoder | None, VideoEncoder | None]:
    """The encoders that settings name, for these records; None where they name none.

    videos: folder of the records' files; without one, videos have the zero vector.
    """
    text: TextEncoder | None = None
    video: VideoEncoder | None = None
    if config.text:
        from trainers.features.text import TextModel

        text = TextModel(config)
    if videos is not None:
        if not config.video:
            raise ClusterError("--videos: found a folder, but the run has no features.video to encode with")
        files = video_files(Path(videos), Contents.of(records).videos)
        video = _VideoFiles(replace(config, videos=videos), files)
    return text, video
