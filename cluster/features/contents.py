"""What records have to encode: each distinct text and each video once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cluster.errors import ClusterError
from graphstore.xsvideo.records import Record


@dataclass
class Contents:
    texts: dict[str, None] = field(default_factory=dict)
    """Distinct texts of all kinds, in the order of the records."""
    videos: dict[str, list[str]] = field(default_factory=dict)
    """Address of each video → ids of its states."""
    num_texts: int = 0
    num_states: int = 0

    @staticmethod
    def of(records: Iterable[Record]) -> Contents:
        found = Contents()
        for record in records:
            named = [text for text in (record.platform, record.topic) if text]
            texts = [record.title, record.description, *named, *(c.text for c in record.comments)]
            found.texts.update(dict.fromkeys(texts))
            found.videos.setdefault(record.url, []).append(record.id)
            found.num_texts += len(texts)
            found.num_states += 1
        return found


def video_files(folder: Path, videos: dict[str, list[str]]) -> dict[str, Path]:
    """The file of each video that has one, by address: named by the id of any of its states.

    Raises ClusterError where there is no such folder, and for two files of one video.
    """
    if not folder.is_dir():
        raise ClusterError(f"features.videos: found no folder {folder}, expected one of video files")
    stems: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.stem in stems:
            raise ClusterError(
                f"{folder}: found {stems[path.stem].name} and {path.name}, expected one a state"
            )
        stems[path.stem] = path
    found: dict[str, Path] = {}
    for url, states in videos.items():
        own = [stems[state] for state in states if state in stems]
        if len(own) > 1:
            raise ClusterError(
                f"{folder}: found {own[0].name} and {own[1].name} of one video's states, expected one of them"
            )
        if own:
            found[url] = own[0].resolve()
    return found
