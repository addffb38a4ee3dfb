"""Named configurations and overrides."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import pytest

from netgpt.cluster.config import MOVED, config_keys, config_names, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.keys import described, text_of
from netgpt.cluster.pipeline.run import Run
from netgpt.graphstore import BuildConfig
from netgpt.trainers.config import AblationConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.stages.names import stage_of


def test_named_configurations_load_and_round_trip(tmp_path: Path) -> None:
    names = [
        "demo",
        "lightgcn-ml1m",
        "mmra-microlens",
        "rerank-ml100k",
        "sample",
        "sample-ordinal",
        "shl-ml100k",
        "shl-tiktok",
        "smpd",
        "smpd-demo",
        "xs-video",
    ]
    assert config_names() == names
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
        ("without=XV", "without: found 'XV', expected V, VV, IV, CV"),
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
        ("task.split.until=soon", r"task\.split\.until: found 'soon', expected a date YYYY-MM-DD"),
        ("task.split.utc_offset_h=15", r"task\.split\.utc_offset_h: found 15"),
        ("task.val_share=1", r"task\.val_share: found 1.0, expected a share between 0 and 1"),
        ("task.levels=1", r"task\.levels: found 1, expected at least 2"),
        (
            "task.name=guess",
            r"task\.name: found 'guess', expected one of rating, regression, classification, ranking, or",
        ),
        ("language.tiny.warmup_lr=-3", r"language\.tiny\.warmup_lr: found -3.0, expected above 0"),
        (
            "stages=[stage1,nothing]",
            r"stages: found 'nothing', expected one of stage1, .*, or package\.module:Name",
        ),
        ("stages=[nowhere:Nothing]", r"stages: found 'nowhere:Nothing', which cannot be imported"),
        ("stages=stage1", "stages: found 'stage1', expected a list of stages"),
        ("baselines=[nothing]", "found 'nothing', expected one of stage1"),
        ("build.ties=loose", r"build\.ties: found 'loose', expected one of include, strict"),
        ("build.video_dim=0", r"build\.video_dim: found 0, expected a width from 1"),
        ("ablations.V.type=[a]", r"unknown key ablations\.V\.type"),
        (
            "dataset=nothing",
            "dataset: found 'nothing', expected one of xsvideo, tables, interactions, microlens, smpd, edges",
        ),
        ("dataset=nowhere:Nothing", "dataset: found 'nowhere:Nothing', which cannot be imported"),
        ("stage2.max_steps=-1", r"stage2\.max_steps: found -1, expected at least 0"),
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
        (["without=V", "language.pixels=clips"], r"none with without=V"),
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


def check(*overrides: str) -> None:
    """What a run asks its stages before anything starts."""
    config = load_config("demo", list(overrides))
    for name in (*config.stages, *config.baselines):
        stage_of(name).check(config.settings)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["graph.encoder=gat"], r"graph\.encoder: found 'gat', expected one of rgcn, gcn, han, hetsann"),
        (["graph.encoder=nowhere:Layer"], r"graph\.encoder: found 'nowhere:Layer', which cannot be imported"),
        (
            ["graph.encoder=han", "graph.heads=5"],
            r"graph\.heads: found 5, expected a divisor of graph\.hidden",
        ),
        (["graph.encoder=gcn", "graph.num_bases=2"], "only rgcn has bases"),
        (["stage2.objective=guess"], r"stage2\.objective: found 'guess', expected one of answer, score"),
    ],
)
def test_guests_and_their_settings_are_refused_before_anything_starts(
    overrides: list[str], words: str, tmp_path: Path
) -> None:
    """By the stage that they are of; and by a run, with nothing made but its own folder's lock."""
    with pytest.raises(TrainerError, match=words) as caught:
        check(*overrides)
    assert "\n" not in str(caught.value)
    data = tmp_path / "none.json"
    with pytest.raises(TrainerError, match=words):
        Run.start(tmp_path / "run", load_config("demo", overrides), data, None)
    assert list(tmp_path.iterdir()) == []


def test_attention_heads_need_no_divisor_where_there_are_none() -> None:
    assert load_config("demo", ["graph.heads=5"]).graph.heads == 5
    check("graph.heads=5")  # rgcn has none


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_key_that_moved_is_refused_with_its_new_name(old: str, new: str, tmp_path: Path) -> None:
    words = re.escape(f"found the unknown key {old}; it is {new} now")
    with pytest.raises(ClusterError, match=words):
        load_config("demo", [f"{old}=0.4"])
    section, _, key = old.partition(".")
    (tmp_path / "c.yaml").write_text(f"base: demo\n{section}: {{{key}: 0.4}}\n")
    with pytest.raises(ClusterError, match=words):
        load_config(str(tmp_path / "c.yaml"))
    assert new in config_keys()


def test_a_recipe_stands_on_another(tmp_path: Path) -> None:
    """By the name of ours, or by a file beside it; settings of the upper one win, lists as a whole."""
    (tmp_path / "mine.yaml").write_text("base: demo\nseed: 3\ngraph: {epochs: 4, keep_features: [topic]}\n")
    (tmp_path / "upper.yaml").write_text("base: mine.yaml\ngraph: {epochs: 5}\n")
    demo, mine, upper = (
        load_config(name) for name in ("demo", str(tmp_path / "mine.yaml"), str(tmp_path / "upper.yaml"))
    )
    assert (mine.seed, mine.graph.epochs, mine.graph.keep_features) == (3, 4, ["topic"])
    assert (upper.seed, upper.graph.epochs, upper.graph.keep_features) == (3, 5, ["topic"])
    assert mine.language == upper.language == demo.language
    assert load_config(str(tmp_path / "upper.yaml"), ["graph.epochs=6"]).graph.epochs == 6
    assert "base" not in upper.to_yaml().splitlines()[0]


@pytest.mark.parametrize(
    ("recipes", "words"),
    [
        ({"a": "base: a.yaml"}, r"base: found a\.yaml again, expected recipes that end"),
        ({"a": "base: b.yaml", "b": "base: a.yaml"}, r"base: found a\.yaml again"),
        (
            {"a": "base: nothing"},
            "base: found 'nothing', expected a YAML file or one of demo, lightgcn-ml1m, mmra-microlens",
        ),
        ({"a": "base: b.yaml", "b": "- graph"}, "found no keys, expected a recipe"),
        ({"a": "base: demo\ngraph: {epoch: 3}"}, r"unknown key graph\.epoch; did you mean graph\.epochs\?"),
    ],
)
def test_a_base_that_cannot_be_is_refused_in_one_line(
    recipes: dict[str, str], words: str, tmp_path: Path
) -> None:
    for name, text in recipes.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(ClusterError, match=words) as caught:
        load_config(str(tmp_path / "a.yaml"))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(tmp_path))


def test_build_settings_are_those_of_the_recipes_own_data_set(tmp_path: Path) -> None:
    path = tmp_path / "edges.yaml"
    path.write_text("dataset: edges\n")
    config = load_config(str(path), ["build.layout=csr"])
    assert config.build.layout == "csr" and not hasattr(config.build, "video_dim")
    for override in ("build.ties=strict", "build.video_dim=8", "build.bad_numbers=zero"):
        with pytest.raises(ClusterError, match=f"unknown key {override.split('=')[0]}"):
            load_config(str(path), [override])
    assert load_config("demo", ["build.ties=strict"]).build.ties == "strict"  # type: ignore[attr-defined]
    # Over a recipe of another: what that says of its own data set's builds is void, what is asked for is not
    assert load_config("demo", ["dataset=edges"]).build == BuildConfig()
    with pytest.raises(ClusterError, match=r"unknown key build\.video_dim"):
        load_config("demo", ["dataset=edges", "build.video_dim=8"])
    path.write_text("base: demo\ndataset: edges\nbuild: {video_dim: 8}\n")
    with pytest.raises(ClusterError, match=r"unknown key build\.video_dim"):
        load_config(str(path))


def test_sections_of_stages_that_a_run_is_without_are_void() -> None:
    config = load_config("demo", ["stages=[stage1,embeddings,evaluation]"])
    assert not hasattr(config, "stage2") and hasattr(config, "lora")
    with pytest.raises(ClusterError, match=r"unknown key stage2"):
        load_config("demo", ["stages=[stage1,embeddings,evaluation]", "stage2.lr=0.1"])


def test_an_ablation_is_one_that_the_recipe_names(tmp_path: Path) -> None:
    assert load_config("demo").ablation == AblationConfig()
    found = load_config("demo", ["without=V"])
    assert found.ablation.features == ["video"] and found.ablation.pixels
    path = tmp_path / "mine.yaml"
    path.write_text("base: demo\nablations: {T: {types: [topic]}}\n")
    assert load_config(str(path), ["without=T"]).ablation == AblationConfig(types=["topic"])
    with pytest.raises(ClusterError, match="without: found 'W', expected V, VV, IV, CV, T"):
        load_config(str(path), ["without=W"])
    path.write_text("dataset: edges\nwithout: V\n")
    with pytest.raises(ClusterError, match="expected none, since the recipe names no ablations"):
        load_config(str(path))


def test_unknown_names_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(
        ClusterError,
        match="demo, lightgcn-ml1m, mmra-microlens, rerank-ml100k, sample, sample-ordinal, shl-ml100k",
    ):
        load_config("nothing")
    path = tmp_path / "c.yaml"
    path.write_text("graph: [1, 2")
    with pytest.raises(ClusterError, match="yaml"):
        load_config(str(path))
    path.write_text("grahp:\n  epochs: 3\n")
    with pytest.raises(ClusterError, match="grahp"):
        load_config(str(path))


def test_keys_are_described_with_a_recipes_own_values() -> None:
    config = load_config("sample")
    found = described(recipe="sample")
    assert {one["key"] for one in found if "value" in one} == set(config_keys(type(config))) - {"ablations"}
    for one in found:
        if "value" in one:
            assert one["value"] == attrgetter(one["key"])(config)
    (epochs,) = described("stage3.epochs", "sample")
    assert (epochs["default"], epochs["value"]) == (1, 3)
    assert text_of([epochs]).splitlines()[0] == "stage3.epochs = 3   (whole number, default 1)"
    section = [one["key"] for one in described("language.history")]
    assert section and all(key.startswith("language.history.") for key in section)
    assert any(one["key"] == "prefer.loss" for one in described("IDPOP"))
    with pytest.raises(ClusterError, match=r"found no key for 'graph.epoch s'.*did you mean graph.epochs"):
        described("graph.epoch s")


def test_what_yaml_takes_for_something_else_is_refused_or_as_written(tmp_path: Path) -> None:
    """`off` is a word of one key, and no truth value that is turned into a text."""
    assert load_config("demo", ["cluster.store_cache=off"]).cluster.store_cache == "off"
    for override, words in (
        ("graph.epochs=010", "found 010 in line 1, which YAML reads as 8"),
        ("evaluation.by=[on]", "found on in line 1, which YAML reads as True"),
    ):
        with pytest.raises(ClusterError, match=f"override: {re.escape(override)}: {words}"):
            load_config("demo", [override])
    path = tmp_path / "mine.yaml"
    for text, words in (
        ("base: demo\ncluster: {store_cache: off}\n", "found off in line 2, which YAML reads as False"),
        ("base: demo\ngraph: {epochs: 010}\n", "found 010 in line 2, which YAML reads as 8"),
        (
            "base: demo\nfeatures: {text: 1e3}\n",
            "features.text: found 1000.0, expected a text; write it in quotes",
        ),
        ("base: demo\ncluster: {store_cache: true}\n", "cluster.store_cache: found True, expected a text"),
    ):
        path.write_text(text)
        with pytest.raises(ClusterError, match=rf"mine\.yaml: {words}"):
            load_config(str(path))
    path.write_text("base: demo\ncluster: {store_cache: 'off'}\n")
    assert load_config(str(path)).cluster.store_cache == "off"
    path.write_bytes("base: demo # é\n".encode("latin-1"))
    with pytest.raises(ClusterError, match=r"mine\.yaml: .*utf-8"):
        load_config(str(path))
