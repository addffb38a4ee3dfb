"""Tuning, pairs and alignment on SMPD's twin with a tiny model: first steps, packs, ranks, crashes."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.files import file_digest
from netgpt.trainers import weights
from netgpt.trainers.config import DrawnConfig, LanguageConfig, StageConfig, TinyConfig, TuneConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.assembly import WEIGHTS, Assembly
from netgpt.trainers.language.generation import longest_written, mean_numbers
from netgpt.trainers.language.nucleus import Nucleus
from netgpt.trainers.language.objectives.prefer import Prefer
from netgpt.trainers.language.preference import drawing, losses
from netgpt.trainers.language.preference.config import PairsConfig, PreferConfig
from netgpt.trainers.language.preference.drawing import draw_pairs, with_reference
from netgpt.trainers.language.preference.pairs import FILE, Pairs
from netgpt.trainers.language.train import LanguageTrainer
from netgpt.trainers.settings import Settings, settings_type
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.folder import read_manifest
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.stages.session import run_stage
from netgpt.trainers.stages.shots import Align, Tune, drawn_nodes
from netgpt.trainers.tasks.base import WordsConfig
from netgpt.trainers.tasks.names import make_task
from netgpt.trainers.tasks.regression import Regression, RegressionConfig
from netgpt.trainers.tasks.split import SplitConfig
from tests.ranks import job_of, kill_in_an_epoch, torchrun
from tests.smpd import SCALE, built

STAGES = ("base", "tokens", "tune", "pairs", "prefer", "evaluation")
TASK = RegressionConfig(
    name="regression",
    label="score",
    digits=1,
    val_share=0.25,
    split=SplitConfig(by="column", column="part"),
    words=WordsConfig(request="How popular is the last post? Output a number.\n", response=""),
)
LANGUAGE = LanguageConfig(
    max_tokens=500,
    token_budget=1200,
    packs_per_step=2,
    tiny=TinyConfig(hidden=32, layers=6, heads=2, vocab=600),
)
TUNE = TuneConfig(method="full", lr=0.005, epochs=60, select="last", checkpoint_steps=50)
PREFER = PreferConfig(lr=0.002, epochs=2, checkpoint_steps=2, log_steps=1)
PAIRS = PairsConfig(column="set", value="prefer", top_p=0.95, temperature=1.0)
CPU, OWN = torch.device("cpu"), "own.npz"

pytestmark = pytest.mark.usefixtures("process_group")


def settings_of(**values: Any) -> Settings:
    kind = settings_type("regression", STAGES)
    given = {"seed": 3, "stages": list(STAGES), "baselines": [], "task": TASK, "language": LANGUAGE}
    return kind(**{**given, "tune": TUNE, "pairs": PAIRS, "prefer": PREFER, **values})


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("smpd")
    datasets.load("smpd").write_synthetic(folder / "files", 3 * SCALE, 0)
    return built(folder / "files", folder / "store", users=12, shots=2)


def execute(run: Path, store: Store, name: str, settings: Settings) -> None:
    job = StageJob(stage=name, run=run, store=store.path, settings=settings, inputs={"stage": name})
    job.prepare()
    run_stage(job)


@pytest.fixture(scope="module")
def tuned(posts: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to the pairs."""
    run = tmp_path_factory.mktemp("run")
    settings = settings_of()
    for name in ("base", "tokens", "tune", "pairs"):
        execute(run, posts, name, settings)
    shutil.copyfile(run / "pairs" / FILE, run / OWN)
    # More of them, as they would be of a model that can read
    assembly, random = assembly_of(run, posts, settings), np.random.default_rng(0)
    codes, values = posts.category("post", "role")
    nodes = np.flatnonzero(np.asarray(codes) == list(values).index("prefer"))
    errors = np.sort(random.integers(1, 40, (len(nodes), 2)) / 10, axis=1)
    errors[:, 1] += 0.1
    truth = make_task(TASK).truth(posts)[nodes]
    answers = [
        [assembly.builder.written(f"{t + error:.1f}") for error in own]
        for t, own in zip(truth.tolist(), errors.tolist(), strict=True)
    ]
    digest = file_digest(run / "tune" / WEIGHTS)
    model, samples = Tune().trained_model(assembly, 0), assembly.samples(nodes, None)
    made = with_reference(model, samples, Pairs.of(nodes, answers, errors), digest, 1200)
    made.save(run / "pairs" / FILE)
    return run


def assembly_of(run: Path, store: Store, settings: Settings) -> Assembly:
    return Assembly(run, store, settings, make_task(settings.task), CPU, False)


def trainer_of(run: Path, store: Store, folder: Path, settings: Settings) -> LanguageTrainer:
    stage = Align()
    assembly = stage.training(assembly_of(run, store, settings))
    model = stage.model(assembly, 0)
    stage.begin(model, assembly)
    return LanguageTrainer(stage, assembly, model, None, folder)


def test_pairs_are_the_models_own_answers_in_order(tuned: Path, posts: Store) -> None:
    pairs, settings = Pairs.load(tuned / OWN), settings_of()
    assembly = assembly_of(tuned, posts, settings)
    said = read_manifest(tuned / "pairs")
    assert said is not None and said["metrics"]["pairs"] == len(pairs) > 0
    codes, values = posts.category("post", "set")
    asked = np.flatnonzero(np.asarray(codes) == list(values).index("prefer"))
    assert set(pairs.node) <= set(asked) and len(set(pairs.node)) == len(pairs)
    truth, tokenizer = make_task(TASK).truth(posts), assembly.builder.tokenizer
    for i, node in enumerate(pairs.node.tolist()):
        texts = [tokenizer.decode(one, skip_special_tokens=True) for one in pairs.answers(i)]
        said = [make_task(TASK).read(text) for text in texts]
        right = float(f"{truth[node]:.1f}")
        errors = [abs(one - right) for one in said if one is not None]
        np.testing.assert_allclose(pairs.errors[i], errors, atol=1e-8)
        assert errors[0] < errors[1] and texts[0] != texts[1]
    # The reference by a pass of each answer by itself
    model = Tune().trained_model(assembly, 0)
    samples = assembly.samples(pairs.node, None)
    for i in range(len(pairs)):
        for j, answer in enumerate(pairs.answers(i)):
            with torch.no_grad():
                log_probs, _ = model.response_log_probs(samples.batch([i], [answer]))
            assert pairs.reference[i, j] == pytest.approx(float(log_probs.sum()), abs=1e-4)


def test_draws_are_the_same_in_any_pack_and_others_by_seed(tuned: Path, posts: Store) -> None:
    settings = settings_of()
    assembly = assembly_of(tuned, posts, settings)
    model, task = Tune().trained_model(assembly, 0), make_task(TASK)
    asked = Pairs.load(tuned / "pairs" / FILE).node
    made = []
    for budget, seed in ((600, 3), (5000, 3), (5000, 4)):
        samples = assembly.samples(asked, None)
        truth = task.truth(posts)[asked]
        made.append(draw_pairs(model, task, samples, truth, PAIRS, seed, budget)[0])
    assert np.array_equal(made[0].tokens, made[1].tokens) and np.array_equal(made[0].node, made[1].node)
    assert not np.array_equal(made[0].tokens, made[2].tokens)
    one, other = (with_reference(model, assembly.samples(m.node, None), m, "w", 600) for m in made[:2])
    np.testing.assert_allclose(one.reference, other.reference, atol=1e-5)


def test_tokens_are_drawn_by_their_probabilities() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.06, 0.04, 0.0]) + 1e-300).astype(np.float32)
    logits[5] = -np.inf
    nodes = np.arange(4000)

    def shares(config: PairsConfig) -> np.ndarray:
        draws = Nucleus(config, nodes, 0, num=2)
        found = [draws.token(logits, i, 0, 0) for i in range(len(nodes))]
        assert found == [draws.token(logits, i, 0, 0) for i in range(len(nodes))]
        assert found != [draws.token(logits, i, 1, 0) for i in range(len(nodes))]
        return np.bincount(found, minlength=6) / len(nodes)

    near = 0.03  # four standard deviations of a share of one half
    np.testing.assert_allclose(
        shares(PairsConfig(temperature=1.0, top_p=1.0)), [0.4, 0.3, 0.2, 0.06, 0.04, 0], atol=near
    )
    np.testing.assert_allclose(
        shares(PairsConfig(temperature=1.0, top_p=0.65)), [4 / 7, 3 / 7, 0, 0, 0, 0], atol=near
    )
    np.testing.assert_allclose(
        shares(PairsConfig(temperature=1.0, top_p=1.0, top_k=3)), [4 / 9, 3 / 9, 2 / 9, 0, 0, 0], atol=near
    )
    hot = np.array([0.4, 0.3, 0.2, 0.06, 0.04]) ** 0.5
    np.testing.assert_allclose(
        shares(PairsConfig(temperature=2.0, top_p=1.0))[:5], hot / hot.sum(), atol=near
    )


@pytest.mark.parametrize("method", ["full", "prefix"])
def test_the_mean_of_drawn_answers_is_that_of_draws_without_a_cache(
    method: str, tuned: Path, posts: Store
) -> None:
    """Token by token over whole texts, one sample and one draw at a time."""
    settings = settings_of(tune=replace(TUNE, method=method))
    assembly, task = assembly_of(tuned, posts, settings), make_task(TASK)
    stage = Tune()
    model = stage.trained_model(assembly, 0) if method == "full" else stage.model(assembly, 0).eval()
    if method == "prefix":  # the tuned weights, and a prefix that is not a fresh one
        full = weights.load(tuned / "tune" / WEIGHTS)[0]
        model.load_state_dict(full, strict=False)
        torch.nn.init.normal_(model.get_parameter("prefix"), std=0.3)
    asked = assembly.examples.test[:7]
    samples, builder = assembly.samples(asked, None), assembly.builder
    draws = Nucleus(DrawnConfig(top_p=0.95, temperature=1.0), asked, 5, num=3, key="drawn")
    most = longest_written(samples, task)
    never = [i for i in builder.never_said if i < 600]
    means = []
    with torch.no_grad():
        for i in range(len(asked)):
            read = []
            for draw in range(3):
                text: list[int] = []
                while len(text) < most and not (text and text[-1] in builder.ends):
                    logits = model.logits(model.hidden_states(samples.batch([i], [np.array(text, int)]))[-1])
                    logits[builder.num_entries :] = -torch.inf
                    logits[never] = -torch.inf
                    text.append(draws.token(logits.numpy(), i, draw, len(text)))
                ended = text[-1] in builder.ends
                read.append(task.read(builder.text(np.array(text))) if ended else None)
            known = [one for one in read if one is not None]
            means.append(sum(known) / len(known) if known else np.nan)
    for budget in (600, 5000):
        found = mean_numbers(model, task, samples, budget, draws)
        np.testing.assert_allclose(found, means, atol=1e-12)
    if method == "full":
        assert len(np.unique(means)) > 1


@pytest.mark.parametrize(
    ("loss", "share_prompt"), [("dpo", True), pytest.param("idpop", False, marks=pytest.mark.all)]
)
@pytest.mark.parametrize("method", ["lora", "freeze", "full", "prefix"])
def test_the_first_step_is_ln_2(
    method: str, share_prompt: bool, loss: str, tuned: Path, posts: Store, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned, run, ignore=lambda _, names: [n for n in names if n in ("tune", "pairs")])
    tune = replace(TUNE, method=method, dropout=0.3, epochs=2)
    settings = settings_of(tune=tune, prefer=replace(PREFER, loss=loss, share_prompt=share_prompt))
    execute(run, posts, "tune", settings)
    # Pairs of the other model, with the log-probabilities of this one
    assembly = assembly_of(run, posts, settings)
    pairs = Pairs.load(tuned / "pairs" / FILE)
    digest = file_digest(run / "tune" / WEIGHTS)
    model = Tune().trained_model(assembly, 0)
    (run / "pairs").mkdir()
    with_reference(model, assembly.samples(pairs.node, None), pairs, digest, 1200).save(run / "pairs" / FILE)
    trainer = trainer_of(run, posts, tmp_path / "prefer", settings)
    step = trainer.plans[0][0]
    result = trainer.train(step, 0)
    # What rounding leaves of the chosen answer's difference the penalty weighs
    weight = 0.0 if loss == "dpo" else float(pairs.weights(settings.section("prefer", PreferConfig)).max())
    assert result.loss == pytest.approx(math.log(2), abs=1e-6 * (1 + weight))
    assert result.watched["chosen"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "share_prompt"),
    [("dpo", True), ("dpop", False), ("constant", True), ("idpop", True), ("idpop", False)],
)
def test_a_steps_loss_is_the_formula_whatever_the_packs(
    loss: str, share_prompt: bool, tuned: Path, posts: Store, tmp_path: Path
) -> None:
    """After a first step, so that answers are no longer as likely as they were."""
    found = []
    config = replace(PREFER, loss=loss, share_prompt=share_prompt, lr=0.004)
    for budget, packs in ((5000, 1), (900, 4)):
        language = replace(LANGUAGE, token_budget=budget, packs_per_step=packs)
        settings = settings_of(language=language, prefer=config)
        trainer = trainer_of(tuned, posts, tmp_path / f"{budget}", settings)
        every = list(range(len(trainer.samples)))
        for number in range(2):
            step = trainer.plans[0][0]
            whole = replace(step, packs=[every[i::packs] for i in range(packs)])
            trainer.engine.set_rate(0.004)
            result = trainer.train(whole, number)
        found.append(result)
        model, pairs = trainer.model.eval(), Pairs.load(tuned / "pairs" / FILE)
    assert found[0].loss == pytest.approx(found[1].loss, abs=1e-5)
    assert found[0].watched == pytest.approx(found[1].watched, abs=1e-3)
    # The formula, of the weights behind both steps
    step = trainer.train(replace(step, packs=[every]), 2)
    del step
    fresh = trainer_of(tuned, posts, tmp_path / "again", settings)
    fresh.engine.set_rate(0.004)
    one = replace(fresh.plans[0][0], packs=[every])
    fresh.train(one, 0)
    model = fresh.model.eval()
    samples = assembly_of(tuned, posts, settings).samples(pairs.node, None)
    sums = np.zeros((len(pairs), 2))
    for i in range(len(pairs)):
        for j, answer in enumerate(pairs.answers(i)):
            with torch.no_grad():
                sums[i, j] = float(model.response_log_probs(samples.batch([i], [answer]))[0].double().sum())
    rc, rr = (torch.from_numpy(sums - pairs.reference)).unbind(1)
    mu = torch.from_numpy(pairs.weights(config))
    made = {
        "dpo": losses.dpo(rc, rr, 0.1),
        "dpop": losses.dpop(rc, rr, 0.1, 1.0),
        "constant": losses.idpop(rc, rr, 0.1, 1.0),
        "idpop": losses.idpop(rc, rr, 0.1, mu),
    }
    expected = float(made[loss].mean())
    assert fresh.train(one, 1).loss == pytest.approx(expected, abs=2e-4 * max(1.0, expected))


@pytest.mark.parametrize("loss", ["dpo", pytest.param("idpop", marks=pytest.mark.all)])
def test_packs_and_order_of_pairs_change_no_curve(loss: str, tuned: Path, posts: Store) -> None:
    """In float64, where rounding hides nothing: five steps of AdamW."""
    settings, stage = settings_of(prefer=replace(PREFER, loss=loss)), Align()
    assembly = stage.training(assembly_of(tuned, posts, settings))
    nodes = assembly.examples.train
    made = []
    for num_packs, order in ((1, nodes), (4, nodes), (3, np.random.default_rng(0).permutation(nodes))):
        model = stage.model(assembly, 0)
        stage.begin(model, assembly)
        objective = stage.objective(Prefer, model.double().eval(), assembly)
        samples, truth = assembly.samples(order, None), assembly.examples.truth[order]
        trained = model.parts(stage.parts(settings))
        model.train_only(trained)
        optimizer, curve = torch.optim.AdamW(trained.values(), lr=0.004), []
        for _ in range(5):
            optimizer.zero_grad()
            total = 0.0
            for first in range(num_packs):
                pack = list(range(first, len(order), num_packs))
                answers = [objective.responses(truth[i]) for i in pack]
                batch = samples.batch(
                    pack, [np.concatenate(both) for both in answers], [len(both[0]) for both in answers]
                )
                summed, _ = objective(batch, torch.from_numpy(truth[pack]).float())
                (summed / len(order)).backward()
                total += float(summed.detach()) / len(order)
            optimizer.step()
            curve.append(total)
        made.append((curve, {name: p.detach().clone() for name, p in trained.items()}))
    assert made[0][0][-1] != pytest.approx(made[0][0][0], abs=1e-3)
    for curve, values in made[1:]:
        # A product's last bits may depend on how many rows it has
        np.testing.assert_allclose(curve, made[0][0], rtol=1e-6)
        for name, value in values.items():
            torch.testing.assert_close(value, made[0][1][name], rtol=0, atol=1e-5)


def test_pairs_of_other_weights_are_refused(tuned: Path, posts: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    tensors, meta = weights.load(run / "tune" / WEIGHTS)
    first = next(iter(tensors))
    weights.save(run / "tune" / WEIGHTS, {**tensors, first: tensors[first] + 1e-3}, meta)
    with pytest.raises(TrainerError, match=r"found log-probabilities of other weights .*: netgpt pairs"):
        trainer_of(run, posts, tmp_path / "prefer", settings_of())
    (run / "pairs" / FILE).write_bytes(b"PK")
    with pytest.raises(TrainerError, match="not a file of pairs"):
        trainer_of(run, posts, tmp_path / "prefer", settings_of())


def test_pairs_are_of_no_test_and_no_validation_example(tuned: Path, posts: Store) -> None:
    stage, examples = stage_of("pairs"), make_task(TASK).examples(posts)
    for value, num in (("test", len(examples.test)), ("train", 0)):
        settings = settings_of(pairs=replace(PAIRS, column="part", value=value))
        if num:
            with pytest.raises(TrainerError, match=rf"pairs.value: found 'test', .*: {num} of these are"):
                stage.check_graph(settings, posts)
        else:
            stage.check_graph(settings, posts)
            found = drawn_nodes(posts, settings.section("pairs", PairsConfig), examples)
            assert found.tolist() == examples.train.tolist()
    for name, value in (("prefer", "number"), ("tune", "prefer")):
        section = settings_of().section(name, StageConfig)
        settings = settings_of(**{name: replace(section, objective=value)})
        with pytest.raises(
            TrainerError, match=rf"{name}.objective: found '{value}', expected one that learns"
        ):
            stage_of(name).check(settings)
    with pytest.raises(TrainerError, match=r"prefer.text_dropout: found 0.5, expected 0: the reference"):
        replace(PREFER, text_dropout=0.5)


def test_equal_errors_are_no_pair_whatever_float32_makes_of_the_truth(tuned: Path, posts: Store) -> None:
    """6.37 as float32 is nearer to 6.39 than to 6.35."""
    settings = settings_of()
    assembly = assembly_of(tuned, posts, settings)
    task = Regression(replace(TASK, digits=2))
    nodes = Pairs.load(tuned / "pairs" / FILE).node[:4]
    samples = assembly.samples(nodes, None)
    truth = np.full(len(nodes), np.float64(np.float32(6.37)))
    texts = {0: "6.35", 1: "6.39"}

    def drawn(*given: Any) -> np.ndarray:
        both = np.stack([assembly.builder.written(texts[draw]) for draw in range(2)])
        return np.tile(both, (len(nodes), 1, 1))

    original, drawing._drawn = drawing._drawn, drawn
    try:
        pairs, counts = draw_pairs(None, task, samples, truth, PAIRS, 0, 600)  # type: ignore[arg-type]
        texts[1] = "6.40"
        others, _ = draw_pairs(None, task, samples, truth, PAIRS, 0, 600)  # type: ignore[arg-type]
    finally:
        drawing._drawn = original
    assert len(pairs) == 0 and counts["of_equal_errors"] == len(nodes)
    assert others.errors.tolist() == [[0.02, 0.03]] * len(nodes)


def test_the_best_of_equal_errors_has_no_weight(tuned: Path, posts: Store, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tuned, run)
    pairs = Pairs.load(run / "pairs" / FILE)
    replace(pairs, errors=np.ones_like(pairs.errors)).save(run / "pairs" / FILE)
    with pytest.raises(TrainerError, match=r"prefer.loss: idpop: found one error for all answers"):
        trainer_of(run, posts, tmp_path / "prefer", settings_of())


@pytest.mark.all
def test_ranks_and_crashes_change_nothing(tuned: Path, posts: Store, tmp_path: Path) -> None:
    """One rank, two, and two that were killed and started again: the same curve and weights."""
    settings, made = settings_of(), {}
    for name, world in (("one", 1), ("two", 2), ("killed", 2)):
        run = tmp_path / name
        job_of("prefer", posts, run, settings)
        shutil.copytree(tuned, run, dirs_exist_ok=True)
        if name == "killed":
            kill_in_an_epoch(run, "prefer")
            assert read_manifest(run / "prefer") is None
        running = torchrun(run, world)
        assert running.wait(timeout=600) == 0
        manifest = read_manifest(run / "prefer")
        assert manifest is not None
        made[name] = (manifest["metrics"], weights.load(run / "prefer" / WEIGHTS)[0])
    curves = {name: [point["loss"] for point in one[0]["curve"]] for name, one in made.items()}
    assert curves["two"] == curves["killed"] and len(curves["one"]) > 2
    np.testing.assert_allclose(curves["one"], curves["two"], rtol=1e-6)
    for key, tensor in made["one"][1].items():
        torch.testing.assert_close(tensor, made["two"][1][key], atol=1e-5, rtol=1e-5)
        assert torch.equal(made["two"][1][key], made["killed"][1][key])
    assert graphstore.open(posts.path).digest == posts.digest
