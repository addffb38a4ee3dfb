"""Videos as vectors by the vision tower of a Qwen2-VL: the mean over its merged spatial-temporal tokens, or
with `features.frames` that of each of so many frames.

The tower alone is loaded, not the language model. Its attention stays within a temporal patch, so a long
video passes through in pieces, with the same result.

Legend: F frames, H and W their size, P patches, D width.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netgpt.graphstore.files import value_digest
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.checkpoint import as_float16, encoder_name, model_config, resolve, tensor_digest
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.features.frames import FrameRule, patches
from netgpt.trainers.features.images import ImageModel, image_identity

_PREFIXES = ("model.visual.", "visual.")
"""Beginnings of the names of the tower's weights: as transformers writes them today, and as released."""
_PATCHES = 16_384
"""That pass through the tower at once, if that is more than a temporal patch has."""


def video_identity(config: FeaturesConfig) -> tuple[str, int]:
    """(name, width) of what makes vectors of videos: the vision tower of a Qwen2-VL, the weights of whose
    language model do not count, or for frames any encoder of pictures."""
    if config.frames and not _is_qwen2_vl(config):
        return image_identity(config)
    tower = _Tower.of(config)
    return tower.name, tower.dim * max(1, config.frames)


def video_model(config: FeaturesConfig, device: str = "cpu") -> VideoModel | ImageModel:
    """The model that settings name. TrainerError where it cannot be had."""
    if config.frames and not _is_qwen2_vl(config):
        return ImageModel(config, device)
    return VideoModel(config, device)


def _is_qwen2_vl(config: FeaturesConfig) -> bool:
    folder = resolve(config.video, "features.video")
    return bool(model_config(folder, "features.video").model_type == "qwen2_vl")


@dataclass(frozen=True)
class _Tower:
    """A vision tower's configuration, weights and frame rule, as its files have them."""

    config: Any
    weights: dict[str, torch.Tensor]
    rule: FrameRule
    name: str

    @property
    def dim(self) -> int:
        return int(self.config.hidden_size)

    @staticmethod
    def of(config: FeaturesConfig) -> _Tower:
        folder = resolve(config.video, "features.video")
        model = model_config(folder, "features.video")
        if model.model_type != "qwen2_vl":
            raise TrainerError(
                f"features.video: {config.video}: found {model.model_type}, expected a qwen2_vl; other "
                "encoders of pictures make vectors of frames: features.frames=10"
            )
        vision, weights = model.vision_config, _tower_weights(folder)
        rule = replace(frame_rule(folder, vision), fps=config.fps, max_frames=config.max_frames)
        rule = replace(rule, evenly=config.frames)
        if config.max_pixels and config.max_pixels < rule.max_pixels:
            least = min(rule.min_pixels, config.max_pixels)
            rule = replace(rule, max_pixels=config.max_pixels, min_pixels=least)
        digest = value_digest(
            {
                "weights": {name: tensor_digest(w) for name, w in sorted(weights.items())},
                "config": vision.to_dict(),
                "rule": rule.to_json(),
            }
        )
        chosen = f"{rule.evenly}frames" if rule.evenly else f"{rule.fps:g}fps/{rule.max_frames}"
        settings = f"{chosen}/{rule.max_pixels}"
        name = encoder_name("qwen2_vl", int(vision.hidden_size), settings, config.precision, digest)
        return _Tower(vision, weights, rule, name)


class VideoModel:
    """A vision tower on one device. `name` tells vectors of other weights and frame rules apart."""

    def __init__(self, config: FeaturesConfig, device: str = "cpu") -> None:
        """TrainerError where the model has no Qwen2-VL vision tower."""
        from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

        own = _Tower.of(config)
        self.name, self.rule, self.device = own.name, own.rule, torch.device(device)
        self._frames, self._width = config.frames, own.dim
        self.dim = own.dim * max(1, config.frames)
        tower: Any = Qwen2VisionTransformerPretrainedModel._from_config(own.config, dtype=torch.float32)
        try:
            tower.load_state_dict(own.weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise TrainerError(
                f"features.video: {config.video}: not the weights of its tower ({reason})"
            ) from error
        self._tower = tower.to(self.device, getattr(torch, config.precision)).eval()

    def encode(self, frames_F3HW: np.ndarray) -> np.ndarray:
        """As `vector`, with `features.frames` of each frame by itself, one behind the other: [D] float16.

        TrainerError for what that cannot hold.
        """
        if not self._frames:
            return as_float16(self.vector(frames_F3HW), self.name)
        vectors = [self.vector(frames_F3HW[i : i + 1]) for i in range(len(frames_F3HW))]
        return as_float16(np.concatenate(vectors), self.name)

    @torch.inference_mode()
    def vector(self, frames_F3HW: np.ndarray) -> np.ndarray:
        """[F, 3, H, W] uint8 frames of one video → their one vector, float32."""
        rule, (height, width) = self.rule, frames_F3HW.shape[2:]
        at_once = max(1, _PATCHES * rule.patch**2 // (height * width))  # temporal patches
        total, num_tokens, first = torch.zeros(self._width, dtype=torch.float64), 0, 0
        while first < len(frames_F3HW):
            num_frames = at_once * rule.temporal_patch
            pixels_PC, grid = patches(frames_F3HW[first : first + num_frames], rule)
            try:
                states = self._tower(
                    pixels_PC.to(self.device, self._tower.get_dtype()), grid_thw=grid.to(self.device)
                ).pooler_output
            except torch.cuda.OutOfMemoryError:
                if at_once == 1:
                    raise
                torch.cuda.empty_cache()
                at_once //= 2
                continue
            total += states.double().sum(0).cpu()
            num_tokens += len(states)
            first += num_frames
        return (total / num_tokens).float().numpy()


def frame_rule(folder: Path, vision: Any) -> FrameRule:
    """The model's own: its preprocessor's file, and the patches of its vision configuration."""
    values: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"):
        try:
            read = json.loads((folder / name).read_text(encoding="utf-8"))
            # The later counts; the last is where transformers 5 saves all processors of a model
            values |= read.get("video_processor", {}) if name == "processor_config.json" else read
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise TrainerError(f"{folder / name}: not JSON ({error})") from error
    size, rule = values.get("size") or {}, FrameRule()
    return replace(
        rule,
        min_frames=values.get("min_frames") or rule.min_frames,
        min_pixels=values.get("min_pixels") or size.get("shortest_edge") or rule.min_pixels,
        max_pixels=values.get("max_pixels") or size.get("longest_edge") or rule.max_pixels,
        patch=vision.patch_size,
        temporal_patch=vision.temporal_patch_size,
        merge=vision.spatial_merge_size,
        mean=tuple(values.get("image_mean") or rule.mean),
        std=tuple(values.get("image_std") or rule.std),
    )


def _tower_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The tower's weights of a checkpoint, without reading the others."""
    from safetensors import safe_open

    weights: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # not a dictionary: it has no iterator
                for prefix in _PREFIXES:
                    if name.startswith(prefix):
                        weights[name.removeprefix(prefix)] = file.get_tensor(name)
    if not weights:
        raise TrainerError(f"features.video: {folder}: found no weights of a vision tower (*.safetensors)")
    return weights
