"""A folder of features for a file of records: read, encode what is missing, say what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.config import ClusterConfig, RunConfig
from cluster.errors import ClusterError
from cluster.features.contents import Contents, video_files
from cluster.features.encode import Pool, encode_texts, encode_videos
from cluster.progress import bar, counting_bar, say
from cluster.workers.locks import locked
from cluster.workers.session import local_cpus, ray_session
from graphstore import BuildConfig
from graphstore.xsvideo.records import Record, read_records
from trainers.features.config import FeaturesConfig


def make_features(config: RunConfig, records: Path, out: Path) -> Path:
    """Encode what the records have and the folder lacks, on the connected or on a local Ray.

    Raises RecordError for bad records before any model is loaded, ClusterError and TrainerError for what
    the models or files lack, StoreError where the folder has another encoder's vectors.
    """
    features = config.features
    if not (features.text or features.video):
        raise ClusterError("features: found neither --text nor --video, expected an encoder")
    with counting_bar("records", " records") as progress:
        contents = Contents.of(_counted(records, config.build, progress))
    files = video_files(Path(features.videos), contents.videos) if features.video else {}
    with locked(out), ray_session(local_cpus(config.cluster)):
        pool = _pool(features, config.cluster)
        if features.text:
            progress_bar = bar("text features", " texts")
            num = encode_texts(out, features, pool, list(contents.texts), progress_bar)
            say(
                f"text features: {len(contents.texts):,} distinct of {contents.num_texts:,} texts, "
                f"{num:,} encoded now"
            )
        if features.video:
            num, failed = encode_videos(out, features, pool, files, bar("video features", " videos"))
            say(
                f"video features: {len(contents.videos):,} videos of {contents.num_states:,} states, "
                f"{len(files):,} with a file, {num:,} tried now"
            )
            _say_lacking(contents, files, failed, features)
    return out


def feature_encoders(features: FeaturesConfig) -> dict[str, str]:
    """Names of the encoders that settings ask for, by kind, as a store has them. TrainerError for models
    that cannot be had."""
    found = {}
    if features.text:
        from trainers.features.text import text_identity

        found["text"] = text_identity(features)[0]
    if features.video:
        from trainers.features.video import video_identity

        found["video"] = video_identity(features)[0]
    return found


def features_for(config: RunConfig, records: Path, out: Path) -> Path | None:
    """The folder of features that settings ask for, made; None where they ask for none."""
    wanted = config.features.text or config.features.video
    return make_features(config, records, out) if wanted else None


def _say_lacking(
    contents: Contents, files: dict[str, Path], failed: list[str], features: FeaturesConfig
) -> None:
    counts = Counter(line.partition("\t")[0] for line in failed)
    if without := len(contents.videos) - len(files):
        counts["no file"] += without
    if counts:
        said = ", ".join(f"{reason}: {num:,}" for reason, num in counts.most_common())
        say(f"zeros for {counts.total():,} videos ({said})")
    if failed:
        say(f"first: {failed[0].partition(chr(9))[2]}")
    if without and features.unreadable == "error":
        url, states = next((u, s) for u, s in contents.videos.items() if u not in files)
        raise ClusterError(
            f"{features.videos}: found no file of the video {url} (states {', '.join(states[:4])}), expected "
            "one a video with features.unreadable=error"
        )


def _pool(features: FeaturesConfig, cluster: ClusterConfig) -> Pool:
    """As many encoders as were asked for, or as the cluster's GPUs hold. ClusterError for GPUs it lacks."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0.0)
    if cluster.device == "cuda" and gpus < features.gpus:
        raise ClusterError(f"cluster.device: found cuda, but the cluster has {gpus:g} GPUs; set auto or cpu")
    if cluster.device == "cpu" or gpus < features.gpus:
        return Pool(features.workers or cluster.workers, cluster.threads, 0.0)
    return Pool(features.workers or int(gpus / features.gpus), cluster.threads, features.gpus)


def _counted(records: Path, build: BuildConfig, progress: Callable[[int], object]) -> Iterator[Record]:
    for record in read_records(records, on_error=build.on_error, bad_numbers=build.bad_numbers):
        progress(1)
        yield record
