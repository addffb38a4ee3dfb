"""Text encoders against the transformers model called directly, text by text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.checkpoint import as_float16
from netgpt.trainers.features.config import POOLINGS, FeaturesConfig
from netgpt.trainers.features.text import TextModel, text_identity
from tests.encoders import TEXTS, make_roberta


@pytest.fixture(scope="module", params=["roberta", "bert"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_roberta(tmp_path_factory.mktemp("models") / "tiny", family=request.param)


def direct(folder: Path, text: str, pooling: str, max_tokens: int) -> np.ndarray:
    """The model on one text alone, without padding."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    inputs = tokenizer([text], truncation=True, max_length=max_tokens, return_tensors="pt")
    with torch.no_grad():
        out = model(**inputs)
    pooled = {
        "mean": out.last_hidden_state.mean(1),
        "cls": out.last_hidden_state[:, 0],
        "pooler": out.pooler_output,
    }[pooling]
    return np.asarray(pooled[0])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("batch_tokens", [0, 1, 100, 999])
def test_vectors_are_the_models_own_at_any_batch_size(folder: Path, pooling: str, batch_tokens: int) -> None:
    config = FeaturesConfig(text=str(folder), pooling=pooling, max_tokens=64, batch_tokens=batch_tokens)
    model = TextModel(config)
    expected = np.stack([direct(folder, text, pooling, 64) for text in TEXTS])
    found = model.vectors(TEXTS)
    assert found.dtype == np.float32 and found.shape == (len(TEXTS), model.dim)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert model.encode(TEXTS).dtype == np.float16
    np.testing.assert_allclose(model.encode(TEXTS), expected.astype(np.float16), atol=4e-3)
    # The order of texts, and which are beside each other, changes nothing
    np.testing.assert_allclose(model.vectors(TEXTS[::-1])[::-1], expected, atol=1e-5)
    assert model.vectors([]).shape == (0, model.dim)


def test_long_texts_are_cut(folder: Path) -> None:
    model = TextModel(FeaturesConfig(text=str(folder), max_tokens=16))
    same, other = model.vectors(["长" * 300, "长" * 14, "长" * 5])[:2], model.vectors(["长" * 5])
    np.testing.assert_allclose(same[0], same[1], atol=1e-5)
    assert np.abs(same[0] - other[0]).max() > 1e-3


def test_names_tell_encoders_apart_and_not_where_they_lie(folder: Path, tmp_path: Path) -> None:
    config = FeaturesConfig(text=str(folder), max_tokens=64)
    family = text_identity(config)[0].split("-")[0]
    name, dim = text_identity(config)
    assert dim == 16 and name.startswith(f"{family}-16/mean/64@")
    assert TextModel(config).name == name
    copied = make_roberta(tmp_path / "elsewhere", family=family)
    assert text_identity(replace(config, text=str(copied)))[0] == name
    others = [
        replace(config, text=str(make_roberta(tmp_path / "weights", seed=1, family=family))),
        replace(config, pooling="cls"),
        replace(config, max_tokens=32),
        replace(config, precision="bfloat16"),
    ]
    assert len({name, *(text_identity(other)[0] for other in others)}) == 5


def test_bad_models_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"features\.text: found no folder /no/such"):
        text_identity(FeaturesConfig(text="/no/such"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainerError, match=r"features\.text: .*empty"):
        TextModel(FeaturesConfig(text=str(tmp_path / "empty")))
    with pytest.raises(TrainerError, match=r"features\.max_tokens: found 512, expected at most 1"):
        TextModel(FeaturesConfig(text=str(folder), max_tokens=512))
    with pytest.raises(TrainerError, match=r"features\.pooling: found 'max', expected mean, cls, pooler"):
        FeaturesConfig(text=str(folder), pooling="max")


def test_vectors_beyond_float16_are_refused() -> None:
    assert as_float16(np.array([[1.5, -3]], np.float32), "m").tolist() == [[1.5, -3.0]]
    for bad in (1e6, np.nan, np.inf):
        with pytest.raises(TrainerError, match="m: found a vector that float16 cannot hold"):
            as_float16(np.array([[0.0, 1.0], [bad, 1.0]], np.float32), "m")
        with pytest.raises(TrainerError, match="float16 cannot hold"):
            as_float16(np.array([bad, 1.0], np.float32), "m")
