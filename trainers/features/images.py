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
    if config.frame_pooling == "pooler":
        width = getattr(vision, "pooler_output_size", None) or width
    if not isinstance(width, int) or not hasattr(vision, "image_size"):
        raise TrainerError(
            f"{_KEY}: {config.video}: found {model.model_type}, expected an encoder of pictures"
        )
    rule = picture_rule(folder, config.frames)
    digest = value_digest({"files": encoder_digest(folder), "rule": rule.to_json()})
    settings = f"{config.frames}frames/{config.frame_pooling}"
    return encoder_name(model.model_type, width, settings, config.precision, digest), width * config.frames


def picture_rule(folder: Path, frames: int) -> PictureRule:
    """The size and the scale of pictures: those of the model's own preprocessor. TrainerError where it has
    none, or one that does something else with them."""
    said = folder / "preprocessor_config.json"
    if not said.exists() and (folder / "processor_config.json").exists():
        said = folder / "processor_config.json"  # where transformers 5 saves all processors of a model
    try:
        values = json.loads(said.read_text(encoding="utf-8"))
        values = values["image_processor"] if said.name == "processor_config.json" else values
    except FileNotFoundError:
        raise TrainerError(f"{said}: found no such file, expected that of the model's preprocessor") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TrainerError(f"{said}: not that of an image processor ({error!r:.80})") from error

    def check(ok: bool, name: str, expected: str) -> None:
        if not ok:
            raise TrainerError(f"{said}: {name}: found {values.get(name)!r:.80}, expected {expected}")

    if not isinstance(values, dict):
        raise TrainerError(f"{said}: found {values!r:.80}, expected an object")
    for name, usual in (("do_resize", True), ("do_rescale", True), ("do_pad", False)):
        check(values.get(name, usual) is usual, name, str(usual).lower())
    factor = values.get("rescale_factor", 1 / 255)
    check(isinstance(factor, float) and abs(factor * 255 - 1) < 1e-6, "rescale_factor", "1/255")
    mode = values.get("resample", 2)
    check(type(mode) is int and mode in _MODES, "resample", ", ".join(map(str, _MODES)))
    crops = bool(values.get("do_center_crop", False))
    crop = _sides(values.get("crop_size"), square=True) if crops else None
    check(not crops or (crop is not None and crop[1] > 0), "crop_size", "a height and a width")
    # Of models that cut, one number is the shorter side
    resize = _sides(values.get("size"), square=not crops)
    whole = "a height and a width, or a shortest_edge alone with a crop"
    check(resize is not None and (resize[1] > 0 or crop is not None), "size", whole)
    assert resize is not None
    height, width = crop or resize
    is_normal = values.get("do_normalize", True) is not False
    scale = {}
    for name, without, least in (("image_mean", 0.0, -1e9), ("image_std", 1.0, 0.0)):
        found: Any = values.get(name) if is_normal else [without] * 3
        three = found if isinstance(found, list) and len(found) == 3 else []
        ok = bool(three) and all(isinstance(one, int | float) and one > least for one in three)
        check(ok, name, "three numbers" + (" above 0" if name == "image_std" else ""))
        scale[name] = tuple(float(one) for one in three)
    return PictureRule(
        evenly=frames,
        height=height,
        width=width,
        resize=resize,
        mode=_MODES[mode],
        mean=scale["image_mean"],
        std=scale["image_std"],
    )


def _sides(size: Any, *, square: bool) -> tuple[int, int] | None:
    """Height and width, or the shorter side and 0; None for what says neither. square: of one number."""
    if type(size) is int:
        return (size, size if square else 0) if size > 0 else None
    if not isinstance(size, dict) or not all(type(n) is int and n > 0 for n in size.values()):
        return None
    if size.keys() == {"shortest_edge"}:
        return size["shortest_edge"], 0
    return (size["height"], size["width"]) if size.keys() == {"height", "width"} else None


class ImageModel:
    """An encoder of pictures on one device. `name` tells vectors of other weights, rules, poolings apart."""

    def __init__(self, config: FeaturesConfig, device: str = "cpu") -> None:
        """TrainerError where the model cannot be had or reads more than pixels."""
        self.name, self.dim = image_identity(config)
        folder, dtype = resolve(config.video, _KEY), getattr(torch, config.precision)
        self.rule = picture_rule(folder, config.frames)
        self.pooling, self.device = config.frame_pooling, torch.device(device)
        whole: Any = load_encoder(folder, _KEY, "an encoder of pictures", dtype, config.frame_pooling)
        # Of models of pictures and texts the half that sees
        self._model: Any = getattr(whole, "vision_model", whole).to(self.device).eval()
        self._at_once = min(config.frames, _FRAMES)
        self._check(config)

    def _check(self, config: FeaturesConfig) -> None:
        """That a picture has one vector, of the width that was said. TrainerError."""
        random = np.random.default_rng(0).integers(0, 256, (1, 3, self.rule.height, self.rule.width))
        once, again = (self.vectors(random.astype(np.uint8)) for _ in range(2))
        if not np.allclose(once, again, rtol=1e-3, atol=1e-4):
            raise TrainerError(f"{_KEY}: {config.video}: found another vector of one picture each time")
        if once.shape[1] * config.frames != self.dim:
            raise TrainerError(
                f"{_KEY}: {config.video}: found vectors of width {once.shape[1]}, expected "
                f"{self.dim // config.frames}"
            )

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
        except torch.cuda.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0][:200]
            size = f"{self.rule.width} × {self.rule.height}"
            raise TrainerError(f"{_KEY}: found a model that reads no picture of {size} ({reason})") from error
        tokens_FLD = getattr(said, "last_hidden_state", None)
        if self.pooling == "pooler":
            if getattr(said, "pooler_output", None) is None:
                raise TrainerError(
                    "features.frame_pooling: found pooler, but the model has none; mean or cls"
                )
            pooled = said.pooler_output.flatten(1)
        elif tokens_FLD is None or tokens_FLD.ndim != 3:
            raise TrainerError(
                f"features.frame_pooling: found {self.pooling}, but the model has no tokens; expected pooler"
            )
        elif self.pooling == "cls":
            # A token of its own for the whole picture: one more than there are patches
            if tokens_FLD.shape[1] <= self._num_patches(pixels.shape[2], pixels.shape[3]):
                raise TrainerError(
                    "features.frame_pooling: found cls, but the model has no such token; mean or pooler"
                )
            pooled = tokens_FLD[:, 0]
        else:
            pooled = tokens_FLD.float().mean(1)
        return np.asarray(pooled.float().cpu().numpy())

    def _num_patches(self, height: int, width: int) -> int:
        """Of a picture; where the model does not say their size there are more than any tokens."""
        patch = getattr(self._model.config, "patch_size", None)
        if isinstance(patch, list | tuple) and len(set(patch)) == 1:
            patch = patch[0]
        if not isinstance(patch, int) or hasattr(self._model.config, "depths"):  # these join patches
            return height * width
        return (height // patch) * (width // patch)
