"""Frames and video vectors against transformers' own processor and model, and against plain decoding."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.features.frames import (
    BROKEN,
    EMPTY,
    NO_FILE,
    NOT_VIDEO,
    TOO_LONG,
    FrameRule,
    FramesError,
    patches,
    read_frames,
    sampled_frames,
    scaled,
    scaled_size,
)
from netgpt.trainers.features.reader import FrameReader
from netgpt.trainers.features.video import VideoModel, video_identity
from tests.encoders import make_clip, make_qwen2_vl, make_sound, picture

RULE = FrameRule(min_pixels=3136, max_pixels=12544)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen2_vl(tmp_path_factory.mktemp("models") / "vl")


@pytest.fixture(scope="module")
def config(folder: Path) -> FeaturesConfig:
    return FeaturesConfig(video=str(folder), videos="videos")


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@given(st.integers(1, 3000), st.floats(1, 120), st.floats(0.1, 30), st.integers(2, 800))
def test_sampled_frames_are_even_and_within_bounds(num: int, source: float, fps: float, most: int) -> None:
    rule = FrameRule(fps=fps, max_frames=most)
    found = sampled_frames(num, source, rule)
    assert found == sorted(set(found)) and found[0] == 0 and found[-1] < num
    if num == 1:
        assert found == [0]
    else:
        assert len(found) % 2 == 0 and 2 <= len(found) <= max(2, most)
        steps = np.diff(found)
        assert len(found) < 2 or steps.max() - steps.min() <= 1
    wanted = num / source * fps
    if 4 <= wanted <= min(num, most):
        assert wanted - 2 <= len(found) <= wanted


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_scaled_sizes_are_transformers_own(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(FramesError, match="cannot be decoded"):
            scaled_size(height, width, RULE)
        return
    bounds = {"min_pixels": RULE.min_pixels, "max_pixels": RULE.max_pixels}
    assert scaled_size(height, width, RULE) == smart_resize(height, width, factor=28, **bounds)


@pytest.mark.parametrize(("height", "width"), [(62, 90), (200, 120), (33, 57), (28, 112)])
def test_scaling_is_bicubic_as_pillows(height: int, width: int) -> None:
    smooth = picture(3, height, width) // 2 + 40
    h, w = scaled_size(height, width, RULE)
    expected = np.asarray(Image.fromarray(smooth).resize((w, h), Image.Resampling.BICUBIC))
    found = scaled(smooth, RULE).transpose(1, 2, 0)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


def test_patches_are_those_of_transformers_image_processor() -> None:
    """An image is, to the processor, a temporal patch of one frame twice."""
    frames = [picture(i, 56, 84) for i in range(3)]
    processor: Any = Qwen2VLImageProcessorPil(do_resize=False)
    expected = [processor(images=[Image.fromarray(frame)], return_tensors="pt") for frame in frames]
    twice = np.stack([frame.transpose(2, 0, 1) for frame in frames for _ in range(2)])
    x, grid = patches(twice, RULE)
    assert grid.tolist() == [[3, 4, 6]]
    torch.testing.assert_close(x, torch.cat([one["pixel_values"] for one in expected]), atol=1e-5, rtol=1e-5)
    # An odd frame at the end stands twice
    odd, grid = patches(twice[:5], RULE)
    assert grid.tolist() == [[3, 4, 6]]
    torch.testing.assert_close(odd, x)


@pytest.mark.parametrize(
    "clip",
    [
        {"num": 20, "height": 56, "width": 84},
        {"num": 21, "height": 62, "width": 90},
        {"num": 1},
        {"num": 2, "fps": 30},
        {"num": 12, "variable": True},
        {"num": 60, "fps": 30, "height": 34, "width": 202},
    ],
)
def test_vectors_are_the_models_own(
    folder: Path, config: FeaturesConfig, tmp_path: Path, clip: dict[str, Any]
) -> None:
    """All frames decoded at once, the chosen ones through the whole Qwen2-VL's `visual`."""
    from transformers import Qwen2VLForConditionalGeneration

    path = make_clip(tmp_path / "clip.mp4", **clip)
    model = VideoModel(config)
    frames = decoded(path)
    assert len(frames) == clip["num"]
    with av.open(str(path)) as container:
        rate = float(container.streams.video[0].average_rate)
    chosen = [scaled(frames[i], model.rule) for i in sampled_frames(len(frames), rate, model.rule)]
    found = read_frames(path, model.rule)
    np.testing.assert_array_equal(found, np.stack(chosen))
    whole: Any = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    x, grid = patches(found, model.rule)
    with torch.no_grad():
        expected = whole.model.visual(x, grid_thw=grid).pooler_output.mean(0)
    np.testing.assert_allclose(model.vector(found), expected.numpy(), atol=1e-5)
    assert found.std() > 5  # a picture, and not one colour


def test_a_long_video_passes_in_pieces(config: FeaturesConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = VideoModel(config)
    frames = np.stack([scaled(picture(i, 56, 84), model.rule) for i in range(18)])
    whole = model.vector(frames)
    for most in (1, 24, 60, 100):
        monkeypatch.setattr("netgpt.trainers.features.video._PATCHES", most)
        np.testing.assert_allclose(model.vector(frames), whole, atol=1e-6)


def bad_files(folder: Path) -> dict[str, int]:
    """Files that give no frames, and why."""
    folder.mkdir()
    whole = make_clip(folder / "whole.mp4", num=40).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "head.mp4").write_bytes(whole[:40])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is no video, whatever its name says\n" * 40)
    make_sound(folder / "sound.mp4")
    return {
        "cut.mp4": BROKEN,
        "head.mp4": BROKEN,
        "empty.mp4": EMPTY,
        "text.mp4": BROKEN,
        "sound.mp4": NOT_VIDEO,
        "gone.mp4": NO_FILE,
    }


def test_files_without_frames_say_why_and_the_next_is_read(tmp_path: Path) -> None:
    bad = bad_files(tmp_path / "videos")
    expected = read_frames(tmp_path / "videos" / "whole.mp4", RULE)
    with FrameReader(RULE, 30) as reader:
        for name, reason in bad.items():
            with pytest.raises(FramesError) as caught:
                reader.read(tmp_path / "videos" / name)
            assert caught.value.reason == reason, name
            found = reader.read(tmp_path / "videos" / "whole.mp4")
            np.testing.assert_array_equal(found, expected)


def test_frames_that_an_edit_list_leaves_out_do_not_count(tmp_path: Path) -> None:
    """A clip without its first seconds, its packets copied: as phones and editors trim."""
    whole = make_clip(tmp_path / "whole.mp4", num=100, gop=25)
    cut = tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        start = int(4 / stream.time_base)
        source.seek(start, stream=stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                packet.pts, packet.dts = packet.pts - start, packet.dts - start
                target.mux(packet)
    frames = decoded(cut)
    assert 50 < len(frames) < 100
    with av.open(str(cut)) as container:
        rate = float(container.streams.video[0].average_rate)
    chosen = [scaled(frames[i], RULE) for i in sampled_frames(len(frames), rate, RULE)]
    np.testing.assert_array_equal(read_frames(cut, RULE), np.stack(chosen))


def test_a_decoder_that_cannot_start_is_no_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(tmp_path / "good.mp4", num=4)
    (tmp_path / "av.py").write_text("raise ImportError('broken')\n")
    inherited = os.environ.get("PYTHONPATH", "")
    root = Path(__file__).resolve().parents[3]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root), inherited]))
    with FrameReader(RULE, 30) as reader, pytest.raises(TrainerError, match="did not start: exit 1"):
        reader.read(tmp_path / "good.mp4")


@settings(max_examples=6, deadline=None)
@given(st.binary(min_size=1, max_size=400), st.integers(0, 1 << 20))
def test_damage_anywhere_ends_in_frames_or_a_reason(tmp_path_factory: Any, noise: bytes, place: int) -> None:
    folder = tmp_path_factory.mktemp("noise")
    data = bytearray(make_clip(folder / "good.mp4", num=6).read_bytes())
    at = place % len(data)
    data[at : at + len(noise)] = noise
    (folder / "bad.mp4").write_bytes(data)
    with FrameReader(RULE, 20) as reader:
        try:
            assert reader.read(folder / "bad.mp4").dtype == np.uint8
        except FramesError as error:
            assert error.reason in (BROKEN, NOT_VIDEO, TOO_LONG)


def test_a_resaved_models_frame_rule_is_read(folder: Path, config: FeaturesConfig, tmp_path: Path) -> None:
    """Transformers 5 saves all processors of a model in one file."""
    import shutil

    copy = tmp_path / "resaved"
    shutil.copytree(folder, copy)
    (copy / "preprocessor_config.json").unlink()
    assert VideoModel(replace(config, video=str(copy))).rule.max_pixels == 768 * 28 * 28
    size = {"shortest_edge": 784, "longest_edge": 7840}
    (copy / "processor_config.json").write_text(json.dumps({"video_processor": {"size": size}}))
    rule = VideoModel(replace(config, video=str(copy))).rule
    assert (rule.min_pixels, rule.max_pixels) == (784, 7840)


def test_a_pipe_named_as_a_video_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with FrameReader(RULE, 30) as reader, pytest.raises(FramesError, match="no file"):
        reader.read(tmp_path / "pipe.mp4")


def test_a_decoder_that_crashes_or_hangs_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader's process runs a module in which `read_frames` hangs or dies for files of these names."""
    make_clip(tmp_path / "good.mp4", num=4)
    for name in ("hang.mp4", "crash.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\n"
        "import netgpt.trainers.features.frames as frames\n"
        "real = frames.read_frames\n"
        "def read(path, rule):\n"
        "    if path.name == 'hang.mp4': time.sleep(600)\n"
        "    if path.name == 'crash.mp4': os.abort()\n"
        "    return real(path, rule)\n"
        "frames.read_frames = read\n"
    )
    root = Path(__file__).resolve().parents[3]
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(root), inherited]))
    with FrameReader(RULE, 2.0) as reader:
        for name, reason in (("hang.mp4", TOO_LONG), ("crash.mp4", BROKEN)):
            with pytest.raises(FramesError) as caught:
                reader.read(tmp_path / name)
            assert caught.value.reason == reason
            reader.timeout_s = 30
            assert len(reader.read(tmp_path / "good.mp4")) == 4
            reader.timeout_s = 2.0


def test_a_reader_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    make_clip(tmp_path / "good.mp4", num=4)
    code = (
        "import os, sys, pathlib\n"
        "from netgpt.trainers.features.reader import FrameReader\n"
        "from netgpt.trainers.features.frames import FrameRule\n"
        "reader = FrameReader(FrameRule(), 30)\n"
        f"reader.read(pathlib.Path({str(tmp_path / 'good.mp4')!r}))\n"
        "print(reader._process.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < until:
        if "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0]:
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_names_are_the_towers_and_the_rules(folder: Path, config: FeaturesConfig, tmp_path: Path) -> None:
    name, dim = video_identity(config)
    assert dim == 32 and name.startswith("qwen2_vl-32/2fps/768/12544@") and VideoModel(config).name == name
    assert video_identity(replace(config, video=str(make_qwen2_vl(tmp_path / "copy"))))[0] == name
    others = [
        replace(config, video=str(make_qwen2_vl(tmp_path / "other", seed=1))),
        replace(config, fps=1.0),
        replace(config, max_frames=16),
        replace(config, max_pixels=3136),
        replace(config, precision="bfloat16"),
    ]
    assert len({name, *(video_identity(other)[0] for other in others)}) == 6


def test_models_without_a_tower_are_refused(folder: Path, config: FeaturesConfig, tmp_path: Path) -> None:
    from tests.encoders import make_roberta

    roberta = make_roberta(tmp_path / "roberta")
    with pytest.raises(TrainerError, match=r"features\.video: .*: found roberta, expected a qwen2_vl"):
        video_identity(replace(config, video=str(roberta)))
    make_qwen2_vl(tmp_path / "bare")
    for path in (tmp_path / "bare").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(TrainerError, match="found no weights of a vision tower"):
        video_identity(replace(config, video=str(tmp_path / "bare")))
