"""Memory of one language-stage process at its peak, term by term.

The terms were found by following a step with saved-tensor hooks and by the resident set between its
phases (`netgpt bench plan` measures the peaks again). Four moments can be the largest: the turn from forward
to backward (all activations), the end of backward (gradients, and no activations), the optimiser's step,
and the writing of a checkpoint. Terms are those of the largest.

Legend: L tokens of a pack, H hidden, I intermediate, Q and K widths of queries and of keys, V vocabulary,
e bytes of a number (4 on CPUs, 2 on GPUs), P trained parameters, W world size.
"""

from __future__ import annotations

from dataclasses import dataclass

from netgpt.cluster.plan.shapes import DecoderShape, LanguageShape

F32 = 4
PROCESS_BYTES = 620_000_000
"""Python with torch, transformers, DeepSpeed with its kernels, TensorBoard and a sealed store (measured
2026-11-22: 549 MB resident before a model is loaded, of which 190 are the mapped code of libraries; a stage 3
of width 64 peaks at 657, of which 37 are its model's)."""
CUDA_BYTES = 1_500_000_000
"""Context, kernels and workspaces on a GPU. An assumption: not measured."""
GPU_SLACK = 0.06
"""Share of a GPU's memory that its caching allocator cannot use. An assumption: not measured."""
HEAP_LIMIT = 32 * 2**20
"""glibc gives blocks above this back as soon as they are freed (DEFAULT_MMAP_THRESHOLD_MAX); those below,
once one like them was freed, come from the heap, which has holes."""
FULL_PACK = 0.75
"""Packs are at least about so full: only above this share of the budget is a block surely over the limit."""
HEAP_HOLES = 0.5
"""Holes as a share of the activations in such blocks (measured 2026-11-22: the same runs with
MALLOC_MMAP_THRESHOLD_=131072, which gives every block back, against glibc's default)."""
MEAN_PROMPT, RESPONSE = 398, 11
"""Tokens of a sample's prompt on average, and of its response (README: Qwen's tokenizer)."""


@dataclass(frozen=True)
class Term:
    """One part of a process's memory at its peak."""

    name: str
    num_bytes: int


@dataclass(frozen=True)
class Memory:
    """A process's memory at its peak, and the moment that it is of."""

    moment: str
    terms: tuple[Term, ...]

    @property
    def peak_bytes(self) -> int:
        return sum(term.num_bytes for term in self.terms)

    def of(self, name: str) -> int:
        return sum(term.num_bytes for term in self.terms if term.name == name)


def largest(base: list[Term], moments: dict[str, list[Term]]) -> Memory:
    """The memory at the largest of some moments, all of which have the base."""
    name = max(moments, key=lambda m: sum(t.num_bytes for t in moments[m]))
    return Memory(name, tuple(t for t in [*base, *moments[name]] if t.num_bytes > 0))


def saved_per_token(shape: DecoderShape, item: int, *, trained: bool) -> int:
    """Bytes that autograd keeps of one layer a token, for a layer whose input needs a gradient.

    Checked against saved-tensor hooks on the real layers (tests).
    """
    hidden, inner = shape.hidden, shape.intermediate
    query, key = shape.query_width, shape.key_width
    norms = 2 * (F32 * hidden + F32)  # both norms compute in float32: their input, and 1 / rms
    attention = item * (query + 2 * key)
    if item != F32:  # the kernels of half precision also keep the output and its log-sum-exp
        attention += item * query + F32 * shape.heads
    mlp = 3 * item * inner  # gate, silu(gate), up: their product is for a trained down_proj alone
    saved = norms + attention + mlp
    if trained:  # a weight's gradient needs its input: norms twice, q/k/v and gate/up, o_proj, down_proj
        saved += item * (2 * hidden + 2 * hidden + query + inner)
    return saved


@dataclass(frozen=True, kw_only=True)
class LanguageCase:
    """What a language stage's memory depends on."""

    shape: LanguageShape
    stage: str
    answers: bool
    """Whether logits of responses are computed; else a head's scores."""
    token_budget: int
    world_size: int
    accumulation: int
    """Packs of a step a rank."""
    activation_checkpointing: bool
    layers_trained: int
    """Last decoder layers that are trained."""
    device: str
    """cpu or cuda."""
    epochs: int = 1
    mean_prompt: int = MEAN_PROMPT
    bucket: int = 0
    """Numbers of DeepSpeed's reduce bucket; 0: as the trainer sets it."""

    @property
    def item(self) -> int:
        return 2 if self.device == "cuda" else F32

    @property
    def num_trained(self) -> int:
        return self.shape.trained[self.stage]

    @property
    def bucket_numbers(self) -> int:
        """As trainers.engine sets it: a power of two above what is trained."""
        return self.bucket or min(2**28, 1 << self.num_trained.bit_length())


def activation_terms(case: LanguageCase, tokens: int) -> tuple[list[Term], list[Term]]:
    """What is kept for backward over a pack, and what comes and goes at the turn to backward."""
    shape, item = case.shape.decoder, case.item
    frozen = saved_per_token(shape, item, trained=False)
    trained = saved_per_token(shape, item, trained=True)
    kept_layers = (shape.layers - case.layers_trained) * frozen + case.layers_trained * trained
    if case.activation_checkpointing:
        # Of each layer its input; one layer is computed again at a time
        kept_layers = shape.layers * item * shape.hidden + (trained if case.layers_trained else frozen)
    # The rotary table's cos and sin, the final norm's input, which tokens are markers
    ends = 2 * item * shape.rope_width + F32 * (shape.hidden + 1) + 2
    kept = tokens * (kept_layers + ends)
    # Gradients inside the last layer's MLP: of the product, of silu(gate), of up; then the residual's
    mlp = tokens * (3 * item * shape.intermediate + 2 * item * shape.hidden)
    logits = 0
    if case.answers:
        responses = -(-tokens // (case.mean_prompt + RESPONSE)) * RESPONSE
        # Kept: log-softmax. Backwards: its gradient and the logits'; on GPUs also the half-precision ones
        kept += responses * shape.vocab * F32
        logits = responses * shape.vocab * (2 * F32 + (2 * item if item < F32 else 0))
    return [Term("activations", kept)], [Term("gradients inside a layer", max(mlp, logits))]


def zero_terms(case: LanguageCase) -> list[Term]:
    """ZeRO-2's state: each rank has a part of it."""
    part = -(-case.num_trained // case.world_size)
    return [
        Term("master weights (float32, sharded)", F32 * part),
        Term("Adam's moments (float32, sharded)", 2 * F32 * part),
    ]


def weight_terms(case: LanguageCase) -> list[Term]:
    """Frozen and trained weights as they are on the device."""
    shape, item = case.shape, case.item
    if case.device == "cuda":  # all of it is moved to the device, the vision tower too
        frozen = Term("frozen weights", item * shape.frozen(case.stage))
        return [frozen, Term("trained weights", item * case.num_trained)]
    # On a CPU float32 files are mapped: only what was read counts, and it is the page cache's. The vision
    # tower is not read without pixels, the output layer not for scores; the trained layers are read
    # once, to be copied into ZeRO's flat buffer
    mapped = shape.file_bytes == F32 * shape.base
    read = shape.embedding + shape.decoder.layers * shape.layer
    if case.answers:
        read += shape.output
    # Converted files are the process's own, the vision tower too
    frozen = Term("base model, mapped", F32 * read) if mapped else Term("frozen weights", F32 * shape.base)
    return [frozen, Term("trained weights", F32 * case.num_trained)]


def gradient_moments(case: LanguageCase) -> tuple[list[Term], list[Term], list[Term]]:
    """Gradients while activations are there, at the end of backward, and in the optimiser's step.

    As DeepSpeed 0.19's stage_1_and_2.py holds them.
    """
    num, item = case.num_trained, case.item
    part = -(-num // case.world_size)
    if case.device == "cuda":
        bucket = Term("reduce bucket", item * case.bucket_numbers)  # allocated whole
        sum_ = Term("gradients (float32, sharded)", F32 * part)  # summed over packs
        flat = Term("bucket under reduction", item * min(num, case.bucket_numbers))
        own = Term("gradients of a layer", item * case.shape.layer if case.layers_trained else item * num)
        adam = Term("optimiser's temporaries", F32 * part)  # foreach: one square root of a moment
        return [sum_, bucket], [sum_, bucket, flat, own], [sum_, adam]
    # float32 sums: no compact buffer. Parameters that lie in a rank's part are whole in it
    held = Term("gradients (float32)", F32 * part)
    before = [held] if case.accumulation > 1 else []
    bucket = Term("reduce bucket", F32 * num)  # of a bucket only what is written is resident
    flat = Term("bucket under reduction", F32 * num)
    ring = Term("gloo's buffer", F32 * num if case.world_size > 1 else 0)
    # AdamW's root of the second moment and its quotient; the gradients' own tensors are gone by then
    step = [Term("flat gradients", F32 * part), Term("optimiser's temporaries", 2 * F32 * part)]
    return before, [*before, held, bucket, flat, ring], step


def language_memory(case: LanguageCase, tokens: int | None = None) -> Memory:
    """Memory of one rank at `language.token_budget`; rank 0's, which keeps the best weights too."""
    tokens = case.token_budget if tokens is None else tokens
    cpu = case.device == "cpu"
    base = [Term("process" if cpu else "CUDA context", PROCESS_BYTES if cpu else CUDA_BYTES)]
    base += [*weight_terms(case), *zero_terms(case)]
    if cpu and case.epochs > 1:  # on a GPU's host
        base.append(Term("best weights so far", F32 * case.num_trained))
    kept, passing = activation_terms(case, tokens)
    turn, end, step = gradient_moments(case)
    holes: list[Term] = []
    if cpu:
        # The heap keeps what it had at its largest, holes and all, also behind the turn
        holes = [Term("holes in the heap", int(HEAP_HOLES * heap_bytes(case, tokens)))]
    moments = {
        "turn from forward to backward": [*kept, *passing, *turn, *holes],
        "end of backward": end,
        "optimiser step": step,
    }
    if cpu:
        moments["writing a checkpoint"] = checkpoint_terms(case)
    return largest(base, moments)


def checkpoint_terms(case: LanguageCase) -> list[Term]:
    """What trainers.checkpoint.save puts together on the host: the best weights, whole, and this
    rank's share of values and moments, which trainers.weights.save copies once more."""
    best = 0 if case.device == "cpu" and case.epochs > 1 else case.num_trained  # a term of its own there
    return [
        Term("best weights", F32 * best),
        Term("checkpoint, twice", 2 * 3 * F32 * -(-case.num_trained // case.world_size)),
    ]


def heap_bytes(case: LanguageCase, tokens: int) -> int:
    """Activations in blocks that come from the heap on a CPU."""
    shape = case.shape.decoder
    inner = F32 * tokens * shape.intermediate
    kept = sum(t.num_bytes for t in activation_terms(case, tokens)[0])
    if FULL_PACK * F32 * tokens * shape.hidden > HEAP_LIMIT:
        return 0
    if FULL_PACK * inner > HEAP_LIMIT:
        num = 1 if case.activation_checkpointing else shape.layers
        kept -= 3 * num * inner + (0 if case.activation_checkpointing else case.layers_trained * inner)
    return max(0, kept)
