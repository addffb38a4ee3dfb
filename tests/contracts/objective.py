"""What every language objective must keep. Subclass it in the guest's test:

    class TestMine(ObjectiveTests):
        objective = "my_package.objective:MyObjective"
        trains = ("markers", "projector", "last:1")

A tiny model with random weights and examples of the tests' small store.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch

from netgpt.graphstore import Store
from netgpt.graphstore.documents import documents
from netgpt.trainers.config import RateConfig, StageConfig, TinyConfig
from netgpt.trainers.language.model import attention
from netgpt.trainers.language.model.netgpt import NetGPT
from netgpt.trainers.language.model.tiny import make_model, train_tokenizer
from netgpt.trainers.language.objectives.base import Objective
from netgpt.trainers.language.objectives.names import objective_class
from netgpt.trainers.language.packing import PackedBatch
from netgpt.trainers.language.samples import GraphStates, Samples
from netgpt.trainers.language.text.fields import document_of
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.template import Words, instruction_texts
from netgpt.trainers.language.text.tokens import Tokens
from netgpt.trainers.tasks.base import Task
from tests.reference import rating

NUM, DIM = 12, 6
CPU = torch.device("cpu")


class Parts(NamedTuple):
    model: NetGPT
    samples: Samples
    truth: np.ndarray
    """[n] labels of the samples."""


class ObjectiveTests:
    """Contract tests of one objective."""

    objective: ClassVar[str]
    """Its name in the table, or package.module:Name."""
    task: ClassVar[Task] = rating()
    config: ClassVar[StageConfig] = RateConfig()
    """Settings of a stage that learns it."""
    trains: ClassVar[tuple[str, ...]] = ("markers", "projector")
    """Parts of the model that a stage may train by it: each of them must get a gradient."""

    @pytest.fixture(scope="class")
    def parts(self, store: Store) -> Parts:
        document, words = document_of(store), Words.of(self.task)
        texts = list(store.texts)[:80]
        tiny = TinyConfig(hidden=32, layers=6, heads=2, vocab=600)
        tokenizer = train_tokenizer([*texts, *instruction_texts(words)], tiny.vocab)
        builder = PromptBuilder(tokenizer, document, words, max_tokens=900, max_comments=2, seed=0)
        base = make_model(tiny, tokenizer, 0)
        base.set_attn_implementation({"text_config": attention.NAME})
        torch.manual_seed(0)
        ids = builder.start_id, builder.pad_id, builder.end_id
        model = NetGPT(base.requires_grad_(False), DIM, ids).eval()
        examples = self.task.examples(store)
        nodes = examples.train[:: len(examples.train) // NUM][:NUM]
        tokens = Tokens.of(builder.tokenize(documents(store, document, range(int(nodes[-1]) + 1))))
        h = np.random.default_rng(0).normal(size=(store.num_nodes[document.node_type], DIM))
        graph = GraphStates.of(h.astype(np.float32), examples.train)
        samples = Samples(nodes, tokens, builder, CPU, graph, names=store.node_ids(document.node_type))
        return Parts(model, samples, examples.truth[nodes])

    @pytest.fixture
    def learnt(self, parts: Parts) -> Objective:
        kind = objective_class(self.objective, "stage.objective")
        return kind(parts.model, self.task, parts.samples.builder, self.config).eval()

    def pack(self, learnt: Objective, parts: Parts, chosen: list[int]) -> tuple[PackedBatch, torch.Tensor]:
        """A pack of samples with all their sequences, and the label of each sequence."""
        pairs = [(i, r) for i in chosen for r in learnt.responses(float(parts.truth[i]))]
        batch = parts.samples.batch([i for i, _ in pairs], [r for _, r in pairs])
        return batch, torch.tensor([parts.truth[i] for i, _ in pairs], dtype=torch.float32)

    def test_it_is_found_and_says_what_its_mean_is_over(self, learnt: Objective) -> None:
        assert isinstance(learnt, Objective) and learnt.per in ("sample", "token")
        names = {name.removeprefix("model.") for name, _ in learnt.named_parameters()}
        assert names == {name for name, _ in learnt.model.named_parameters()}  # an engine trains the model's

    def test_responses_are_tokens_of_the_labels_alone(
        self, learnt: Objective, parts: Parts, store: Store
    ) -> None:
        builder = parts.samples.builder
        for truth in np.unique(self.task.truth(store)).tolist():
            if np.isnan(truth):
                continue
            found, again = learnt.responses(truth), learnt.responses(truth)
            assert len(found) >= 1 and [r.tolist() for r in found] == [r.tolist() for r in again]
            for response in found:
                assert response.dtype == np.int64 and response.ndim == 1
                assert ((response >= 0) & (response < builder.num_entries)).all()
                assert not set(response.tolist()) & set(builder.never_said)
            assert learnt.per == "sample" or sum(map(len, found)) > 0

    @torch.no_grad()
    def test_a_loss_is_the_sum_over_samples_however_they_are_packed(
        self, learnt: Objective, parts: Parts
    ) -> None:
        torch.nn.init.normal_(parts.model.head.weight, std=0.1)
        order = [5, 0, 3, 8, 1]
        whole, scores = learnt(*self.pack(learnt, parts, order))
        assert whole.shape == () and torch.isfinite(whole) and whole.item() > 0
        singles = [learnt(*self.pack(learnt, parts, [i])) for i in order]
        torch.testing.assert_close(sum(loss for loss, _ in singles), whole, rtol=1e-4, atol=1e-4)
        two = [learnt(*self.pack(learnt, parts, part)) for part in (order[3:], order[:3])]
        torch.testing.assert_close(two[0][0] + two[1][0], whole, rtol=1e-4, atol=1e-4)
        assert scores.dtype == torch.float32 and not scores.requires_grad
        assert len(scores) == (len(order) if learnt.scores_steps else 0)
        for score, (_, alone) in zip(scores, singles, strict=False):
            torch.testing.assert_close(score[None], alone, rtol=1e-4, atol=1e-4)

    def test_the_label_is_what_is_learnt(self, learnt: Objective, parts: Parts) -> None:
        """Another label of the same sample is another loss."""
        truths = np.unique(parts.truth)
        losses = []
        for truth in (truths[0], truths[-1]):
            other = parts._replace(truth=np.full(len(parts.truth), truth))
            with torch.no_grad():
                losses.append(learnt(*self.pack(learnt, other, [0, 1]))[0].item())
        assert losses[0] != pytest.approx(losses[1], rel=1e-6)

    def test_a_gradient_reaches_what_is_trained_and_nothing_else(
        self, learnt: Objective, parts: Parts
    ) -> None:
        model = parts.model
        trained = model.parts(self.trains)
        torch.nn.init.normal_(model.head.weight, std=0.1)
        model.train_only(trained)
        try:
            loss, _ = learnt(*self.pack(learnt, parts, [0, 4, 7]))
            loss.backward()
            for name, p in model.named_parameters():
                if name in trained:
                    assert p.grad is not None and torch.isfinite(p.grad).all(), name
                    # A softmax takes the same from all of a row: what a key's bias gets is rounding
                    assert p.grad.any() or name.endswith("k_proj.bias"), name
                else:
                    assert p.grad is None, name
        finally:
            model.zero_grad()
            model.train_only([])

    def test_a_few_steps_lower_the_loss(self, learnt: Objective, parts: Parts) -> None:
        model = parts.model
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trained = model.parts(self.trains)
        model.train_only(trained)
        model.start_head_at(float(self.task.choice_values.mean()) if self.task.choices else 3.0)
        optimizer, losses = torch.optim.AdamW(trained.values(), lr=1e-3), []
        try:
            for _ in range(6):
                optimizer.zero_grad()
                loss, _ = learnt(*self.pack(learnt, parts, [0, 4, 7]))
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        finally:
            model.zero_grad()
            model.train_only([])
            model.load_state_dict(before)
        assert min(losses[1:]) < losses[0]

    def test_it_is_judged_by_the_tasks_metrics(self, learnt: Objective, parts: Parts) -> None:
        budget = self.budget(parts)
        found = learnt.judge(parts.samples, parts.truth, budget)
        assert {f"val_{metric.name}" for metric in self.task.metrics} <= found.keys()
        assert all(name.startswith("val_") for name in found)
        assert np.isfinite(found[f"val_{self.task.chooses}"])
        wide = learnt.judge(parts.samples, parts.truth, 4 * budget)
        undefined = {name for name, value in found.items() if value is None}
        assert undefined == {name for name, value in wide.items() if value is None}
        for name in found.keys() - undefined:
            assert found[name] == pytest.approx(wide[name], rel=1e-3, abs=1e-3), name

    def test_predictions_are_the_tasks_scores_at_any_budget(self, learnt: Objective, parts: Parts) -> None:
        generated = replace(parts.samples, ids=parts.samples.ids[:4])
        budget = self.budget(parts)
        was_training, seen = parts.model.training, []

        def progress(done: int, total: int) -> None:
            seen.append((done, total))

        found = learnt.predict(parts.samples, generated, budget, progress)
        assert parts.model.training == was_training and seen and seen[-1][0] == seen[-1][1]
        assert ("" in found) != learnt.writes_numbers
        values = self.task.choice_values if self.task.choices else np.array([-np.inf, np.inf])
        for suffix, scores in found.items():
            assert suffix == "" or suffix.startswith("_")
            assert scores.shape == (4 if suffix == "_generated" else NUM,)
            known = ~np.isnan(scores)
            assert known.all() or suffix == "_generated"
            reported = self.task.reported(scores[known])
            assert ((values.min() <= reported) & (reported <= values.max())).all()
        wide = learnt.predict(parts.samples, generated, 4 * budget, progress)
        assert wide.keys() == found.keys()
        for suffix, scores in found.items():
            np.testing.assert_allclose(wide[suffix], scores, rtol=1e-3, atol=1e-3)

    def budget(self, parts: Parts) -> int:
        """Tokens of the longest sample with the longest response, and a little."""
        builder = parts.samples.builder
        longest = max((len(builder.response(i)) for i in range(builder.num_choices)), default=0)
        if self.task.writes:
            longest = max(longest, len(builder.written(self.task.longest_written)))
        return int(parts.samples.lengths.max()) + longest + 8
