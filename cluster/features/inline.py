"""Encoders in this process, without Ray: for the few records of a prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.features.contents import say_lacking, video_files
from netgpt.cluster.features.encode import failure, no_vectors
from netgpt.graphstore import Source, Store
from netgpt.graphstore.features import TextEncoder, VideoEncoder
from netgpt.graphstore.vectors import contents_of
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.features.frames import FramesError


class _VideoFiles:
    """Vectors of the videos that have a file: a `VideoEncoder` that decodes what it is asked for."""

    def __init__(self, config: FeaturesConfig, files: dict[str, Path | None], device: str) -> None:
        from netgpt.trainers.features.reader import FrameReader
        from netgpt.trainers.features.video import video_model

        model = video_model(config, device)
        self.name, self.dim = model.name, model.dim
        self._x: dict[str, np.ndarray] = {}
        failed = []
        with FrameReader(model.rule, config.timeout_s) as reader:
            for url, path in files.items():
                try:
                    if path is not None:
                        self._x[url] = model.encode(reader.read(path))
                except FramesError as error:
                    if config.unreadable == "error":
                        raise ClusterError(f"{path}: {error}") from error
                    failed.append(failure(error.reason, f"{path}: {error}"))
        say_lacking(files, failed)

    def has(self, url: str) -> bool:
        return url in self._x

    def encode(self, urls: list[str]) -> np.ndarray:
        return np.stack([self._x[url] for url in urls]) if urls else no_vectors(self.dim)


def require_text(config: FeaturesConfig, store: Store) -> None:
    """ClusterError where the store has text vectors of a model that the settings do not name."""
    made_of = store.attributes.get("features", {})
    if not config.text and "text" in made_of:
        raise ClusterError(f"{store.path}: found text features of {made_of['text']}; name the model: --text")


def inline_text(config: FeaturesConfig, store: Store, device: str) -> TextEncoder | None:
    """The text encoder that settings name; None where they name none, and the store's own serves.
    ClusterError as of `require_text`."""
    require_text(config, store)
    if not config.text:
        return None
    from netgpt.trainers.features.text import TextModel

    return TextModel(config, device)


def inline_encoders(
    config: FeaturesConfig, store: Store, source: Source, device: str
) -> tuple[TextEncoder | None, VideoEncoder | None]:
    """The encoders that settings name, for these rows; None where they name none.

    config.videos: folder of the rows' files; without one, videos have the zero vector. Raises ClusterError
    where the store has text vectors of a model that the settings do not name.
    """
    text = inline_text(config, store, device)
    video: VideoEncoder | None = None
    if config.video:
        files = video_files(config, contents_of(source).videos)
        video = _VideoFiles(config, files, device)
    return text, video
