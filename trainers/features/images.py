"""Frames of videos as vectors by an encoder of pictures: any of transformers that reads pixels alone.

Legend: F frames, H and W their size, L tokens of a picture, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netgpt.graphstore.files import value_digest
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.checkpoint import (
    as_float16,
    encoder_digest,
    encoder_name,
    load_encoder,
    model_config,
    resolve,
)
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.features.frames import PictureRule

_KEY = "features.video"
_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""How PIL numbers the ways to interpolate, and torch calls them."""
_FRAMES = 64
"""That pass through the encoder at once."""


def image_identity(config: FeaturesConfig) -> tuple[str, int]:
    """(name, width of all frames) of the encoder that settings name, without its weights in memory."""
    folder = resolve(config.video, _KEY)
    model = model_config(folder, _KEY)
    vision = getattr(model, "vision_config", model)
    width = getattr(vision, "hidden_size", None)
    if not isinstance(width, int) or not hasattr(vision, "image_size"):
        raise TrainerError(
            f"{_KEY}: {config.video}: found {model.model_type}, expected an encoder of pictures"
        )
    rule = picture_rule(folder, vision, config.frames)
    digest = value_digest({"files": encoder_digest(folder), "rule": rule.to_json()})
    settings = f"{config.frames}frames/{config.frame_pooling}"
    return encoder_name(model.model_type, width, settings, config.precision, digest), width * config.frames


def picture_rule(folder: Path, vision: Any, frames: int) -> PictureRule:
    """The size and the scale of pictures: the model's own preprocessor's, or else its size alone."""
    values: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "processor_config.json"):
        try:
            read = json.loads((folder / name).read_text(encoding="utf-8"))
            values |= read.get("image_processor", {}) if name == "processor_config.json" else read
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise TrainerError(f"{folder / name}: not JSON ({error})") from error
    given = vision.image_size
    sides = (given, given) if isinstance(given, int) else tuple(given)
    own = dict(zip(("height", "width"), sides, strict=True))
    size = values.get("size") or own
    size = {"height": size, "width": size} if isinstance(size, int) else size
    crop = values.get("crop_size") if values.get("do_center_crop") else None
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    mode = _MODES.get(values.get("resample", 2))
    if mode is None:
        raise TrainerError(
            f"{folder / 'preprocessor_config.json'}: resample: found {values['resample']}, expected "
            f"{', '.join(map(str, _MODES))}"
        )
    try:
        resize = (size["shortest_edge"], 0) if "shortest_edge" in size else (size["height"], size["width"])
        height, width = (crop["height"], crop["width"]) if crop else resize
        is_whole = (
            all(type(n) is int and n >= 0 for n in (*resize, height, width)) and height > 0 and width > 0
        )
    except (KeyError, TypeError):
        is_whole = False
    if not is_whole:
        raise TrainerError(
            f"{folder / 'preprocessor_config.json'}: size: found {size} with crop_size {crop}, expected a "
            "height and a width, or a shortest_edge with a crop"
        )
    is_normal = values.get("do_normalize", True)
    return PictureRule(
        evenly=frames,
        height=height,
        width=width,
        resize=resize,
        mode=mode,
        mean=tuple(values.get("image_mean") or (0.5,) * 3) if is_normal else (0.0,) * 3,
        std=tuple(values.get("image_std") or (0.5,) * 3) if is_normal else (1.0,) * 3,
    )


class ImageModel:
    """An encoder of pictures on one device. `name` tells vectors of other weights, rules, poolings apart."""

    def __init__(self, config: FeaturesConfig, device: str = "cpu") -> None:
        """TrainerError where the model cannot be had or reads more than pixels."""
        self.name, self.dim = image_identity(config)
        folder, dtype = resolve(config.video, _KEY), getattr(torch, config.precision)
        model = model_config(folder, _KEY)
        self.rule = picture_rule(folder, getattr(model, "vision_config", model), config.frames)
        self.pooling, self.device = config.frame_pooling, torch.device(device)
        whole: Any = load_encoder(folder, _KEY, "an encoder of pictures", dtype, config.frame_pooling)
        # Of models of pictures and texts the half that sees
        self._model: Any = getattr(whole, "vision_model", whole).to(self.device).eval()
        self._at_once = min(config.frames, _FRAMES)

    def encode(self, frames_F3HW: np.ndarray) -> np.ndarray:
        """As `vectors`, one behind the other: [F D] float16. TrainerError for what that cannot hold."""
        return as_float16(self.vectors(frames_F3HW).reshape(-1), self.name)

    @torch.inference_mode()
    def vectors(self, frames_F3HW: np.ndarray) -> np.ndarray:
        """[F, 3, H, W] uint8 → [F, D] float32."""
        made, first = [], 0
        while first < len(frames_F3HW):
            try:
                made.append(self._batch(frames_F3HW[first : first + self._at_once]))
            except torch.cuda.OutOfMemoryError:
                if self._at_once == 1:
                    raise
                torch.cuda.empty_cache()
                self._at_once = max(1, self._at_once // 2)
                continue
            first += self._at_once
        return np.concatenate(made)

    def _batch(self, frames_F3HW: np.ndarray) -> np.ndarray:
        mean, std = (torch.tensor(x)[:, None, None] for x in (self.rule.mean, self.rule.std))
        pixels = (torch.from_numpy(frames_F3HW).float() / 255 - mean) / std
        try:
            said = self._model(pixel_values=pixels.to(self.device, next(self._model.parameters()).dtype))
        except (TypeError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise TrainerError(
                f"{self.name}: found a model that reads more than pixels ({reason})"
            ) from error
        tokens_FLD = getattr(said, "last_hidden_state", None)
        if self.pooling == "pooler":
            pooled = getattr(said, "pooler_output", None)
            if pooled is None:
                raise TrainerError(
                    "features.frame_pooling: found pooler, but the model has none; mean or cls"
                )
            pooled = pooled.flatten(1)
        elif tokens_FLD is None or tokens_FLD.ndim != 3:
            raise TrainerError(
                f"features.frame_pooling: found {self.pooling}, but the model has no tokens; expected pooler"
            )
        else:
            pooled = tokens_FLD[:, 0] if self.pooling == "cls" else tokens_FLD.float().mean(1)
        return np.asarray(pooled.float().cpu().numpy())
