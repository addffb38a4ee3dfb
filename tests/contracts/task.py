"""What every task must keep. Subclass it in the guest's test:

    class TestMine(TaskTests):
        task = MyTask(MyConfig(name="my_package.task:MyTask", label="stars", split=SPLIT))

        def naive(self, scores, truth): ...   # its metrics once more, one example after the other

The examples are those of the tests' small store, or of what the subclass's `graph` fixture gives.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from netgpt.graphstore import Store
from netgpt.trainers.config import EvaluationConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.settings import Settings, settings_type
from netgpt.trainers.tasks.base import Examples, Task
from netgpt.trainers.tasks.evaluate import Judge, Scores, metrics_table
from netgpt.trainers.tasks.names import make_task
from netgpt.trainers.tasks.split import PARTS

STAGES = ("stage1", "embeddings", "evaluation")


class TaskTests:
    """Contract tests of one task."""

    task: ClassVar[Task]
    bounded: ClassVar[bool] = True
    """Whether no score is reported beyond the choices; a number may be, of which some are said."""
    by: ClassVar[tuple[str, ...]] = ()
    """Categories of the target to tell metrics apart by; by default all that there are."""

    def naive(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
        """Every metric by its meaning, in float64 and one example after the other; there are some examples,
        and no score is NaN."""
        raise NotImplementedError

    @pytest.fixture
    def graph(self, store: Store) -> Store:
        return store

    @pytest.fixture
    def examples(self, graph: Store) -> Examples:
        return self.task.examples(graph)

    @pytest.fixture
    def judge(self, graph: Store, examples: Examples) -> Judge:
        target = graph.schema.node_type(graph.schema.target)
        by = [c.name for c in target.columns if c.kind == "category" and (not self.by or c.name in self.by)]
        return Judge(graph, self.task, examples, EvaluationConfig(by=by))

    def values(self) -> np.ndarray:
        """What the choices stand for; of a task whose answers are no list the bounds of usual ones."""
        return self.task.choice_values if self.task.choices else np.array([-1.0, 9.0])

    def right(self, truth: np.ndarray) -> np.ndarray:
        """The scores that say the truth."""
        if not self.task.choices:
            return truth
        choices = [self.task.choice_of(t) for t in truth.tolist()]
        return 60 * np.eye(self.task.width)[choices] if self.is_wide else self.task.choice_values[choices]

    @property
    def is_wide(self) -> bool:
        """Whether a score is a number for each answer."""
        return self.task.width > 1

    def some_scores(self, num: int, seed: int = 0) -> np.ndarray:
        """Around what choices stand for, and beyond: what a head without bounds may say."""
        values, rng = self.values(), np.random.default_rng(seed)
        if self.is_wide:
            return rng.normal(size=(num, self.task.width), scale=3)
        spread = values.max() - values.min()
        return rng.uniform(values.min() - spread / 3, values.max() + spread / 3, num)

    # Settings

    def test_it_is_found_by_its_name_and_its_settings_are_json(self) -> None:
        config = self.task.config
        assert type(make_task(config)) is type(self.task) and type(config) is self.task.Config
        kind = settings_type(config.name, STAGES)
        settings = kind(task=config, stages=list(STAGES), baselines=[])
        again = Settings.from_dict(json.loads(json.dumps(settings.to_dict())))
        assert again == settings and type(again.task) is type(config)

    def test_columns_that_are_not_there_are_refused(self, graph: Store) -> None:
        config = self.task.config
        for changed, words in (
            (replace(config, label="no_such"), r"^task\.label: found 'no_such', expected a (cat|num)"),
            (
                replace(config, split=replace(config.split, column="no_such")),
                r"^task\.split\.column: found 'no_such', expected a number or time column of",
            ),
            (replace(config, split=replace(config.split, until="")), r"^task\.split\.until: found ''"),
        ):
            with pytest.raises(TrainerError, match=words) as caught:
                type(self.task)(changed).examples(graph)
            assert "\n" not in str(caught.value)
        nobody = replace(config, split=replace(config.split, until="1971-01-01"))
        with pytest.raises(TrainerError, match=r"found 0 labelled examples in the train period and \d+ in"):
            type(self.task)(nobody).examples(graph)

    # Examples

    def test_examples_are_known_and_disjoint(self, graph: Store, examples: Examples) -> None:
        num = graph.num_nodes[graph.schema.target]
        assert examples.node_type == graph.schema.target and list(examples.named()) == list(PARTS)
        assert examples.truth.shape == (num,) and examples.truth.dtype == np.float64
        seen: set[int] = set()
        for nodes in examples.named().values():
            assert len(nodes) and nodes.dtype == np.int64 and (np.diff(nodes) > 0).all()
            assert nodes[0] >= 0 and nodes[-1] < num and not seen & set(nodes.tolist())
            assert not np.isnan(examples.truth[nodes]).any()
            seen |= set(nodes.tolist())
        again = self.task.examples(graph)
        for name, nodes in examples.named().items():
            np.testing.assert_array_equal(again.named()[name], nodes)
        np.testing.assert_array_equal(again.truth, examples.truth)

    # Learning

    def test_heads_give_a_score_a_state_and_gradients(self) -> None:
        torch.manual_seed(0)
        head = self.task.head(6)
        h_nD = (torch.randn(50, 6) * 5).requires_grad_()
        scores_n = head(h_nD)
        of_one = (self.task.width,) if self.is_wide else ()
        assert scores_n.shape == (50, *of_one) and scores_n.dtype == torch.float32
        assert torch.isfinite(scores_n).all() and len(scores_n.unique()) > 1
        assert head(h_nD[:0]).shape == (0, *of_one)
        scores_n.sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in (h_nD, *head.parameters()))
        reported = self.task.reported(scores_n.detach().numpy())
        if self.task.choices and self.bounded:
            values = self.values()
            assert (reported >= values.min()).all() and (reported <= values.max()).all()

    def test_losses_are_sums_that_truth_makes_least(self, examples: Examples) -> None:
        truth = torch.from_numpy(examples.truth[examples.train].astype(np.float32))
        scores = torch.from_numpy(self.some_scores(len(truth)).astype(np.float32)).requires_grad_()
        for beta in (0.1, 1.0):
            loss = self.task.loss(scores, truth, beta)
            assert loss.shape == () and torch.isfinite(loss) and loss.item() > 0
            parts = [self.task.loss(scores[a:b], truth[a:b], beta) for a, b in ((0, 7), (7, None))]
            torch.testing.assert_close(parts[0] + parts[1], loss, rtol=1e-4, atol=1e-4)
            (gradient,) = torch.autograd.grad(loss, scores)
            assert torch.isfinite(gradient).all()
            right = torch.from_numpy(self.right(truth.numpy())).float()
            assert self.task.loss(right, truth, beta).item() < loss.item()
            assert self.task.loss(scores[:0], truth[:0], beta).item() == 0
            for extreme in (-1e4, 1e4):  # a head without bounds may be far off
                far = torch.zeros_like(scores.detach())
                far.view(len(truth), -1)[:, 0] = extreme
                assert torch.isfinite(self.task.loss(far, truth, beta))

    def test_a_fresh_head_starts_among_the_answers(self, examples: Examples) -> None:
        values, start = self.values(), self.task.start(examples.truth[examples.train])
        if self.is_wide:
            assert isinstance(start, np.ndarray) and start.shape == (self.task.width,)
            assert np.isfinite(start).all()
        else:
            assert isinstance(start, float) and values.min() <= start <= values.max()

    # Words

    def test_words_say_each_answer_and_are_read_back(self, examples: Examples) -> None:
        task = self.task
        choices, words = task.choices, task.config.words
        if not choices:
            pytest.skip("its answers are no list")
        assert len(choices) >= 2 and len(set(choices)) == len(choices) and all(choices)
        assert words.request.strip() and words.response.strip() and task.noun
        assert task.choice_values.shape == (len(choices),) and np.isfinite(task.choice_values).all()
        assert len(set(task.choice_values.tolist())) == len(choices)
        for i, choice in enumerate(choices):
            for text in (choice, f"{words.response}{choice}", f" {words.response}{choice}.\n"):
                assert task.parse(text) == i, text
        known = examples.truth[~np.isnan(examples.truth)]
        assert {task.choice_of(t) for t in np.unique(known).tolist()} <= set(range(len(choices)))

    def test_no_answer_is_guessed(self) -> None:
        if not self.task.choices:
            pytest.skip("its answers are no list")
        first, second = self.task.choices[:2]
        for text in ("", " ", "I cannot say", f"{first} or {second}", "?" * 50, "𠮷"):
            assert self.task.parse(text) is None, text

    # Measuring

    def test_metrics_are_their_meaning(self, examples: Examples) -> None:
        """Against the subclass's naive ones, on every part, with ties and scores beyond the answers."""
        for seed, nodes in enumerate(examples.named().values()):
            truth = examples.truth[nodes]
            for scores in (
                self.some_scores(len(nodes), seed),
                np.round(self.some_scores(len(nodes), seed)),
                np.full(len(nodes), float(np.median(truth))),  # of a wide score: answers alone
            ):
                found, expected = self.task.measure(scores, truth), self.naive(scores, truth)
                assert found.pop("num") == len(nodes)
                assert found.keys() == expected.keys() == {m.name for m in self.task.metrics}
                for name, value in found.items():  # None: it has no meaning for these scores
                    assert (value is None) == (expected[name] is None), name
                    assert value is None or type(value) is float
                    close = value is None or value == pytest.approx(expected[name], rel=1e-9, abs=1e-12)
                    assert close, name

    def test_metrics_have_names_for_people_and_one_chooses(self) -> None:
        names = [metric.name for metric in self.task.metrics]
        assert len(set(names)) == len(names) and "num" not in names and "unparsed" not in names
        assert all(m.name.isidentifier() and m.title and m.meaning for m in self.task.metrics)
        (chosen,) = [m for m in self.task.metrics if m.name == self.task.chooses]
        assert not chosen.larger_is_better

    def test_the_order_of_examples_is_no_matter(self, examples: Examples) -> None:
        truth = examples.truth[examples.test]
        scores, order = self.some_scores(len(truth)), np.random.default_rng(1).permutation(len(truth))
        found = self.task.measure(scores, truth)
        assert self.task.measure(scores[order], truth[order]) == pytest.approx(found)

    def test_truth_is_measured_as_best(self, examples: Examples) -> None:
        truth = examples.truth[examples.test]
        right = self.right(truth)
        best = self.task.measure(right, truth)
        for seed in range(3):
            other = self.task.measure(self.some_scores(len(truth), seed), truth)
            for metric in self.task.metrics:
                sign = 1 if metric.larger_is_better else -1
                assert sign * best[metric.name] >= sign * other[metric.name], metric.name
        assert (self.task.answers(right) == self.task.answers(self.task.reported(right))).all()

    def test_no_examples_and_no_answers(self, examples: Examples) -> None:
        nothing = self.task.measure(np.empty(0), np.empty(0))
        assert nothing.pop("num") == 0 and set(nothing.values()) == {None}
        assert nothing.keys() == {m.name for m in self.task.metrics}
        truth = examples.truth[examples.test]
        scores = self.some_scores(len(truth))
        scores[::3] = np.nan
        found = self.task.measure(scores, truth)
        assert found["unparsed"] == len(scores[::3]) and found["num"] == len(truth)
        assert "unparsed" not in self.task.measure(self.some_scores(len(truth)), truth)
        assert all(np.isfinite(found[m.name]) for m in self.task.metrics)
        none = self.task.measure(np.full(len(truth), np.nan), truth)
        assert none["unparsed"] == len(truth) and json.dumps(none, allow_nan=False)

    def test_reported_scores_are_within_the_answers(self) -> None:
        scores, values = self.some_scores(200), self.values()
        found = self.task.reported(scores)
        assert found.dtype == np.float64 and found.shape == (200,)
        if self.task.choices and self.bounded:
            assert values.min() <= found.min() and found.max() <= values.max()
        np.testing.assert_array_equal(self.task.reported(found), found)
        if not self.is_wide:
            order = np.argsort(scores)
            assert (np.diff(found[order]) >= 0).all()

    def test_groups_part_the_examples(self, examples: Examples, judge: Judge) -> None:
        if not judge.groups:
            pytest.skip("the target has no categories")
        for nodes in examples.named().values():
            scores, truth = self.some_scores(len(nodes)), examples.truth[nodes]
            found = judge.metrics(nodes, scores)
            whole = self.task.measure(scores, truth)
            assert {name: found[name] for name in whole} == whole
            for name, (codes, values) in judge.groups.items():
                code = np.asarray(codes)[nodes]
                assert sum(group["num"] for group in found[name].values()) == len(nodes)
                for value, group in found[name].items():
                    part = code == (list(values).index(value) if value else -1)
                    assert group == self.task.measure(scores[part], truth[part])
            assert json.loads(json.dumps(found, allow_nan=False)) == found

    def test_predictions_have_a_row_for_each_example(
        self, graph: Store, examples: Examples, judge: Judge, tmp_path: Path
    ) -> None:
        num, scores = graph.num_nodes[graph.schema.target], Scores()
        scores.add("stage1", self.some_scores(num))
        partly = self.some_scores(num, 1)
        partly[examples.train] = np.nan
        scores.add("stage1_sampled", partly, parts=("val", "test"))
        judge.write_predictions(tmp_path / "predictions.parquet", scores)
        table = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
        nodes = np.sort(np.concatenate(list(examples.named().values())))
        assert table["id"] == [graph.node_ids(examples.node_type)[v] for v in nodes.tolist()]
        of = {v: name for name, part in examples.named().items() for v in part.tolist()}
        assert table["split"] == [of[v] for v in nodes.tolist()]
        label, values = self.task.truth_column(examples.truth[nodes])
        np.testing.assert_array_equal(table[label], values)
        if self.task.choices:
            said = [self.task.choice_of(t) for t in examples.truth[nodes].tolist()]
            assert self.task.choices_said(np.asarray(values)).tolist() == said
        own = self.task.columns("stage1", scores.scores["stage1"][nodes])
        assert own and all(name.startswith("stage1_") for name in own)
        for name, column in own.items():
            np.testing.assert_array_equal(table[name], column)
        assert not any(name.startswith("stage1_sampled") for name in table)
        metrics = judge.stage_metrics(scores)
        assert set(metrics["stage1"]) == set(PARTS) and set(metrics["stage1_sampled"]) == {"val", "test"}

    def test_columns_measure_as_the_scores_did(self, examples: Examples) -> None:
        truth = examples.truth[~np.isnan(examples.truth)]
        for scores in (self.some_scores(len(truth)), self.right(truth)):
            again = self.task.scores_from("a", self.task.columns("a", scores))
            expected = self.task.measure(scores, truth)
            for name, value in self.task.measure(again, truth).items():
                assert value == pytest.approx(expected[name], rel=1e-9), name

    def test_an_answer_is_json(self) -> None:
        for score in self.some_scores(20):
            answer = self.task.answer(score)
            assert answer and json.loads(json.dumps(answer, allow_nan=False)) == answer

    # Baselines

    def test_baselines_are_measured_and_learn_from_train_alone(
        self, graph: Store, examples: Examples
    ) -> None:
        period = np.sort(np.concatenate([examples.train, examples.val]))
        made = self.task.baselines(graph, period, examples.test)
        names = {m.name for m in self.task.metrics}
        assert made
        for baseline in made.values():
            if baseline.scores is None:
                assert baseline.metrics is not None and names <= baseline.metrics.keys()
            else:
                of_one = (self.task.width,) if self.is_wide and baseline.scores.ndim == 2 else ()
                assert baseline.scores.shape == (len(examples.test), *of_one)
                assert np.isfinite(baseline.scores).all()
        spoilt = type(self.task)(self.task.config)
        truth = self.task.truth(graph)
        moved = truth.copy()
        moved[examples.test] = np.roll(truth[np.sort(examples.test)], 1)[::-1]
        spoilt.truth = lambda graph: moved  # type: ignore[method-assign]
        for name, baseline in spoilt.baselines(graph, period, examples.test).items():
            if baseline.scores is not None and baseline.fair:
                np.testing.assert_array_equal(baseline.scores, made[name].scores)

    def test_the_table_shows_all_metrics(self, graph: Store, judge: Judge) -> None:
        scores = Scores()
        scores.add("stage1", self.some_scores(graph.num_nodes[graph.schema.target]))
        metrics = {"stages": judge.stage_metrics(scores), "baselines": judge.baseline_metrics()}
        shown = metrics_table(metrics, self.task, {"stage1": "the model"}, ("", ""))
        for metric in self.task.metrics:
            value = metrics["stages"]["stage1"]["test"][metric.name]
            assert metric.title in shown and f"{value:.4f}" in shown
        assert "the model" in shown and all(name in shown for name in metrics["baselines"])
        long = metrics_table(metrics, self.task, {"stage1": "a model of a long name, alone"}, ("", ""))
        for table in (shown, long):
            lines = table.splitlines()
            rows = lines[: 3 + len(metrics["baselines"]) + 1]
            assert {len(line) for line in rows} == {len(lines[0])} and rows[-1].startswith(
                "a model" if table is long else "the"
            )

    def test_intervals_hold_what_was_measured(self, graph: Store, judge: Judge) -> None:
        """Of every metric of scores and baselines, but for examples without one; and the table shows them."""
        scores = Scores()
        scores.add("stage1", self.some_scores(graph.num_nodes[graph.schema.target]))
        metrics = {"stages": judge.stage_metrics(scores), "baselines": judge.baseline_metrics()}
        within = judge.intervals(scores)
        assert within == judge.intervals(scores)
        assert within.keys() <= {"stage1", *metrics["baselines"]} and "stage1" in within
        for name, found in within.items():
            measured = (metrics["stages"] | metrics["baselines"])[name]["test"]
            assert found.keys() == {m.name for m in self.task.metrics if measured[m.name] is not None}
            for low, high in found.values():
                assert low <= high
        shown = metrics_table(metrics, self.task, {"stage1": "the model"}, ("", ""), within)
        for low, high in within["stage1"].values():
            assert f"{low:.4f}…{high:.4f}" in shown
