"""All that is private of DeepSpeed, in one place: what is used, why, and what tells when it can go.

Tried with DeepSpeed 0.19.8.

- `ops.__compatible_ops__["deepspeed_shm_comm"]`: every new environment would compile a sum over CPU ranks
  that no stage calls. `test_engine.py`: no kernel is compiled.
- `optimizer.bit16_groups`: the parameters that it really trains, for which there is no public name.
  `test_engine.py`: what is trained is what is named.
- `optimizer.single_partition_of_fp32_groups`, `._lazy_init_hp_params_optimizer_state()`: a resumed
  optimiser has no state before its first step, and must be given one. `test_zero.py`: killed stages end in
  the same bits.
"""

from __future__ import annotations

from typing import Any

import torch

from netgpt.trainers.checkpoint import MOMENTS


def import_deepspeed() -> Any:
    """The module, without the kernel of inference that it would compile where a checkout first trains."""
    import deepspeed  # imports slowly and logs at import: only where it is used

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def optimizer_parameters(engine: Any) -> int:
    """How many numbers a ZeRO-2 engine's optimiser trains, over all ranks."""
    return sum(p.numel() for group in engine.optimizer.bit16_groups for p in group)


def make_optimizer_state(engine: Any, updates: int) -> None:
    """Give a fresh ZeRO-2 optimiser the state that it else makes in its first step."""
    zero = engine.optimizer
    for flat in zero.single_partition_of_fp32_groups:
        state = {key: torch.zeros_like(flat) for key in MOMENTS}
        zero.optimizer.state[flat] = {"step": torch.tensor(float(updates)), **state}
    zero._lazy_init_hp_params_optimizer_state()  # parameters find their parts of it
