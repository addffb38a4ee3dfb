"""`netgpt bench pairs`: forward and backward of alignment over pairs of answers.

In packs with each prompt computed once, in packs with a prompt for each answer, and padded to the longest, as
the field's trainers run them.

The same model, pairs and loss in all; rounds in turn, medians.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netgpt import graphstore
from netgpt.cluster.bench.measure import machine
from netgpt.cluster.config import load_config
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.documents import documents
from netgpt.trainers.config import TinyConfig, TuneConfig
from netgpt.trainers.distributed import peak_resident_bytes
from netgpt.trainers.language.model import attention
from netgpt.trainers.language.model.backbone import load_base, load_tokenizer
from netgpt.trainers.language.model.lora import tuned_model, tuned_parts
from netgpt.trainers.language.model.netgpt import PackedLM
from netgpt.trainers.language.model.tiny import make_model, train_tokenizer
from netgpt.trainers.language.packing import collate, plan_packs
from netgpt.trainers.language.preference import losses
from netgpt.trainers.language.text.fields import document_of
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.template import Words, instruction_texts
from netgpt.trainers.processor import use_cores
from netgpt.trainers.tasks.names import make_task

MODES = ("shared", "apart", "padded")
BETA = 0.1


@dataclass(frozen=True, kw_only=True)
class PairsBench:
    model: str = "tiny"
    """`tiny`, or a folder of a language model."""
    method: str = "lora"
    num: int = 32
    """Pairs."""
    shots: int = 3
    budget: int = 4096
    """Tokens of a pack."""
    padded: int = 8
    """Pairs of a padded batch."""
    threads: int = 2
    rounds: int = 3


def bench_pairs(config: PairsBench, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """Pairs a second of each mode, tokens that go through the decoder, and the loss, which is one."""
    use_cores(config.threads)
    with TemporaryDirectory(dir=scratch) as folder:
        model, prompts, answers = _parts(config, Path(folder))
    trained = model.parts(tuned_parts(TuneConfig(method=config.method)))
    model.train_only(trained)
    runs = {mode: _runner(mode, config, model, prompts, answers) for mode in MODES}
    before = peak_resident_bytes()
    with torch.no_grad():  # the reference pass alone, before anything that takes more
        runs["apart"]()
        after = peak_resident_bytes()
        start = time.perf_counter()
        runs["apart"]()
        reference = time.perf_counter() - start
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    found: dict[str, tuple[float, int]] = {}
    for i in range(config.rounds + 1):  # the first warms
        for mode, run in runs.items():
            model.zero_grad()
            start = time.perf_counter()
            found[mode] = run()
            seconds[mode] += [time.perf_counter() - start] if i else []
    result: dict[str, Any] = {
        "bench": "pairs",
        "model": config.model,
        "method": config.method,
        "pairs": config.num,
        "prompt_tokens": float(np.mean([len(p) for p in prompts])),
        "answer_tokens": float(np.mean([len(a) for both in answers for a in both])),
        "reference_pairs_s": config.num / reference,
        "reference_peak_bytes": after,
        "before_bytes": before,
        "peak_bytes": peak_resident_bytes(),
    }
    for mode in MODES:
        result[mode] = {
            "pairs_s": config.num / statistics.median(seconds[mode]),
            "tokens": found[mode][1],
            "loss": found[mode][0],
        }
    for mode in MODES[1:]:
        both = zip(seconds[mode], seconds["shared"], strict=True)
        result[f"shared_against_{mode}"] = statistics.median(other / own for other, own in both)
    yield result | machine()


def _parts(config: PairsBench, folder: Path) -> tuple[PackedLM, list[np.ndarray], list[list[np.ndarray]]]:
    """A model, prompts of made posts, and two answers to each."""
    recipe = load_config(
        "smpd-demo", [f"build.shots={config.shots}", "build.users=10", "build.encoder=hash:8"]
    )
    dataset = datasets.load(recipe.dataset)
    graphstore.build(
        dataset.synthetic(0.02, 0, recipe.build), folder / "store", recipe.build, dataset=dataset
    )
    store, task = graphstore.open(folder / "store"), make_task(recipe.task)
    document, words = document_of(store, task.config.label), Words.of(task)
    examples, random = task.examples(store), np.random.default_rng(0)
    nodes = random.choice(np.concatenate([examples.train, examples.test]), config.num)
    records = list(documents(store, document, nodes.tolist()))
    tokenizer: Any
    base: Any
    if config.model == "tiny":
        tokenizer = train_tokenizer([*(t for _, t in records), *instruction_texts(words)], 1024)
        base = make_model(TinyConfig(hidden=128, layers=6), tokenizer, 0)
        base.set_attn_implementation({"text_config": attention.NAME})
    else:
        tokenizer, base = load_tokenizer(config.model), load_base(config.model, torch.float32)
    builder = PromptBuilder(
        tokenizer, document, words, max_tokens=1024, max_comments=0, seed=0, with_graph=False
    )
    prompts = [builder.assemble(one) for one in builder.tokenize(records)]
    truth = examples.truth[nodes]
    answers = [
        [builder.written(f"{t + error:.2f}") for error in random.normal(0, 1.5, 2)] for t in truth.tolist()
    ]
    torch.manual_seed(0)
    return tuned_model(base, TuneConfig(method=config.method)), prompts, answers


def _runner(
    mode: str,
    config: PairsBench,
    model: PackedLM,
    prompts: list[np.ndarray],
    answers: list[list[np.ndarray]],
) -> Callable[[], tuple[float, int]]:
    """What runs all pairs forward, and backward where gradients are wanted: its loss and its tokens."""
    lengths = np.array([len(p) for p in prompts])
    behind = np.array([sum(map(len, both)) for both in answers])
    if mode == "padded":
        order = np.argsort(lengths, kind="stable")
        packs = [order[i : i + config.padded].tolist() for i in range(0, len(order), config.padded)]
    else:
        whole = lengths * (1 if mode == "shared" else 2) + behind
        steps = plan_packs(whole, budget=config.budget, packs_per_step=1, seed=(0,))
        packs = [step.packs[0] for step in steps]

    def sums(pack: list[int]) -> tuple[Tensor, int]:
        """Log-probabilities of both answers [n, 2], and tokens."""
        if mode == "padded":
            return _padded(model, [prompts[i] for i in pack], [answers[i] for i in pack])
        if mode == "shared":
            batch = collate(
                [prompts[i] for i in pack],
                [np.concatenate(answers[i]) for i in pack],
                torch.device("cpu"),
                first_answers=[len(answers[i][0]) for i in pack],
            )
        else:
            both = [(prompts[i], one) for i in pack for one in answers[i]]
            batch = collate([p for p, _ in both], [a for _, a in both], torch.device("cpu"))
        log_probs, of = model.response_log_probs(batch)
        return torch.zeros(2 * len(pack)).index_add(0, of, log_probs).view(-1, 2), sum(batch.lengths)

    def run() -> tuple[float, int]:
        loss, tokens = 0.0, 0
        model.use_attention("sdpa" if mode == "padded" else attention.NAME)
        for pack in packs:
            values, num = sums(pack)
            rc, rr = (values - values.detach().mean() / 2).unbind(1)
            own = losses.dpo(rc, rr, BETA).sum()
            if own.requires_grad:
                own.backward()
            loss, tokens = loss + float(own.detach()), tokens + num
        return loss / config.num, tokens

    return run


def _padded(
    model: PackedLM, prompts: list[np.ndarray], answers: list[list[np.ndarray]]
) -> tuple[Tensor, int]:
    """As the field's trainers: each answer behind its prompt, padded on the right to the longest."""
    rows = [np.concatenate([p, a]) for p, both in zip(prompts, answers, strict=True) for a in both]
    begins = [len(p) for p in prompts for _ in range(2)]
    longest = max(map(len, rows))
    ids = torch.from_numpy(np.stack([np.pad(row, (0, longest - len(row))) for row in rows]))
    mask = torch.from_numpy(np.arange(longest) < np.array([len(row) for row in rows])[:, None]).long()
    places = torch.arange(longest).expand(3, len(rows), -1)
    h = model.decode(model.text.embed_tokens(ids), places, mask, model.new_cache(len(rows)))
    made = []
    for i, (row, begin) in enumerate(zip(rows, begins, strict=True)):
        logits = model.logits(h[i, begin - 1 : len(row) - 1])
        made.append(-F.cross_entropy(logits, ids[i, begin : len(row)], reduction="sum"))
    return torch.stack(made).view(-1, 2), longest * len(rows)


def line(result: dict[str, Any]) -> str:
    shown = ", ".join(
        f"{mode} {result[mode]['pairs_s']:.2f} pairs/s ({result[mode]['tokens']:,} tokens)" for mode in MODES
    )
    ratios = [f"{result[f'shared_against_{one}']:.2f} times {one}" for one in MODES[1:]]
    gb = {name: result[name] / 1e9 for name in ("before_bytes", "reference_peak_bytes", "peak_bytes")}
    return (
        f"{result['model']} {result['method']}, {result['prompt_tokens']:.0f} + "
        f"{result['answer_tokens']:.1f} tokens: {shown}; shared is {', '.join(ratios)}; reference "
        f"{result['reference_pairs_s']:.1f} pairs/s; peak {gb['before_bytes']:.2f} GB before, "
        f"{gb['reference_peak_bytes']:.2f} GB in the reference pass, {gb['peak_bytes']:.2f} GB in training"
    )
