"""Tiny encoders with random weights, saved as transformers saves them; and video files, good and bad."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

TEXTS = [
    "",
    "一",
    "短视频 的 影响力",
    "a b c d e f g h",
    "标题 " * 40,
    "x",
    "#话题 mixed 文本 123",
    "长" * 300,
]


def make_roberta(path: Path, *, seed: int = 0, hidden: int = 16, family: str = "roberta") -> Path:
    """A RoBERTa (or BERT, as the Chinese ones are) of two layers with a tokenizer of characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import (
        BertConfig,
        BertModel,
        PreTrainedTokenizerFast,
        RobertaConfig,
        RobertaModel,
    )

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted({c for text in TEXTS for c in text} - {" "})
    vocabulary = {token: i for i, token in enumerate([*special, *letters])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )
    shape = {
        "vocab_size": len(vocabulary),
        "hidden_size": hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 3 * hidden,
        "max_position_embeddings": 130,
        "initializer_range": 0.3,
        "pad_token_id": 1,
    }
    torch.manual_seed(seed)
    model = RobertaModel(RobertaConfig(**shape)) if family == "roberta" else BertModel(BertConfig(**shape))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def make_qwen2_vl(path: Path, *, seed: int = 0) -> Path:
    """A Qwen2-VL whose vision tower has two layers, and a preprocessor of small frames."""
    from netgpt.trainers.language.model.tiny import random_qwen2_vl

    torch.manual_seed(seed)
    model = random_qwen2_vl(
        vocab=64, hidden=32, layers=1, heads=2, kv_heads=1, intermediate=64, initializer_range=0.2
    )
    model.save_pretrained(path)
    (path / "preprocessor_config.json").write_text('{"min_pixels": 3136, "max_pixels": 12544}')
    return path


def make_vit(path: Path, *, seed: int = 0, pooler: bool = True) -> Path:
    """A ViT of two layers over pictures of 32 pixels, and its preprocessor."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        initializer_range=0.3,
    )
    ViTModel(config, add_pooling_layer=pooler).save_pretrained(path)
    said = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5, 0.4, 0.6]}
    said |= {"image_std": [0.5, 0.3, 0.4], "image_processor_type": "ViTImageProcessor"}
    (path / "preprocessor_config.json").write_text(json.dumps(said))
    return path


def make_clip_model(path: Path, *, seed: int = 0) -> Path:
    """A CLIP, whose pictures are cut from the middle of what is scaled by its shorter side."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(seed)
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.3,
    }
    seen = {**shape, "image_size": 24, "patch_size": 8}
    config = CLIPConfig(text_config={**shape, "vocab_size": 20}, vision_config=seen, projection_dim=8)
    CLIPModel(config).save_pretrained(path)
    said = {"size": {"shortest_edge": 28}, "crop_size": {"height": 24, "width": 24}, "do_center_crop": True}
    said |= {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    (path / "preprocessor_config.json").write_text(json.dumps({**said, "resample": 3}))
    return path


def picture(i: int, height: int, width: int) -> np.ndarray:
    """Frame i of a clip: smooth colours that move, [height, width, 3] uint8."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 3 + 9 * i, y * 2 + 5 * i, (x + y) + 20 * i]
    return (np.stack(channels, axis=2) % 256).astype(np.uint8)


def make_clip(
    path: Path,
    *,
    num: int = 20,
    height: int = 62,
    width: int = 90,
    fps: int = 10,
    variable: bool = False,
    gop: int = 12,
) -> Path:
    """H.264 in MP4. variable: frames whose times are not evenly apart."""
    import av

    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.gop_size = gop
        stream.time_base = Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(num):
            frame = av.VideoFrame.from_ndarray(picture(i, height, width), format="rgb24")
            frame.pts = (i * i * 40) if variable else i * 1000 // fps
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_sound(path: Path) -> Path:
    """An MP4 without a video stream."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for i in range(10):
            frame.pts = i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
