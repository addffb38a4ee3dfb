"""Encoders as pools of Ray Data actors. Each writes what it made as a part of the folder; Ray sees counts.

A shard is done when its part is renamed into place. What a killed actor had in hand is made again by
another; what a killed command had done is found by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import ClusterError, StageFailedError
from cluster.workers.pool import map_on_pool
from graphstore.feature_cache import OK, FeatureTable, content_key, write_part
from trainers.errors import TrainerError
from trainers.features.config import FeaturesConfig
from trainers.features.frames import NO_FILE, REASONS, FramesError

TEXTS_A_SHARD, VIDEOS_A_SHARD = 2048, 16


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


class _Actor:
    """Common to both: a model on a device, errors as values (Ray Data makes text of what is raised)."""

    def __init__(self, folder: str, config: dict[str, Any], threads: int, device: str) -> None:
        import torch

        torch.set_num_threads(threads)
        self.folder, self.config, self.device = Path(folder), FeaturesConfig(**config), device
        self.error = ""
        try:
            self.load()
        except TrainerError as refused:
            self.error = str(refused)

    def load(self) -> None:
        raise NotImplementedError

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        (shard,) = batch["shard"]
        found: dict[str, Any] = {"num": len(shard), "error": self.error, "failed": []}
        if not self.error:
            try:
                found["failed"] = self.encode(list(shard))
            except TrainerError as refused:
                found["error"] = str(refused)
        return {key: [value] for key, value in found.items()}

    def encode(self, shard: list[Any]) -> list[str]:
        raise NotImplementedError


class _Texts(_Actor):
    def load(self) -> None:
        from trainers.features.text import TextModel

        self.model = TextModel(self.config, self.device)

    def encode(self, shard: list[str]) -> list[str]:
        write_part(self.folder, [content_key(text) for text in shard], self.model.encode(shard))
        return []


class _Videos(_Actor):
    """A shard's rows are address and path."""

    def load(self) -> None:
        from trainers.features.reader import FrameReader
        from trainers.features.video import VideoModel

        self.model = VideoModel(self.config, self.device)
        self.reader = FrameReader(self.model.rule, self.config.timeout_s)

    def encode(self, shard: list[dict[str, str]]) -> list[str]:
        from trainers.features.checkpoint import as_float16

        x = np.zeros((len(shard), self.model.dim), np.float16)
        status, stamp, failed = np.zeros(len(shard), np.int8), np.zeros(len(shard), np.int64), []
        for i, video in enumerate(shard):
            path = Path(video["path"])
            try:
                stamp[i] = file_stamp(path)
                x[i] = as_float16(self.model.vector(self.reader.read(path)), self.model.name)
            except FramesError as error:
                status[i] = error.reason
                failed.append(f"{REASONS[error.reason]}\t{path}: {error}")
        keys = [content_key(video["url"]) for video in shard]
        write_part(self.folder, keys, x, status, stamp)
        return failed


def file_stamp(path: Path) -> int:
    """What tells a file that was changed since it was tried. FramesError where it is gone."""
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise FramesError(NO_FILE, str(error.strerror)) from error


def encode_texts(
    out: Path, config: FeaturesConfig, pool: Pool, texts: list[str], progress: Callable[[int, int], None]
) -> int:
    """Encode the texts that the folder lacks; how many that were."""
    from trainers.features.text import text_identity

    table = FeatureTable.create(out, "text", *text_identity(config))
    missing = [text for text in texts if table.status(content_key(text)) is None]
    shards = [missing[i : i + TEXTS_A_SHARD] for i in range(0, len(missing), TEXTS_A_SHARD)]
    for _ in _encoded(_Texts, table, config, pool, shards, progress):
        pass
    return len(missing)


def encode_videos(
    out: Path,
    config: FeaturesConfig,
    pool: Pool,
    files: dict[str, Path],
    progress: Callable[[int, int], None],
) -> tuple[int, list[str]]:
    """Encode the videos that the folder lacks, and those whose file changed since it could not be read.

    Returns how many that were, and a line for each that cannot be read (reason, tab, file and found);
    with `unreadable: error` the first of these is a ClusterError.
    """
    from trainers.features.video import video_identity

    table = FeatureTable.create(out, "video", *video_identity(config))
    missing, failed = [], []
    for url, path in files.items():
        key = content_key(url)
        status = table.status(key)
        if status is None or (status != OK and table.stamp(key) != file_stamp(path)):
            missing.append({"url": url, "path": str(path)})
        elif status != OK:
            failed.append(f"{REASONS[status]}\t{path}: {REASONS[status]}")
    shards = [missing[i : i + VIDEOS_A_SHARD] for i in range(0, len(missing), VIDEOS_A_SHARD)]
    for row in _encoded(_Videos, table, config, pool, shards, progress):
        failed.extend(row["failed"])
        if failed and config.unreadable == "error":
            break
    if failed and config.unreadable == "error":
        raise ClusterError(f"{failed[0].partition(chr(9))[2]}; features.unreadable=zero goes on without it")
    return len(missing), failed


def _encoded(
    actor: type[_Actor],
    table: FeatureTable,
    config: FeaturesConfig,
    pool: Pool,
    shards: list[Any],
    progress: Callable[[int, int], None],
) -> Iterator[dict[str, Any]]:
    import ray

    if not shards:
        return
    done, total = 0, sum(len(shard) for shard in shards)
    arguments = (str(table.root.resolve()), asdict(config), pool.cpus, pool.device)
    rows = [{"shard": shard} for shard in shards]
    try:
        for row in map_on_pool(
            rows, actor, arguments, size=pool.size, ordered=False, cpus=pool.cpus, gpus=pool.gpus
        ):
            if row["error"]:
                raise TrainerError(row["error"])
            done += int(row["num"])
            progress(done, total)
            yield row
    except ray.exceptions.RayError as error:
        raise StageFailedError(f"{table.kind} features: {error}") from error
    if done != total:
        raise StageFailedError(f"{table.kind} features: found {done} encoded, expected {total}")
