"""Video as an optional input: what the model's own processor made of a clip, one file a record.

A folder holds `ID.safetensors` with `pixel_values_videos` [patches, values] and `video_grid_thw` [1, 3],
both as a Qwen2-VL processor returns them for one clip. A record without a file is text alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model.backbone import is_multimodal

PIXELS, GRID = "pixel_values_videos", "video_grid_thw"


@dataclass(frozen=True)
class Clip:
    path: Path
    grid: tuple[int, int, int]
    """Patches in time, height and width."""
    num_tokens: int

    def pixels(self) -> torch.Tensor:
        with safe_open(str(self.path), framework="pt") as file:
            return file.get_tensor(PIXELS)


class PixelFolder:
    """Clips of a folder for one Qwen2-VL: their tokens, positions and pixels."""

    def __init__(self, folder: Path, config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """config: the model's configuration."""
        if not is_multimodal(config):
            raise TrainerError(
                f"language.pixels: found a model of text alone ({config.model_type}), expected a Qwen2-VL"
            )
        if not folder.is_dir():
            raise TrainerError(f"language.pixels: found no folder {folder}, expected one of ID.safetensors")
        self.folder = folder
        vision = config.vision_config
        self.merge: int = vision.spatial_merge_size
        self.width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        self.video_id: int = config.video_token_id
        ids: Any = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
        self.start_id, self.end_id = ids

    def clip(self, record_id: str) -> Clip | None:
        """The clip of a record, or None. TrainerError for a file that is not one; reads no pixels."""
        path = self.folder / f"{record_id}.safetensors"
        if path.parent != self.folder or not path.exists():  # an id is a name, and leads nowhere else
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                grid = file.get_tensor(GRID)
                shape: Any = file.get_slice(PIXELS).get_shape()
        except (OSError, SafetensorError) as error:
            raise TrainerError(f"{path}: not a clip of {PIXELS} and {GRID} ({error})") from error
        t, h, w = (int(n) for n in grid.flatten().tolist()) if grid.numel() == 3 else (0, 0, 0)
        if t * h * w < 1 or h % self.merge or w % self.merge or shape != [t * h * w, self.width]:
            raise TrainerError(
                f"{path}: found pixels {shape} and a grid of {t} × {h} × {w}, expected [t × h × w, "
                f"{self.width}] with height and width multiples of {self.merge}"
            )
        return Clip(path, (t, h, w), t * h * w // self.merge**2)

    def tokens(self, clip: Clip) -> np.ndarray:
        """[num_tokens + 2] int64: the clip between its markers."""
        return np.array([self.start_id, *[self.video_id] * clip.num_tokens, self.end_id], np.int64)

    def positions(self, clip: Clip, first: int, length: int) -> np.ndarray:
        """M-RoPE of a prompt of `length` tokens whose clip's markers begin at token `first`: [3, length].

        Text counts on by one in all three rows; a patch has its place in time, height and width after the
        start marker, and text goes on behind the largest of them (Qwen2-VL, section 2.1).
        """
        t, h, w = clip.grid[0], clip.grid[1] // self.merge, clip.grid[2] // self.merge
        before = np.broadcast_to(np.arange(first + 1), (3, first + 1))
        patches = np.indices((t, h, w)).reshape(3, -1) + first + 1
        rest = length - first - 1 - patches.shape[1]
        after = np.broadcast_to(patches.max() + 1 + np.arange(rest), (3, rest))
        return np.concatenate([before, patches, after], axis=1)
