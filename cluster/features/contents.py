"""Files of videos, and words on what has none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.progress import say
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.features.frames import NO_FILE, REASONS


def video_files(features: FeaturesConfig, videos: dict[str, list[str]]) -> dict[str, Path | None]:
    """The file of each video, by address: named by the id of any of its states; None where there is none.

    Raises ClusterError where there is no such folder, for two files of one video, and for a video without a
    file with `unreadable: error`.
    """
    folder = Path(features.videos)
    if not folder.is_dir():
        raise ClusterError(f"features.videos: found no folder {folder}, expected one of video files")
    stems: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_file():
            continue
        if path.stem in stems:
            names = f"{stems[path.stem].name} and {path.name}"
            raise ClusterError(f"{folder}: found {names}, expected one a state")
        stems[path.stem] = path
    files: dict[str, Path | None] = {}
    for url, states in videos.items():
        own = [stems[state] for state in states if state in stems]
        if len(own) > 1:
            raise ClusterError(
                f"{folder}: found {own[0].name} and {own[1].name} of one video's states, expected one of them"
            )
        if not own and features.unreadable == "error":
            raise ClusterError(
                f"{folder}: found no file of the video {url} (states {', '.join(states[:4])}), expected one "
                "a video with features.unreadable=error"
            )
        files[url] = own[0].resolve() if own else None
    return files


def say_lacking(files: dict[str, Path | None], failed: list[str]) -> None:
    """How many videos have zeros, by reason. failed: lines of reason, tab, and what was found."""
    counts = Counter(line.partition("\t")[0] for line in failed)
    counts[REASONS[NO_FILE]] += sum(path is None for path in files.values())
    if total := counts.total():
        said = ", ".join(f"{reason}: {num:,}" for reason, num in counts.most_common() if num)
        say(f"zeros for {total:,} videos ({said})")
    if failed:
        say(f"first: {failed[0].partition(chr(9))[2]}")
