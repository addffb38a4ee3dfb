"""Encoders as pools of actors. Each writes what it made as a part of the folder; Ray sees counts.

A shard is done when its part is renamed into place. What a killed actor had in hand is made again by
another; what a killed command had done is found by the next.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from netgpt.cluster.errors import ClusterError, StageFailedError
from netgpt.cluster.workers.pool import map_on_pool
from netgpt.graphstore.features import content_key
from netgpt.graphstore.vectors import KINDS, OK, FeatureTable, write_part
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.features.frames import NO_FILE, REASONS, TOO_LONG, FramesError
from netgpt.trainers.progress import OnProgress

TEXTS_A_SHARD, VIDEOS_A_SHARD = 2048, 16
Encoder = tuple[str, int]
"""Name and width."""


@dataclass(frozen=True)
class Pool:
    """What the encoders take of the cluster."""

    size: int
    cpus: int
    """Threads of each."""
    gpus: float
    """Share of a GPU of each; 0: on CPUs."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True)
class Encoded:
    """What an actor says of a shard."""

    num: int
    failed: list[str]
    """A `failure` for each row without a vector."""
    error: str = ""
    """Why none of its shards can be encoded."""


Shard = TypeVar("Shard", list[str], list["VideoFile"])


class _Encoder(Generic[Shard]):
    """An actor: a model on a device."""

    def __init__(self, folder: str, name: str, config: FeaturesConfig, threads: int, device: str) -> None:
        from netgpt.trainers.processor import use_cores

        use_cores(threads)
        self.folder, self.config, self.device = Path(folder), config, device
        self.error = ""
        try:
            loaded = self.load()
            if loaded != name:  # a node with other files in the model's place
                self.error = f"{self.folder}: a node has the encoder {loaded}, expected {name}"
        except TrainerError as refused:
            self.error = str(refused)

    def load(self) -> str:
        """Make the model; its name."""
        raise NotImplementedError

    def make(self, shard: Shard) -> Encoded:
        if self.error:
            return Encoded(len(shard), [], self.error)
        try:
            return Encoded(len(shard), self.encode(shard))
        except TrainerError as refused:
            return Encoded(len(shard), [], str(refused))

    def encode(self, shard: Shard) -> list[str]:
        """Write the shard's part; a `failure` for each row without a vector."""
        raise NotImplementedError


class TextEncoder(_Encoder[list[str]]):
    def load(self) -> str:
        from netgpt.trainers.features.text import TextModel

        self.model = TextModel(self.config, self.device)
        return self.model.name

    def encode(self, shard: list[str]) -> list[str]:
        write_part(self.folder, [content_key(text) for text in shard], self.model.encode(shard))
        return []


@dataclass(frozen=True)
class VideoFile:
    url: str
    path: str


class VideoEncoder(_Encoder[list[VideoFile]]):
    def load(self) -> str:
        from netgpt.trainers.features.reader import FrameReader
        from netgpt.trainers.features.video import video_model

        self.model = video_model(self.config, self.device)
        self.reader = FrameReader(self.model.rule, self.config.timeout_s)
        return self.model.name

    def encode(self, shard: list[VideoFile]) -> list[str]:
        x = []
        status, stamp, failed = np.zeros(len(shard), np.int8), np.zeros(len(shard), np.int64), []
        for i, video in enumerate(shard):
            path = Path(video.path)
            stamp[i] = file_stamp(path)
            try:
                x.append(self.model.encode(self.reader.read(path)))
            except FramesError as error:
                status[i] = error.reason
                failed.append(failure(error.reason, f"{path}: {error}"))
        keys = [content_key(video.url) for video in shard]
        write_part(self.folder, keys, np.stack(x) if x else no_vectors(self.model.dim), status, stamp)
        return failed


def no_vectors(dim: int) -> np.ndarray:
    return np.zeros((0, dim), np.float16)


def failure(reason: int, text: str) -> str:
    """A line of a video without a vector: its reason, a tab, and what was found."""
    return f"{REASONS[reason]}\t{text}"


def file_stamp(path: Path) -> int:
    """What tells a file that was changed since it was tried; 0 where it is gone."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def encode_texts(
    out: Path,
    encoder: Encoder,
    config: FeaturesConfig,
    pool: Pool,
    texts: list[str],
    progress: OnProgress,
) -> int:
    """Encode the texts that the folder lacks; how many that were."""
    table = FeatureTable.create(out, "text", *encoder)
    missing = [text for text in texts if table.status(content_key(text)) is None]
    shards = [missing[i : i + TEXTS_A_SHARD] for i in range(0, len(missing), TEXTS_A_SHARD)]
    with closing(_encoded(TextEncoder, table, config, pool, shards, progress)) as parts:
        for _ in parts:
            pass
    return len(missing)


def encode_videos(
    out: Path,
    encoder: Encoder,
    config: FeaturesConfig,
    pool: Pool,
    files: dict[str, Path | None],
    progress: OnProgress,
) -> tuple[int, list[str]]:
    """Encode the videos that the folder lacks. Those that could not be read are tried again where their file
    has changed since, or where they only took too long.

    files: of each video, by address. Returns how many were tried, and a `failure` for each file that gives
    no vector; with `unreadable: error` the first of these is a ClusterError.
    """
    table = FeatureTable.create(out, "video", *encoder)
    missing, failed, without = [], [], []
    for url, path in files.items():
        key = content_key(url)
        status = table.status(key)
        if path is None:
            if status is None:
                without.append(key)
        elif status is None or (
            status != OK and (status == TOO_LONG or table.stamp(key) != file_stamp(path))
        ):
            missing.append(VideoFile(url, str(path)))
        elif status != OK:
            failed.append(failure(status, f"{path}: {REASONS[status]}"))
    if without:
        nothing = np.full(len(without), NO_FILE, np.int8)
        write_part(table.root, without, no_vectors(table.dim), nothing)
    shards = [missing[i : i + VIDEOS_A_SHARD] for i in range(0, len(missing), VIDEOS_A_SHARD)]
    with closing(_encoded(VideoEncoder, table, config, pool, shards, progress)) as parts:
        for part in parts:
            failed.extend(part.failed)
            if failed and config.unreadable == "error":
                break
    if failed and config.unreadable == "error":
        raise ClusterError(f"{failed[0].partition(chr(9))[2]}; features.unreadable=zero goes on without it")
    return len(missing), failed


def _encoded(
    actor: type[_Encoder[Shard]],
    table: FeatureTable,
    config: FeaturesConfig,
    pool: Pool,
    shards: list[Shard],
    progress: OnProgress,
) -> Generator[Encoded, None, None]:
    import ray

    if not shards:
        return
    done, total = 0, sum(len(shard) for shard in shards)
    # A worker's folder is another one: what is a folder here is sent by its whole path
    models: dict[str, str] = {kind: getattr(config, kind) for kind in KINDS}
    whole = {kind: str(Path(name).resolve()) for kind, name in models.items() if name and Path(name).is_dir()}
    asked = FeaturesConfig(**{**asdict(config), **whole})
    arguments = (str(table.root.resolve()), table.name, asked, pool.cpus, pool.device)
    made = map_on_pool(
        shards, actor, arguments, size=pool.size, ordered=False, cpus=pool.cpus, gpus=pool.gpus
    )
    try:
        with closing(made):
            for part in made:
                if part.error:
                    raise TrainerError(part.error)
                done += part.num
                progress(done, total)
                yield part
    except ray.exceptions.RayError as error:
        raise StageFailedError(f"{table.kind} features: {error}") from error
    if done != total:
        raise StageFailedError(f"{table.kind} features: found {done} encoded, expected {total}")
