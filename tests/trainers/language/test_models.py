"""Models of several families: packed, with adapters, exported, and refused where they are not whole."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from netgpt.graphstore import Store
from netgpt.trainers.config import LoraConfig, TinyConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model.backbone import check_tokenizer, load_base, load_tokenizer
from netgpt.trainers.language.model.export import export, load_exported
from netgpt.trainers.language.model.lora import LoraLM
from netgpt.trainers.language.model.netgpt import NetGPT, PackedLM
from netgpt.trainers.language.model.tiny import make_model, save_base, train_tokenizer
from netgpt.trainers.language.samples import Samples
from netgpt.trainers.language.scoring import score_samples
from tests.reference import prompts_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def families(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small random models of several kinds, as `from_pretrained` reads them."""
    root = tmp_path_factory.mktemp("families")
    shape = {
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "vocab_size": 640, "eos_token_id": tokenizer.eos_token_id},
        **{"bos_token_id": None, "pad_token_id": None, "max_position_embeddings": 8192},
    }
    torch.manual_seed(0)
    models: dict[str, PreTrainedModel] = {
        "qwen2_vl": make_model(TinyConfig(hidden=32, layers=6, heads=2, vocab=600), tokenizer, 0),
        "qwen2": Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)),
        "llama": LlamaForCausalLM(LlamaConfig(**{**shape, "vocab_size": 600})),
    }
    for name, model in models.items():
        save_base(root / name, model, tokenizer)
    return {name: root / name for name in models}


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_models_of_text_alone(kind: str, families: dict[str, Path], samples: Samples, store: Store) -> None:
    """Packed and without graph: the same logits as transformers' own forward with its own attention."""
    base = load_base(str(families[kind]), torch.float32)
    model = PackedLM(base).eval()
    own = replace(
        samples,
        graph=None,
        builder=prompts_of(load_tokenizer(str(families[kind])), store, with_graph=False),
    )
    with torch.no_grad():
        batch = own.batch([0, 4, 2])
        packed = model.hidden_states(batch).split(batch.lengths)
        base.set_attn_implementation("sdpa")
        for i, found in zip([0, 4, 2], packed, strict=True):
            alone = base.model(input_ids=torch.from_numpy(own.prompt(i))[None]).last_hidden_state[0]
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    graph_ids = samples.builder.start_id, samples.builder.pad_id, samples.builder.end_id
    netgpt = NetGPT(load_base(str(families[kind]), torch.float32), 6, graph_ids)
    names = netgpt.parts(("markers", "projector", "head", "last:4"))
    assert {n.split(".")[3] for n in names if n.startswith("base.")} == {"1", "2", "3", "4"}
    assert score_samples(netgpt.eval(), samples, 2000).shape == (12,)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2", "llama"])
def test_lora_trains_adapters_of_the_decoder_alone(
    kind: str, families: dict[str, Path], samples: Samples, store: Store
) -> None:
    model = LoraLM(load_base(str(families[kind]), torch.float32), LoraConfig(rank=4))
    trained = model.parts(("adapters",))
    model.train_only(trained)
    layers = 6 if kind == "qwen2_vl" else 5
    assert len(trained) == layers * 7 * 2 and all(".layers." in n and ".lora_" in n for n in trained)
    builder = prompts_of(load_tokenizer(str(families[kind])), store, with_graph=False)
    own = replace(samples, graph=None, builder=builder)
    batch = own.batch([0, 1], [builder.response(n) for n in (3, 5)])
    plain = PackedLM(load_base(str(families[kind]), torch.float32)).eval()
    with torch.no_grad():  # B starts at zero: the adapters change nothing yet
        torch.testing.assert_close(
            model.eval().response_log_probs(batch)[0], plain.response_log_probs(batch)[0]
        )
    model.response_log_probs(batch)[0].sum().backward()
    assert all((p.grad is not None) == (n in trained) for n, p in model.named_parameters())
    with pytest.raises(TrainerError, match=r"lora\.targets: found 'wq'.*q_proj"):
        LoraLM(load_base(str(families[kind]), torch.float32), LoraConfig(targets=["wq"]))


@pytest.mark.parametrize(("kind", "width"), [("qwen2_vl", 1), ("qwen2", 4), ("llama", 1)])
def test_an_export_is_loaded_by_transformers_and_scores_the_same(
    kind: str, width: int, families: dict[str, Path], samples: Samples, store: Store, tmp_path: Path
) -> None:
    tokenizer = load_tokenizer(str(families[kind]))
    builder = prompts_of(tokenizer, store)
    own = replace(samples, builder=builder)
    ids = (builder.start_id, builder.pad_id, builder.end_id)
    netgpt = NetGPT(load_base(str(families[kind]), torch.float32), 6, ids, width=width).eval()
    assert samples.graph is not None
    with torch.no_grad():
        for p in netgpt.parts(("markers", "projector", "head", "last:4")).values():
            p.add_(torch.randn_like(p) * 0.05)
    expected = score_samples(netgpt, own, 2000)
    assert expected.shape == ((len(own),) if width == 1 else (len(own), width))
    mean = torch.from_numpy(samples.graph.mean)
    export(tmp_path / "out", netgpt, tokenizer, mean=mean, length=samples.graph.length)
    assert not list((tmp_path / "out").rglob("*.bin")) and not list(tmp_path.glob(".*"))
    again, found_mean, length = load_exported(tmp_path / "out")
    assert again.start == "mean"
    assert length == samples.graph.length and torch.equal(found_mean, mean)
    np.testing.assert_allclose(score_samples(again, own, 2000), expected, rtol=1e-5, atol=1e-5)
    rows = again.base.get_input_embeddings().weight
    assert torch.equal(rows[builder.start_id], netgpt.markers_2H[0])
    assert load_tokenizer(str(tmp_path / "out")).convert_tokens_to_ids("<|graph_pad|>") == builder.pad_id
    with pytest.raises(TrainerError, match="already there"):
        export(tmp_path / "out", netgpt, tokenizer, mean=mean, length=1.0)
    if kind == "qwen2_vl":  # the base model's processor comes along
        Qwen2VLImageProcessor(patch_size=7).save_pretrained(tmp_path / "base")
        beside = [tmp_path / "base" / "preprocessor_config.json"]
        export(tmp_path / "with", netgpt, tokenizer, mean=mean, length=1.0, beside=beside)
        assert AutoImageProcessor.from_pretrained(tmp_path / "with").patch_size == 7


def test_models_that_are_not_whole_are_refused(families: dict[str, Path], tmp_path: Path) -> None:
    def copy(kind: str, name: str) -> Path:
        return Path(shutil.copytree(families[kind], tmp_path / name))

    for name in ("config.json", "model.safetensors"):
        folder = copy("qwen2", f"without-{name}")
        (folder / name).unlink()
        with pytest.raises(TrainerError, match=r"language\.model: found .*without-"):
            load_base(str(folder), torch.float32)
    folder = copy("llama", "no-tokenizer")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(TrainerError, match=r"language\.model: found .*tokenizer"):
        load_tokenizer(str(folder))
    folder = copy("llama", "torn")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(TrainerError, match=r"language\.model"):
        load_base(str(folder), torch.float32)
    folder = copy("llama", "lacking")
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.3.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        TrainerError, match=r"no weights for 1 tensors such as model\.layers\.3\.mlp\.up_proj"
    ):
        load_base(str(folder), torch.float32)
    folder = copy("llama", "pickled")
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(TrainerError, match=r"language\.model"):
        load_base(str(folder), torch.float32)
    folder = copy("llama", "other-kind")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(TrainerError, match=r"type gpt2.*qwen2_vl, qwen2, llama"):
        load_base(str(folder), torch.float32)
    with pytest.raises(TrainerError, match=r"language\.model: found '/nowhere'"):
        load_tokenizer("/nowhere")


def test_a_tokenizer_of_another_model_is_refused(
    store: Store, families: dict[str, Path], tokenizer: Any
) -> None:
    large = train_tokenizer(list(store.texts), 900)
    base = load_base(str(families["qwen2"]), torch.float32)
    with pytest.raises(TrainerError, match=r"tokenizer of 900 entries, expected at most the model's 640"):
        check_tokenizer(base, large, len(large))
    check_tokenizer(base, tokenizer, 600)
    vision = load_base(str(families["qwen2_vl"]), torch.float32)
    vision.config.video_token_id += 1
    with pytest.raises(TrainerError, match=r"found <\|video_pad\|> as token 7, expected 8"):
        check_tokenizer(vision, tokenizer, 600)
    base.config.eos_token_id = 333
    with pytest.raises(TrainerError, match="no special token of id 333"):
        check_tokenizer(base, tokenizer, 600)


@torch.no_grad()
def test_a_rating_that_starts_from_the_graphs_score(
    families: dict[str, Path], samples: Samples, tmp_path: Path
) -> None:
    """The head adds to stage 1's score, wherever the model is used; without that score it says so."""
    builder, graph = samples.builder, samples.graph
    assert graph is not None
    scores = np.linspace(0, 9, len(graph.embeddings))
    own = replace(samples, graph=replace(graph, scores=scores))
    ids = builder.start_id, builder.pad_id, builder.end_id
    netgpt = NetGPT(load_base(str(families["qwen2_vl"]), torch.float32), 6, ids, "graph").eval()
    netgpt.start_head_at(0.0)
    np.testing.assert_allclose(score_samples(netgpt, own, 2000), scores[own.ids], rtol=1e-6)
    torch.nn.init.normal_(netgpt.head.weight)
    found = score_samples(netgpt, own, 2000)
    netgpt.start = "mean"
    np.testing.assert_allclose(found - scores[own.ids], score_samples(netgpt, own, 2000), atol=1e-5)
    netgpt.start = "graph"
    with pytest.raises(TrainerError, match="no scores of stage 1"):
        netgpt.scores(samples.batch([0]))
    export(tmp_path / "out", netgpt, builder.tokenizer, mean=torch.from_numpy(graph.mean), length=1.0)
    again, _, _ = load_exported(tmp_path / "out")
    np.testing.assert_allclose(score_samples(again, own, 2000), found, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_bfloat16_as_deepspeed_casts_it(families: dict[str, Path], samples: Samples) -> None:
    ids = samples.builder.start_id, samples.builder.pad_id, samples.builder.end_id
    netgpt = NetGPT(load_base(str(families["qwen2_vl"]), torch.float32), 6, ids).eval()
    expected = netgpt.scores(samples.batch([0, 1, 2]))
    for parameter in netgpt.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    found = netgpt.scores(samples.batch([0, 1, 2]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.05)
