"""A folder of features for a data set's file: read, encode what is missing, say what there was."""

from __future__ import annotations

from pathlib import Path

from netgpt.cluster.config import ClusterConfig, RunConfig
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.features.contents import say_lacking, video_files
from netgpt.cluster.features.encode import Encoder, Pool, encode_texts, encode_videos
from netgpt.cluster.progress import bar, counting_bar, say
from netgpt.cluster.workers.locks import locked
from netgpt.cluster.workers.session import local_cpus, ray_session
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.vectors import contents_of
from netgpt.trainers.features.config import FeaturesConfig


def make_features(config: RunConfig, records: Path, out: Path) -> Path:
    """Encode what the records have and the folder lacks, on the connected or on a local Ray.

    Raises RecordError for bad records before any model is loaded, ClusterError and TrainerError for what
    the models or files lack, StoreError where the folder has another encoder's vectors.
    """
    features = config.features
    if not (features.text or features.video):
        raise ClusterError("features: found neither --text nor --video, expected an encoder")
    dataset = datasets.load(config.dataset)
    source = dataset.open(records, config.build, check_history=False)
    with counting_bar(dataset.unit, f" {dataset.unit}") as progress:
        contents = contents_of(source, progress)
    files = video_files(features, contents.videos) if features.video else {}
    encoders = _encoders(features)
    with locked(out), ray_session(local_cpus(config.cluster)):
        pool = _pool(features, config.cluster)
        if "text" in encoders:
            shown = bar("text features", " texts")
            num = encode_texts(out, encoders["text"], features, pool, list(contents.texts), shown)
            say(
                f"text features: {len(contents.texts):,} distinct of {contents.num_texts:,} texts, "
                f"{num:,} encoded now"
            )
        if "video" in encoders:
            shown = bar("video features", " videos")
            num, failed = encode_videos(out, encoders["video"], features, pool, files, shown)
            with_file = sum(path is not None for path in files.values())
            say(
                f"video features: {len(files):,} videos of {contents.num_states:,} states, "
                f"{with_file:,} with a file, {num:,} tried now"
            )
            say_lacking(files, failed)
    return out


def _encoders(features: FeaturesConfig) -> dict[str, Encoder]:
    """Name and width of the encoders that settings ask for, by kind."""
    asked = {}
    if features.text:
        from netgpt.trainers.features.text import text_identity

        asked["text"] = text_identity(features)
    if features.video:
        from netgpt.trainers.features.video import video_identity

        asked["video"] = video_identity(features)
    return asked


def feature_encoders(features: FeaturesConfig) -> dict[str, str]:
    """Names of the encoders that settings ask for, by kind, as a store has them. TrainerError for models
    that cannot be had."""
    return {kind: name for kind, (name, _) in _encoders(features).items()}


def features_for(config: RunConfig, records: Path, out: Path) -> Path | None:
    """The folder of features that settings ask for, made; None where they ask for none."""
    wanted = config.features.text or config.features.video
    return make_features(config, records, out) if wanted else None


def _pool(features: FeaturesConfig, cluster: ClusterConfig) -> Pool:
    """As many encoders as were asked for, or as the cluster's GPUs hold. ClusterError for GPUs it lacks."""
    import ray

    gpus = ray.cluster_resources().get("GPU", 0.0)
    cpus = max(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    if cpus < cluster.threads:
        raise ClusterError(
            f"cluster.threads: found {cluster.threads} of an encoder; the largest node has {cpus:g} CPUs"
        )
    if cluster.device == "cuda" and gpus < features.gpus:
        raise ClusterError(f"cluster.device: found cuda, but the cluster has {gpus:g} GPUs; set auto or cpu")
    if cluster.device == "cpu" or gpus < features.gpus:
        return Pool(features.workers or cluster.workers, cluster.threads, 0.0)
    # Shares do not go over from one GPU to the next
    return Pool(features.workers or int(gpus) * int(1 / features.gpus), cluster.threads, features.gpus)
