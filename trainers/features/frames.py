"""Frames of a video file: as Qwen2-VL's video processor samples, scales and cuts them into patches, or so
many of a video, evenly, as an encoder of pictures reads them.

PyAV decodes: its wheels bring FFmpeg with them, where torchcodec wants one of the system's. The steps
behind it are written here over torch alone, since the processor of transformers needs torchvision.

Legend: F frames, H and W their size, P patches of a video, C numbers of a patch.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

NO_FILE, EMPTY, NOT_VIDEO, BROKEN, TOO_LONG = 1, 2, 3, 4, 5
REASONS = {
    NO_FILE: "no file",
    EMPTY: "no bytes",
    NOT_VIDEO: "no video stream",
    BROKEN: "cannot be decoded",
    TOO_LONG: "takes too long",
}
"""Why a video has no vector: what a folder of features keeps as its status."""
_MAX_RATIO = 200


class FramesError(Exception):
    """A file that gives no frames, with its reason (a key of REASONS) and what was found."""

    def __init__(self, reason: int, found: str) -> None:
        super().__init__(reason, found)
        self.reason, self.found = reason, found

    def __str__(self) -> str:
        return f"{REASONS[self.reason]} ({self.found})"


class Rule(Protocol):
    """Which frames of a video are read, and at which size."""

    @property
    def evenly(self) -> int:
        """So many, evenly and turned as they are shown; 0: by time, and as they are stored."""
        ...

    def chosen(self, num_frames: int, source_fps: float) -> list[int]:
        """Numbers of frames, rising; one may be there more than once. source_fps: 0 where it is not known."""
        ...

    def scaled(self, frame_HW3: np.ndarray) -> np.ndarray:
        """[H, W, 3] → [3, H′, W′], both uint8. FramesError for what has no such size."""
        ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class FrameRule:
    """How frames are chosen and scaled: the model's own preprocessor_config.json, and three settings."""

    fps: float = 2.0
    min_frames: int = 4
    max_frames: int = 768
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    patch: int = 14
    temporal_patch: int = 2
    merge: int = 2
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    evenly: int = 0
    """So many frames of any video, evenly from first to last; 0: by `fps`."""

    def chosen(self, num_frames: int, source_fps: float) -> list[int]:
        if self.evenly:
            return even_frames(num_frames, self.evenly)
        return sampled_frames(num_frames, source_fps or self.fps, self)

    def scaled(self, frame_HW3: np.ndarray) -> np.ndarray:
        return scaled(frame_HW3, self)

    def to_json(self) -> dict[str, Any]:
        """Without what names of vectors of before do not have."""
        return {key: value for key, value in asdict(self).items() if key != "evenly" or value}


@dataclass(frozen=True)
class PictureRule:
    """Frames as an encoder of pictures has them: each at one size, by its own preprocessor_config.json."""

    evenly: int
    height: int
    width: int
    """Of the picture that is read, cut from the middle."""
    resize: tuple[int, int]
    """Height and width before that; a width of 0: the shorter side has that height."""
    mode: str = "bilinear"
    """How pixels are interpolated, as torch names it."""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def chosen(self, num_frames: int, source_fps: float) -> list[int]:
        return even_frames(num_frames, self.evenly)

    def scaled(self, frame_HW3: np.ndarray) -> np.ndarray:
        height, width = self.resize
        if not width:
            short, long = sorted(frame_HW3.shape[:2])
            if long > _MAX_RATIO * short:
                raise FramesError(BROKEN, f"{frame_HW3.shape[1]} × {frame_HW3.shape[0]} pixels")
            sides = (height, int(height * long / short))  # of the shorter and of the longer one
            height, width = sides if frame_HW3.shape[0] <= frame_HW3.shape[1] else sides[::-1]
        frame = resized(frame_HW3, (height, width), self.mode)
        return np.ascontiguousarray(centre(frame, self.height, self.width))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rule_from_json(raw: dict[str, Any]) -> Rule:
    """What `to_json` of a rule said."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return PictureRule(**values) if "resize" in values else FrameRule(**values)


def even_frames(num_frames: int, wanted: int) -> list[int]:
    """So many of a video's frames, evenly from the first to the last: ⌊i (F − 1) / (n − 1)⌋, the first alone
    for n = 1. Of a video with fewer some are there more than once."""
    steps = max(1, wanted - 1)
    return [i * (num_frames - 1) // steps for i in range(wanted)]


def centre(frame_3HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a frame; what it lacks is black: [3, H, W] → [3, height, width]."""
    _, h, w = frame_3HW.shape
    if h < height or w < width:
        pad = [(0, 0)] + [(max(0, n - m + 1) // 2, max(0, n - m) // 2) for n, m in ((height, h), (width, w))]
        frame_3HW = np.pad(frame_3HW, pad)
        _, h, w = frame_3HW.shape
    top, left = (h - height) // 2, (w - width) // 2
    return frame_3HW[:, top : top + height, left : left + width]


def sampled_frames(num_frames: int, source_fps: float, rule: FrameRule) -> list[int]:
    """Frames that are taken of a video, ascending: about `rule.fps` a second, evenly, an even number.

    As the processor's own sampling; of a video with fewer frames than a temporal patch has, all.
    """
    most = min(rule.max_frames, num_frames) // rule.temporal_patch * rule.temporal_patch
    wanted = num_frames / source_fps * rule.fps
    num = math.floor(min(max(wanted, rule.min_frames), most) / rule.temporal_patch) * rule.temporal_patch
    if num < 1:
        return list(range(num_frames))
    # float32 steps, as there: another rounding would take other frames
    places = torch.arange(0, num_frames, num_frames / num).int()
    return [min(int(i), num_frames - 1) for i in places[:num]]


def scaled_size(height: int, width: int, rule: FrameRule) -> tuple[int, int]:
    """Height and width in whole merged patches, with the number of pixels between the rule's bounds."""
    factor = rule.patch * rule.merge
    if max(height, width) > _MAX_RATIO * min(height, width):
        raise FramesError(BROKEN, f"{width} × {height} pixels")
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > rule.max_pixels:
        shrink = math.sqrt(height * width / rule.max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < rule.min_pixels:
        grow = math.sqrt(rule.min_pixels / (height * width))
        h = math.ceil(height * grow / factor) * factor
        w = math.ceil(width * grow / factor) * factor
    return h, w


def scaled(frame_HW3: np.ndarray, rule: FrameRule) -> np.ndarray:
    """One frame of bytes in whole merged patches: [H, W, 3] → [3, H′, W′] uint8, bicubic, antialiased."""
    return resized(frame_HW3, scaled_size(frame_HW3.shape[0], frame_HW3.shape[1], rule), "bicubic")


def resized(frame_HW3: np.ndarray, size: tuple[int, int], mode: str) -> np.ndarray:
    """[H, W, 3] → [3, *size], both uint8, antialiased; "nearest" as it is."""
    frame = torch.from_numpy(np.ascontiguousarray(frame_HW3)).permute(2, 0, 1)[None]
    if size != tuple(frame.shape[-2:]):
        smooth: dict[str, Any] = {} if mode == "nearest" else {"align_corners": False, "antialias": True}
        frame = F.interpolate(frame, size=size, mode=mode, **smooth)
    return np.asarray(frame[0].contiguous().numpy())


def patches(frames_F3HW: np.ndarray, rule: FrameRule) -> tuple[torch.Tensor, torch.Tensor]:
    """What the vision tower reads: [F, 3, H, W] uint8 → ([P, C] float32, grid [1, 3] int64)."""
    x = torch.from_numpy(frames_F3HW)
    if odd := -len(x) % rule.temporal_patch:
        x = torch.cat([x, x[-1:].expand(odd, -1, -1, -1)])
    # Scale and normalisation in one step, as the processor fuses them
    mean = torch.tensor(rule.mean)[:, None, None] * 255
    std = torch.tensor(rule.std)[:, None, None] * 255
    x = (x.float() - mean) / std
    t, h, w = len(x) // rule.temporal_patch, x.shape[2] // rule.patch, x.shape[3] // rule.patch
    merge, patch = rule.merge, rule.patch
    x = x.view(t, rule.temporal_patch, 3, h // merge, merge, patch, w // merge, merge, patch)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(t * h * w, -1), torch.tensor([[t, h, w]])


def read_frames(path: Path, rule: Rule) -> np.ndarray:
    """The chosen frames of a file, scaled: [F, 3, H, W] uint8. FramesError says why there are none.

    Frames that an edit list leaves out do not count. An MP4 that was cut off, and a file of which a chosen
    frame cannot be decoded, give none: the mean over half of a video would pass for that of the whole.
    """
    import av

    if not path.is_file():
        raise FramesError(NO_FILE, str(path))
    if path.stat().st_size == 0:
        raise FramesError(EMPTY, str(path))
    if lacking := _missing_bytes(path):
        raise FramesError(BROKEN, f"{lacking:,} bytes are missing at its end")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise FramesError(NOT_VIDEO, path.name)
            stream = container.streams.video[0]
            num = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
            duration, unit = stream.duration, stream.time_base
            seconds = float(duration * unit) if duration and unit else 0.0
            source_fps = float(stream.average_rate or 0) or (num / seconds if seconds else 0.0)
        if not num:
            raise FramesError(BROKEN, "no frames")
        wanted = rule.chosen(num, source_fps)
        frames: dict[int, np.ndarray] = {}
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            remaining = set(wanted)
            for i, frame in enumerate(container.decode(stream)):
                if i in remaining:
                    image = frame.to_ndarray(format="rgb24")
                    if rule.evenly and frame.rotation:  # upright, as it is shown
                        image = np.rot90(image, frame.rotation // 90)
                    frames[i] = rule.scaled(image)
                if i >= wanted[-1]:
                    break
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise FramesError(BROKEN, str(error).split("\n")[0]) from error
    if len(frames) < len(remaining) or len({x.shape for x in frames.values()}) > 1:
        raise FramesError(BROKEN, f"{len(frames)} of {len(remaining)} frames")
    return np.stack([frames[i] for i in wanted])


def _missing_bytes(path: Path) -> int:
    """Bytes that an MP4's outermost boxes announce behind the end of the file; 0 for other files.

    ISO/IEC 14496-12, 4.2: a box is its length (4 bytes; 1: the 8 behind the type; 0: to the end) and type.
    """
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(16)
            if at == 0 and head[4:8] != b"ftyp":
                return 0
            length, extended = int.from_bytes(head[:4], "big"), int.from_bytes(head[8:], "big")
            if length == 0:
                return 0
            at += extended if length == 1 else max(length, 8)
    return at - size
