"""Named configurations and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from netgpt.cluster.config import config_keys, config_names, load_config
from netgpt.cluster.errors import ClusterError


def test_named_configurations_load_and_round_trip(tmp_path: Path) -> None:
    assert config_names() == ["demo", "sample", "xs-video"]
    for name in config_names():
        config = load_config(name)
        (tmp_path / "c.yaml").write_text(config.to_yaml())
        assert load_config(str(tmp_path / "c.yaml")) == config


def test_the_paper_configuration_has_the_papers_values() -> None:
    config = load_config("xs-video")
    assert (config.graph.hidden, config.sampler.fanout, config.cluster.workers) == (1024, 50, 8)
    assert config.language.model == "Qwen/Qwen2-VL-7B-Instruct"
    assert (config.language.max_tokens, config.language.max_comments, config.stage3.layers) == (4000, 50, 4)
    assert config.build.video_dim == 3584 and config.cluster.device == "cuda"


def test_overrides_change_one_value() -> None:
    config = load_config("demo", ["graph.epochs=7", "language.tiny.layers=9"])
    assert config.graph.epochs == 7 and config.language.tiny.layers == 9
    assert config.stage3 == load_config("demo").stage3


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("graph.epoch=3", r"unknown key graph\.epoch; did you mean graph\.epochs\?"),
        ("grahp.epochs=3", r"did you mean graph\?"),
        ("fanout=3", r"did you mean sampler\.fanout\?"),
        ("cluster.epochs=3", r"did you mean graph\.epochs\?"),
        ("language.tiny.layer=7", r"did you mean language\.tiny\.layers\?"),
        ("graph.epochs=many", r"graph\.epochs.*many"),
        ("graph.epochs=0", r"graph\.epochs: found 0, expected at least 1"),
        ("graph.epochs", "expected KEY=VALUE"),
        ("build.layout=coo", r"build\.layout.*coo"),
        ("language.packs_per_step=3", "multiple of cluster.workers"),
        ("language.tiny.layers=2", "at least 6"),
        ("cluster.device=maybe", "auto, cuda or cpu"),
        ("seed=-1", "seed: found -1"),
        ("language.tiny.heads=0", "an even number from 2"),
        ("graph.weight_decay=-1", "at least 0"),
        ("graph.encoder=gat", "found 'gat', expected rgcn, gcn, han, hetsann"),
        ("graph.ablation=XV", "found 'XV', expected none, V, VV, IV, CV"),
        ("graph.neighbors=some", "sampled or all"),
        ("graph.precision=float16", "auto, float32, bfloat16"),
        ("graph.inference_gb=0", "above 0"),
        ("graph.tables_gb=.inf", "graph.tables_gb: found inf"),
        ("graph.select=first", "best or last"),
        ("stage3.start=rgcn", "mean or graph"),
        ("stage2.text_dropout=1", "a share from 0, below 1"),
        ("stage3.select=first", "best or last"),
        ("lora.rank=0", r"lora\.rank: found 0"),
        ("lora.targets=[]", r"lora\.targets"),
        ("evaluation.period_days=[7,3]", "rising numbers of days"),
        ("build.train_until=soon", "YYYY-MM-DD"),
        ("stage2.max_steps=-1", "max_steps: found -1, expected at least 0"),
        ("cluster.memory_gb=-1", "at least 0"),
        ("cluster.wait_minutes=.inf", "cluster.wait_minutes"),
        ("cluster.store_cache=here", "a folder from the root"),
    ],
)
def test_a_wrong_override_is_one_line(override: str, words: str) -> None:
    with pytest.raises(ClusterError, match=words) as caught:
        load_config("demo", [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["graph.precision=bfloat16", "cluster.device=cpu"], "auto or float32 with cluster.device=cpu"),
        (["graph.ablation=V", "language.pixels=clips"], r"none with graph\.ablation=V"),
        (["cluster.workers=3", "language.packs_per_step=4"], r"multiple of cluster\.workers \(3\)"),
        (["graph.batch_size=1", "cluster.workers=2"], r"at least cluster\.workers \(2\)"),
        (["language.token_budget=900"], r"at least max_tokens"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(ClusterError, match=words):
        load_config("demo", overrides)


def test_every_key_is_known_by_its_name() -> None:
    keys = config_keys()
    assert {"seed", "graph.epochs", "language.tiny.layers", "cluster.store_cache", "build.layout"} <= set(
        keys
    )
    assert len(keys) == len(set(keys))


def test_attention_heads_divide_the_width() -> None:
    with pytest.raises(ClusterError, match=r"graph\.heads: found 5, expected a divisor of graph\.hidden"):
        load_config("demo", ["graph.encoder=han", "graph.heads=5"])
    with pytest.raises(ClusterError, match="only rgcn has bases"):
        load_config("demo", ["graph.encoder=gcn", "graph.num_bases=2"])
    assert load_config("demo", ["graph.heads=5"]).graph.heads == 5  # rgcn has none


def test_unknown_names_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="demo, sample, xs-video"):
        load_config("nothing")
    path = tmp_path / "c.yaml"
    path.write_text("graph: [1, 2")
    with pytest.raises(ClusterError, match="yaml"):
        load_config(str(path))
    path.write_text("grahp:\n  epochs: 3\n")
    with pytest.raises(ClusterError, match="grahp"):
        load_config(str(path))
