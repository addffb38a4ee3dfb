"""Engines: who holds trained parameters and their optimiser. AdamW in this process, or DeepSpeed's ZeRO-2.

A step is one or more calls of `backward`, the last of them with `last=True`, and one of `step`. Losses are
sums over a rank's examples; gradients are those of the sum over all ranks, divided by the step's count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from netgpt.trainers import distributed
from netgpt.trainers.checkpoint import MOMENTS, VALUE, Checkpoint
from netgpt.trainers.compat import import_deepspeed, make_optimizer_state, optimizer_parameters

Check = Callable[[float], object]
"""Raises for a gradient norm that is not finite."""


class Engine(Protocol):
    """What a training loop asks of an engine."""

    trained: dict[str, nn.Parameter]
    """Trained parameters by name."""

    def set_rate(self, lr: float) -> None: ...

    def backward(self, total: Tensor, count: int, *, last: bool = True) -> None:
        """Add the gradients of a summed loss, divided by the count that the whole step's mean is over.

        last: nothing more of this step comes from this rank.
        """
        ...

    def step(self, check: Check) -> None:
        """Clip the gradients, let `check` see their norm, and change the weights."""
        ...

    def values(self) -> dict[str, Tensor]:
        """Float32 values of what was trained, copied to the CPU; of ZeRO-2 rank 0 alone has them."""
        ...

    def share(self) -> dict[str, Tensor]:
        """This rank's part of values and moments, by KIND.PARAMETER; every rank calls this."""
        ...

    def load(self, saved: Checkpoint) -> None:
        """Put a checkpoint's values and moments in; every rank calls this."""
        ...


class AdamWEngine:
    """torch's AdamW over a module that every rank has whole; gradients are summed in one flat buffer."""

    def __init__(self, module: nn.Module, *, lr: float, weight_decay: float, clip: float) -> None:
        self.module, self.clip = module, clip
        self.trained = dict(module.named_parameters())
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=lr, weight_decay=weight_decay)

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def set_rate(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def backward(self, total: Tensor, count: int, *, last: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        (total / count).backward()
        distributed.sum_gradients(self.module.parameters())

    def step(self, check: Check) -> None:
        # Before the weights change: all ranks see the same norm
        check(float(nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)))
        self.optimizer.step()

    def values(self) -> dict[str, Tensor]:
        """The weights of every rank, buffers such as the scale of numbers included."""
        return {name: t.detach().cpu().clone() for name, t in self.module.state_dict().items()}

    def share(self) -> dict[str, Tensor]:
        rank, world_size = distributed.rank(), distributed.world_size()
        tensors: dict[str, Tensor] = {}
        for i, (name, p) in enumerate(sorted(self.trained.items())):
            if i % world_size == rank:
                # Without a gradient so far it has no moments: a guest's layer may have such a parameter
                state = self.optimizer.state.get(p, {})
                tensors[f"{VALUE}.{name}"] = p
                tensors |= {f"{kind}.{name}": state[kind] for kind in MOMENTS if kind in state}
        return tensors

    def load(self, saved: Checkpoint) -> None:
        with torch.no_grad():
            for kind, name, tensor in saved.tensors({name: p.shape for name, p in self.trained.items()}):
                p = self.trained[name]
                if kind == VALUE:
                    p.copy_(tensor)
                else:
                    state = self.optimizer.state[p]
                    state.setdefault("step", torch.tensor(float(saved.step)))
                    state[kind] = tensor.to(p.device).clone()


class ZeroEngine:
    """DeepSpeed's ZeRO-2: optimiser state and gradients in parts over the ranks. Needs a process group."""

    def __init__(
        self,
        module: nn.Module,
        trained: dict[str, nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        clip: float,
        accumulation: int,
        bfloat16: bool,
    ) -> None:
        """accumulation: calls of `backward` in a step, of each rank."""
        self.trained, self.accumulation = trained, accumulation
        deepspeed = import_deepspeed()
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # Buckets no larger than what is trained: DeepSpeed's default allocates 2 GB of buffers a step
        # (a power of two: its alignment wants a multiple of the world size)
        bucket = min(2**28, 1 << sum(p.numel() for p in trained.values()).bit_length())
        self.engine: Any
        self.engine, *_ = deepspeed.initialize(
            model=module,
            model_parameters=list(trained.values()),
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": accumulation,
                "gradient_clipping": clip,
                "zero_optimization": {
                    "stage": 2,
                    "reduce_bucket_size": bucket,
                    "allgather_bucket_size": bucket,
                },
                "bf16": {"enabled": bfloat16},
                "data_types": {"grad_accum_dtype": "fp32"},
                "optimizer": {
                    "type": "AdamW",
                    "params": {"lr": lr, "weight_decay": weight_decay, "torch_adam": True},
                },
                "steps_per_print": 10**9,
            },
        )
        self.forward: Callable[..., Any] = self.engine
        """The module's forward, as DeepSpeed wants to see it."""

    @property
    def num_held(self) -> int:
        """Numbers that the optimiser trains."""
        return optimizer_parameters(self.engine)

    def set_rate(self, lr: float) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr

    def backward(self, total: Tensor, count: int, *, last: bool = True) -> None:
        # DeepSpeed averages over ranks and accumulation steps; a sum over the step is wanted
        self.engine.backward(total * (distributed.world_size() * self.accumulation / count))
        if not last:
            self.engine.step()

    def step(self, check: Check) -> None:
        self.engine.step()
        # Of a gradient that is not finite the weights are spoilt now, but no checkpoint has them
        check(float(self.engine.get_global_grad_norm() or 0.0))

    def values(self) -> dict[str, Tensor]:
        """On rank 0; the others have a part of it to give, and no use for the whole."""
        from deepspeed.utils import safe_get_full_fp32_param

        held: dict[str, Tensor] = {}
        for name, p in self.trained.items():
            value = safe_get_full_fp32_param(p)
            if distributed.rank() == 0:
                held[name] = value.cpu()
        return held

    def share(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        rank, world_size = distributed.rank(), distributed.world_size()
        tensors: dict[str, Tensor] = {}
        for i, (name, p) in enumerate(sorted(self.trained.items())):
            # Every rank has a part of every tensor, so all take part, and one keeps it
            parts = {VALUE: safe_get_full_fp32_param(p)}
            parts |= {kind: safe_get_full_optimizer_state(p, kind) for kind in MOMENTS}
            if i % world_size == rank:
                tensors |= {f"{kind}.{name}": value.cpu() for kind, value in parts.items()}
        return tensors

    def load(self, saved: Checkpoint) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        shapes = {name: p.shape for name, p in self.trained.items()}
        make_optimizer_state(self.engine, saved.step)
        for kind, name, tensor in saved.tensors(shapes):
            p = self.trained[name]
            if kind == VALUE:
                safe_set_full_fp32_param(p, tensor)
                p.data.copy_(tensor)
            else:
                safe_set_full_optimizer_state(p, tensor, kind)
        distributed.barrier()
