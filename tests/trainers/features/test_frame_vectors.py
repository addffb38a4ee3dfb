"""Vectors of frames against transformers' own processors and models, and against plain decoding."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.features.frames import PictureRule, even_frames, read_frames, rule_from_json
from netgpt.trainers.features.images import ImageModel
from netgpt.trainers.features.reader import FrameReader
from netgpt.trainers.features.text import TextModel
from netgpt.trainers.features.video import VideoModel, video_identity, video_model
from tests.encoders import make_clip, make_clip_model, make_qwen2_vl, make_roberta, make_vit, picture


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_vit(folder / "vit")
    make_clip_model(folder / "clip")
    make_qwen2_vl(folder / "qwen")
    make_roberta(folder / "roberta")
    return folder


def config_of(model: Path, frames: int = 4, **more: Any) -> FeaturesConfig:
    return FeaturesConfig(video=str(model), videos="videos", frames=frames, **more)


@given(st.integers(1, 5000), st.integers(1, 40))
def test_frames_are_even_from_the_first_to_the_last(num: int, wanted: int) -> None:
    found = even_frames(num, wanted)
    assert len(found) == wanted and found == sorted(found) and found[0] == 0 and found[-1] < num
    if wanted > 1:
        assert found[-1] == num - 1
        # As MMRA takes them; where float64 falls just short of a whole number it would take the one before
        floats = np.linspace(0, num - 1, wanted)
        expected = np.where(np.abs(floats - floats.round()) < 1e-6, floats.round(), np.floor(floats))
        assert found == expected.astype(int).tolist()


@pytest.mark.parametrize(("height", "width"), [(62, 90), (200, 120), (33, 57), (28, 28), (20, 21)])
@pytest.mark.parametrize("model", ["vit", "clip"])
def test_pictures_are_those_of_transformers_processors(
    models: Path, model: str, height: int, width: int
) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    rule = video_model(config_of(models / model)).rule
    assert isinstance(rule, PictureRule) and rule_from_json(json.loads(json.dumps(rule.to_json()))) == rule
    kind: Any = {"vit": ViTImageProcessorPil, "clip": CLIPImageProcessorPil}[model]
    smooth = picture(3, height, width) // 2 + 40
    processor = kind.from_pretrained(models / model)
    expected = processor(images=[Image.fromarray(smooth)], return_tensors="np", do_normalize=False)
    found, whole = rule.scaled(smooth), np.asarray(expected["pixel_values"][0]) * 255
    assert found.shape == whole.shape == (3, rule.height, rule.width)
    assert np.abs(found.astype(float) - whole).max() <= 1.01


def test_a_picture_smaller_than_the_cut_has_black_around_it(models: Path) -> None:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    frame = picture(1, 20, 31) // 2 + 60
    rule = PictureRule(1, 24, 27, (20, 0), "bicubic")
    size, crop = {"shortest_edge": 20}, {"height": 24, "width": 27}
    processor: Any = CLIPImageProcessorPil(size=size, crop_size=crop, do_normalize=False)
    expected = processor(images=[Image.fromarray(frame)], return_tensors="np")["pixel_values"][0] * 255
    np.testing.assert_allclose(rule.scaled(frame), expected, atol=1e-3)


@pytest.mark.parametrize("pooling", ["cls", "mean", "pooler"])
@pytest.mark.parametrize("model", ["vit", "clip"])
@pytest.mark.parametrize("num", [3, 20])
def test_vectors_are_the_models_own(models: Path, model: str, pooling: str, num: int, tmp_path: Path) -> None:
    """All frames decoded at once, the chosen ones through the whole model; of short clips some twice."""
    from transformers import CLIPVisionModel, ViTModel

    path = make_clip(tmp_path / "clip.mp4", num=num)
    config = config_of(models / model, 5, frame_pooling=pooling)
    made = video_model(config)
    assert isinstance(made, ImageModel) and (made.name, made.dim) == video_identity(config)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    chosen = [made.rule.scaled(frames[i]) for i in even_frames(num, 5)]
    with FrameReader(made.rule, 30) as reader:
        found = reader.read(path)
    np.testing.assert_array_equal(found, np.stack(chosen))
    kind: Any = {"vit": ViTModel, "clip": CLIPVisionModel}[model]
    whole = kind.from_pretrained(models / model).eval()
    mean, std = (np.array(x)[:, None, None] for x in (made.rule.mean, made.rule.std))
    pixels = torch.from_numpy(((found / 255 - mean) / std).astype(np.float32))
    with torch.no_grad():
        said = whole(pixel_values=pixels)
    expected = {
        "cls": said.last_hidden_state[:, 0],
        "mean": said.last_hidden_state.mean(1),
        "pooler": said.pooler_output,
    }[pooling]
    np.testing.assert_allclose(made.vectors(found), expected.numpy(), atol=1e-5)
    in_one_row = made.encode(found)
    assert in_one_row.shape == (5 * 16,) == (made.dim,)
    np.testing.assert_allclose(in_one_row.reshape(5, 16), expected.numpy(), atol=2e-2)
    assert num == 1 or found.std() > 5


def test_a_qwen2_vl_sees_each_frame_by_itself(models: Path, tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", num=12)
    config = config_of(models / "qwen", 3)
    made, whole = video_model(config), VideoModel(FeaturesConfig(video=str(models / "qwen"), videos="v"))
    assert isinstance(made, VideoModel) and (made.name, made.dim) == video_identity(config)
    frames = read_frames(path, made.rule)
    assert len(frames) == 3 and made.dim == 3 * whole.dim and made.name != whole.name
    alone = [whole.encode(frames[i : i + 1]) for i in range(3)]
    np.testing.assert_array_equal(made.encode(frames), np.concatenate(alone))
    assert not np.array_equal(alone[0], alone[2])


def test_names_tell_vectors_apart(models: Path, tmp_path: Path) -> None:
    names = {
        video_identity(config)[0]
        for config in (
            config_of(models / "vit"),
            config_of(models / "vit", 5),
            config_of(models / "vit", frame_pooling="mean"),
            config_of(models / "clip"),
            config_of(models / "qwen"),
            config_of(models / "qwen", 5),
            config_of(models / "qwen", 0),
            config_of(make_vit(tmp_path / "other", seed=1)),
        )
    }
    assert len(names) == 8
    shutil.copytree(models / "vit", tmp_path / "same")
    assert video_identity(config_of(tmp_path / "same")) == video_identity(config_of(models / "vit"))
    said = json.loads((tmp_path / "same" / "preprocessor_config.json").read_text())
    (tmp_path / "same" / "preprocessor_config.json").write_text(json.dumps({**said, "resample": 3}))
    assert video_identity(config_of(tmp_path / "same"))[0] not in names


def change(folder: Path, **values: Any) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_no_encoder_of_pictures_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="found roberta, expected an encoder of pictures"):
        video_identity(config_of(models / "roberta"))
    with pytest.raises(TrainerError, match=r"found vit, expected a qwen2_vl; .*features.frames=10"):
        video_model(config_of(models / "vit", 0))
    for i, (values, words) in enumerate(
        (
            ({"size": {"shortest_edge": 30}}, "size: found {'shortest_edge': 30}, expected a height"),
            ({"size": {"height": 0, "width": 3}}, "size: found"),
            ({"size": {"height": "a", "width": 3}}, "size: found"),
            ({"resample": 1}, "resample: found 1, expected 0, 2, 3"),
            ({"size": {"shortest_edge": 30, "longest_edge": 40}}, "size: found"),
            ({"size": None}, "size: found None"),
            ({"size": 64}, "found a model that reads no picture of 64 × 64"),
            ({"resample": [2]}, "resample: found"),
            ({"do_rescale": False}, "do_rescale: found False, expected true"),
            ({"do_resize": False}, "do_resize: found False, expected true"),
            ({"rescale_factor": 1 / 127.5}, "rescale_factor: found 0.0078"),
            ({"image_mean": 0.5}, "image_mean: found 0.5, expected three numbers"),
            ({"image_mean": None}, "image_mean: found None, expected three numbers"),
            ({"image_std": [0, 1, 1]}, "expected three numbers above 0"),
            ({"do_center_crop": True, "size": 40}, "crop_size: found None"),
        )
    ):
        shutil.copytree(models / "vit", tmp_path / str(i))
        change(tmp_path / str(i), **values)
        with pytest.raises(TrainerError, match=words.replace("{", r"\{").replace("}", r"\}")):
            video_model(config_of(tmp_path / str(i)))


def test_a_file_that_says_nothing_is_one_line(models: Path, tmp_path: Path) -> None:
    for text, words in (("[1]", "found .1., expected an object"), ("{", "not that of an image processor")):
        shutil.copytree(models / "vit", folder := tmp_path / words[:5])
        (folder / "preprocessor_config.json").write_text(text)
        with pytest.raises(TrainerError, match=words):
            video_identity(config_of(folder))
        (folder / "preprocessor_config.json").unlink()
        with pytest.raises(TrainerError, match="found no such file, expected that of the model's prepro"):
            video_identity(config_of(folder))
        (folder / "processor_config.json").write_text('{"image_processor": null}')
        with pytest.raises(TrainerError, match="found None, expected an object"):
            video_identity(config_of(folder))


def test_one_number_is_the_shorter_side_of_models_that_cut(models: Path, tmp_path: Path) -> None:
    """As released CLIPs say it."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    shutil.copytree(models / "clip", tmp_path / "old")
    change(tmp_path / "old", size=28, crop_size=24)
    rule = video_model(config_of(tmp_path / "old")).rule
    assert isinstance(rule, PictureRule) and rule == video_model(config_of(models / "clip")).rule
    frame = picture(1, 48, 96) // 2 + 60
    processor: Any = CLIPImageProcessorPil.from_pretrained(tmp_path / "old")
    given = processor(images=[Image.fromarray(frame)], return_tensors="np", do_normalize=False)
    assert np.abs(rule.scaled(frame) - given["pixel_values"][0] * 255).max() <= 1.01


def test_what_has_no_vector_of_a_picture_is_refused(models: Path, tmp_path: Path) -> None:
    """A model without a token for the whole, and one that draws what it looks at."""
    from transformers import SiglipVisionConfig, SiglipVisionModel, ViTMAEConfig, ViTMAEModel

    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(**shape, image_size=32, patch_size=8)).save_pretrained(
        tmp_path / "siglip"
    )
    ViTMAEModel(ViTMAEConfig(**shape, image_size=32, patch_size=8)).save_pretrained(tmp_path / "mae")
    for name in ("siglip", "mae"):
        shutil.copyfile(
            models / "vit" / "preprocessor_config.json", tmp_path / name / "preprocessor_config.json"
        )
    with pytest.raises(TrainerError, match="found cls, but the model has no such token; mean or pooler"):
        video_model(config_of(tmp_path / "siglip"))
    for pooling in ("mean", "pooler"):
        assert video_model(config_of(tmp_path / "siglip", frame_pooling=pooling)).dim == 4 * 16
    with pytest.raises(TrainerError, match=r"no such token|another vector of one picture each time"):
        video_model(config_of(tmp_path / "mae"))
    with pytest.raises(TrainerError, match="another vector of one picture each time"):
        video_model(config_of(tmp_path / "mae", frame_pooling="mean"))


def test_pictures_stand_upright(models: Path, tmp_path: Path) -> None:
    """A phone stores a tall picture lying, and says in the track's matrix how to turn it."""
    path = make_clip(tmp_path / "clip.mp4", num=4, height=64, width=96)
    data = path.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    at = data.index(identity, data.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(data[:at] + turned + data[at + len(identity) :])
    with av.open(str(tmp_path / "turned.mp4")) as container:
        first = next(container.decode(video=0))
        assert first.rotation in (-90, 90)
        clockwise = np.rot90(first.to_ndarray(format="rgb24"), -1)
    rule = video_model(config_of(models / "vit", 2)).rule
    found = read_frames(tmp_path / "turned.mp4", rule)[0]
    assert first.rotation == -90  # by this matrix: a quarter clockwise
    np.testing.assert_array_equal(found, rule.scaled(np.ascontiguousarray(clockwise)))


def test_weights_that_are_not_there_are_not_made_up(models: Path, tmp_path: Path) -> None:
    """transformers fills them with random numbers: another vector in each process."""
    from safetensors.torch import load_file, save_file

    make_vit(tmp_path / "poolerless", pooler=False)
    video_model(config_of(tmp_path / "poolerless"))
    with pytest.raises(TrainerError, match="found no weights of pooler"):
        video_model(config_of(tmp_path / "poolerless", frame_pooling="pooler"))
    for name, key in (("vit", "video"), ("roberta", "text")):
        shutil.copytree(models / name, folder := tmp_path / name)
        weights = load_file(folder / "model.safetensors")
        lost = next(one for one in sorted(weights) if "layer" in one)
        save_file(
            {k: w for k, w in weights.items() if k != lost}, folder / "model.safetensors", {"format": "pt"}
        )
        with pytest.raises(TrainerError, match=rf"features.{key}: .*found no weights of .*layer"):
            if key == "video":
                video_model(config_of(folder))
            else:
                TextModel(FeaturesConfig(text=str(folder), max_tokens=100))
