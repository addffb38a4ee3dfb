"""Forward and backward of a language stage: packed, padded to a length, padded to a batch's longest.

The padded ones are transformers' own model and attention with a mask, as one would call it without this
project. Each figure is of a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.cluster.bench.measure import machine, measure
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.plan.durations import stage_flops
from netgpt.cluster.plan.shapes import SHAPES

MODES = ("packed", "longest", "sorted", "padded")
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 of a GPU, by a part of its name, as its maker says."""
GRAPH_DIM, PACKS_PER_STEP = 1024, 8
STAGE_3 = ("head", "last:{layers}")
"""Parts that the rating trains besides those of the alignment."""


@dataclass(frozen=True)
class LanguageBench:
    shape: str = "tiny"
    stage: str = "stage3"
    token_budget: int = 4096
    """Tokens of a pack."""
    max_tokens: int = 4000
    """What padding pads to, and where records are cut."""
    batch_size: int = 8
    """Samples of a batch that is padded to its longest."""
    samples: int = 64
    padded_samples: int = 4
    """Samples of the one padded to `max_tokens`, which is slow."""
    rounds: int = 3
    layers: int = 4
    """Last decoder layers that stage 3 trains."""
    device: str = "cpu"
    threads: int = 2
    activation_checkpointing: bool = False
    seed: int = 0


def bench_language(
    config: LanguageBench, data: Path | None, tokenizer: str | None, scratch: Path | None
) -> Iterator[dict[str, Any]]:
    """One result of all modes over the same prompts. tokenizer: a folder; else one of the records' text."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        prompts = Path(name) / "prompts.npz"
        vocab = _write_prompts(config, data, tokenizer, prompts)
        modes: dict[str, dict[str, Any]] = {}
        for mode in MODES:
            out = Path(name) / f"{mode}.json"
            job = json.dumps({**asdict(config), "mode": mode, "vocab": vocab})
            measured = measure(_CODE, job, prompts, out)
            if not measured.ok:
                modes[mode] = {"failed": True}
                continue
            modes[mode] = json.loads(out.read_text())
            modes[mode].setdefault("peak_bytes", measured.peak_bytes)
        packed = modes["packed"].get("samples_s", 0.0)
        ratios = {m: packed / modes[m]["samples_s"] for m in MODES[1:] if "samples_s" in modes[m]}
        with np.load(prompts) as arrays:
            lengths, epoch = arrays["length"], float(arrays["epoch_useful_share"])
        arithmetic = config.max_tokens / float(lengths.mean())
        yield {
            "bench": "language",
            **asdict(config),
            "machine": machine(),
            "tokens_a_sample": {"median": float(np.median(lengths)), "mean": float(lengths.mean())},
            "modes": modes,
            "packed_against": ratios,
            "token_arithmetic": arithmetic,
            "epoch_useful_share": epoch,
        }


_CODE = """
import sys
from netgpt.cluster.bench.language import run_mode
run_mode(sys.argv[1], sys.argv[2], sys.argv[3])
"""


def _write_prompts(config: LanguageBench, data: Path | None, tokenizer: str | None, out: Path) -> int:
    """Prompts of records drawn by seed, ragged, and the graph tokens' ids; the size of the vocabulary."""
    from netgpt import graphstore
    from netgpt.cluster.bench.reference import SMALL, reference
    from netgpt.cluster.config import load_config
    from netgpt.graphstore.documents import documents
    from netgpt.trainers.language.model.backbone import load_tokenizer
    from netgpt.trainers.language.model.tiny import train_tokenizer
    from netgpt.trainers.language.packing import plan_packs
    from netgpt.trainers.language.text.fields import document_of
    from netgpt.trainers.language.text.prompt import PromptBuilder
    from netgpt.trainers.language.text.template import Words, instruction_texts
    from netgpt.trainers.language.text.tokens import Tokens
    from netgpt.trainers.tasks.names import make_task

    dataset, path = reference(), out.with_name("store")
    settings = dataset.Config(**SMALL)
    source = dataset.synthetic(0.002, config.seed, settings) if data is None else data
    graphstore.build(source, path, settings, dataset=dataset)
    store, task = graphstore.open(path), make_task(load_config("sample").task)
    document, words = document_of(store), Words.of(task)
    rng, num = np.random.default_rng(config.seed), store.num_nodes[document.node_type]
    chosen = rng.permutation(num)[: config.samples]
    if len(chosen) < config.samples:
        raise ClusterError(f"--samples: found {config.samples}, expected at most the {num} of {data}")
    if tokenizer:
        made = load_tokenizer(tokenizer)
    else:
        texts = [text for _, text in documents(store, document, range(min(num, 500)))]
        made = train_tokenizer(texts + list(instruction_texts(words)), 8192)
    builder = PromptBuilder(
        made, document, words, max_tokens=config.max_tokens, max_comments=50, seed=config.seed
    )
    tokens = builder.tokenize(documents(store, document, chosen.tolist()))
    prompts = [builder.assemble(t) for t in tokens]
    if config.stage == "stage2":
        truth = np.nan_to_num(task.truth(store))
        prompts = [
            np.concatenate([p, builder.response(task.choice_of(truth[v]))])
            for p, v in zip(prompts, chosen.tolist(), strict=True)
        ]
    # As training runs all records: steps of whole packs, fillers of weight zero included
    parts = builder.tokenize(documents(store, document, range(num)))
    whole = Tokens.of(parts).prompt_lengths(np.arange(len(parts)), builder)
    steps = plan_packs(whole, budget=config.token_budget, packs_per_step=PACKS_PER_STEP, seed=(config.seed,))
    fillers = sum(int(whole[s.samples[0]]) * s.packs.count([]) for s in steps)
    np.savez(
        out,
        epoch_useful_share=np.array(whole.sum() / (whole.sum() + fillers)),
        ids=np.concatenate(prompts),
        length=np.array([len(p) for p in prompts]),
        response=np.array(len(builder.response(0)) if config.stage == "stage2" else 0),
        graph=np.array([builder.start_id, builder.pad_id, builder.end_id]),
    )
    return -(-len(made) // 64) * 64


def run_mode(job: str, prompts: str, out: str) -> None:
    """In a process of its own: measure one mode and write its figures."""
    raw = json.loads(job)
    mode, vocab = raw.pop("mode"), raw.pop("vocab")
    config = LanguageBench(**raw)
    os.environ["OMP_NUM_THREADS"] = str(config.threads)
    import torch

    from netgpt.trainers.processor import use_cores

    use_cores(config.threads)
    with np.load(prompts) as arrays:
        length, graph_ids = arrays["length"], [int(i) for i in arrays["graph"]]
        samples = np.split(arrays["ids"], np.cumsum(length)[:-1])
        response = int(arrays["response"])
    if mode == "padded":
        samples = samples[: config.padded_samples]
    runner = _Runner(config, vocab, graph_ids, response, mode)
    batches = runner.batches(samples)
    runner.run(batches[:1])  # kernels are chosen, buffers made
    times = []
    for _ in range(config.rounds):
        runner.synchronize()
        start = time.perf_counter()
        runner.run(batches)
        runner.synchronize()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    useful, computed = sum(map(len, samples)), sum(b.computed for b in batches)
    result: dict[str, Any] = {
        "samples_s": len(samples) / seconds,
        "tokens_s": useful / seconds,
        "useful_share": useful / computed,
        "seconds": times,
        "passes": len(batches),
    }
    if mode == "packed":
        result["budget_fill"] = useful / (len(batches) * config.token_budget)
    if runner.device.type == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
        result["device"] = torch.cuda.get_device_name()
        peak = next((v for name, v in PEAK_FLOPS.items() if name in result["device"]), None)
        needed = needed_flops(config, list(map(len, samples)), vocab, response)
        result["needed_flops_s"] = needed / seconds
        if peak:
            result["mfu"] = needed / seconds / peak
    Path(out).write_text(json.dumps(result))


def needed_flops(config: LanguageBench, lengths: list[int], vocab: int, response: int) -> float:
    """Floating-point operations that a stage cannot do without, for samples of these lengths."""
    shape = SHAPES[config.shape]
    trained = min(config.layers, shape["layers"]) if config.stage == "stage3" else 0
    return stage_flops(shape, lengths, trained_layers=trained, vocab=vocab, response=response)


@dataclass(frozen=True)
class _Batch:
    value: Any
    computed: int
    """Tokens that go through the decoder, padding included."""


class _Runner:
    """A NetGPT of random weights, and how a mode runs it."""

    def __init__(
        self, config: LanguageBench, vocab: int, graph_ids: list[int], response: int, mode: str
    ) -> None:
        import torch

        from netgpt.trainers.language.model import attention
        from netgpt.trainers.language.model.netgpt import NetGPT
        from netgpt.trainers.language.model.tiny import random_qwen2_vl

        self.config, self.mode, self.response, self.torch = config, mode, response, torch
        self.device = torch.device(config.device)
        shape = SHAPES[config.shape]
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        torch.manual_seed(config.seed)
        base = random_qwen2_vl(
            vocab=vocab,
            hidden=shape["hidden"],
            layers=shape["layers"],
            heads=shape["heads"],
            kv_heads=shape["kv_heads"],
            intermediate=shape["intermediate"],
            device=self.device,
            dtype=dtype,
        )
        kind = attention.NAME if mode == "packed" else "sdpa"
        base.set_attn_implementation({"text_config": kind})
        start, pad, end = graph_ids
        self.netgpt = NetGPT(base, GRAPH_DIM, (start, pad, end)).to(self.device)
        for parameter in self.netgpt.parameters():  # as DeepSpeed does; buffers stay as they are
            parameter.data = parameter.data.to(dtype)
        parts = ["markers", "projector", *(STAGE_3 if config.stage == "stage3" else ())]
        self.netgpt.train_only(self.netgpt.parts(name.format(layers=config.layers) for name in parts))
        if config.activation_checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.netgpt.train()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()

    def batches(self, samples: list[np.ndarray]) -> list[_Batch]:
        from netgpt.trainers.language.packing import collate, plan_packs

        config = self.config
        nothing = np.empty(0, np.int64)
        rng = np.random.default_rng(config.seed)
        lengths = np.array([len(s) for s in samples])

        def collated(chosen: list[int]) -> Any:
            """Prompt and response apart: the last tokens are the response."""
            parts = [
                (samples[i][: len(samples[i]) - self.response], samples[i][len(samples[i]) - self.response :])
                for i in chosen
            ]
            graph = rng.normal(size=(len(chosen), GRAPH_DIM)).astype(np.float32) / GRAPH_DIM**0.5
            return collate(
                [p for p, _ in parts],
                [r if self.response else nothing for _, r in parts],
                self.device,
                graph=graph,
            )

        if self.mode == "packed":
            steps = plan_packs(lengths, budget=config.token_budget, packs_per_step=1, seed=(config.seed,))
            return [_Batch(collated(s.samples), int(lengths[s.samples].sum())) for s in steps]
        order = np.argsort(lengths) if self.mode == "sorted" else np.arange(len(samples))
        size = 1 if self.mode == "padded" else config.batch_size
        padded = []
        for first in range(0, len(samples), size):
            chosen = [int(i) for i in order[first : first + size]]
            width = config.max_tokens if self.mode == "padded" else int(lengths[chosen].max())
            padded.append(_Batch((collated(chosen), width), width * len(chosen)))
        return padded

    def run(self, batches: list[_Batch]) -> None:
        """Forward and backward of all batches; gradients are dropped after each."""
        forward: Callable[[Any], Any] = self._packed if self.mode == "packed" else self._padded
        for batch in batches:
            forward(batch.value).backward()
            self.netgpt.zero_grad(set_to_none=True)

    def _packed(self, batch: Any) -> Any:
        if self.config.stage == "stage2":
            return -self.netgpt.response_log_probs(batch)[0].sum()
        return self.netgpt.scores(batch).square().sum()

    def _padded(self, value: tuple[Any, int]) -> Any:
        """transformers' own: embeddings padded on the right, and a mask."""
        torch, (batch, width) = self.torch, value
        x_LH = self.netgpt.embed(batch)
        rows = x_LH.split(batch.lengths)
        x = torch.stack([torch.nn.functional.pad(row, (0, 0, 0, width - len(row))) for row in rows])
        mask = torch.zeros(len(rows), width, dtype=torch.int64, device=self.device)
        for i, length in enumerate(batch.lengths):
            mask[i, :length] = 1
        positions = torch.arange(width, device=self.device).expand(3, len(rows), width)
        text = self.netgpt.text
        h = text(
            inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state
        at = torch.arange(len(rows), device=self.device)
        if self.config.stage == "stage3":
            last = h[at, batch.prompt_n - 1].float()
            head = self.netgpt.head
            return torch.nn.functional.linear(last, head.weight.float(), head.bias.float()).square().sum()
        # A model's own loss computes the logits of every position
        logits = self.netgpt.logits(h)
        ids = torch.nn.utils.rnn.pad_sequence(list(batch.input_ids_L.split(batch.lengths)), batch_first=True)
        ids = torch.nn.functional.pad(ids, (0, width - ids.shape[1]))
        place = torch.arange(width, device=self.device)[None]
        answered = (place >= batch.prompt_n[:, None]) & mask.bool()
        labels = ids.masked_fill(~answered, -100)
        return torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )


def line(result: dict[str, Any]) -> str:
    """A result as text."""
    size = result["tokens_a_sample"]
    lines = [
        f"{result['shape']}, {result['stage']}, {result['device']}: {result['samples']} samples of "
        f"{size['mean']:.0f} tokens on average (median {size['median']:.0f})"
    ]
    for mode, part in result["modes"].items():
        if "samples_s" not in part:
            lines.append(f"  {mode:<8} failed")
            continue
        extra = f", {part['mfu']:.1%} of peak" if "mfu" in part else ""
        lines.append(
            f"  {mode:<8}{part['samples_s']:>9.2f} samples/s{part['tokens_s']:>10.0f} tokens/s  "
            f"{part['useful_share']:>6.1%} useful  {part['peak_bytes'] / 1e9:.2f} GB{extra}"
        )
    against = ", ".join(f"{mode} {ratio:.1f}" for mode, ratio in result["packed_against"].items())
    lines.append(f"  packed against: {against} (token arithmetic: {result['token_arithmetic']:.1f})")
    lines.append(
        f"  useful over an epoch of all records, fillers counted: {result['epoch_useful_share']:.2%}"
    )
    return "\n".join(lines)
