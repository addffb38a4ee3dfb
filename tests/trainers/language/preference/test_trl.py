"""DPO beside TRL's own trainer, where it is installed: one model, one reference, the same pairs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netgpt.trainers.language.model import attention
from netgpt.trainers.language.model.netgpt import PackedLM
from netgpt.trainers.language.packing import collate
from netgpt.trainers.language.preference.losses import dpo
from tests.trainers.language.conftest import CPU
from tests.trainers.language.test_tuning import base_of, case

BETA = 0.1


def peers_loss(policy: Any, reference: Any, tokenizer: Any, folder: Path) -> torch.Tensor:
    """TRL's loss with `sigmoid`: chosen answers, then rejected ones, padded on the right."""
    trl = pytest.importorskip("trl", reason="a peer: pip install -e .[trl]")
    datasets = pytest.importorskip("datasets", reason="a peer's need: pip install -e .[trl]")
    args = trl.DPOConfig(
        output_dir=str(folder), beta=BETA, loss_type=["sigmoid"], use_cpu=True, bf16=False, report_to=[]
    )
    texts = datasets.Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}])
    trainer = trl.DPOTrainer(
        model=policy, ref_model=reference, args=args, train_dataset=texts, processing_class=tokenizer
    )
    prompts, answers = case()
    rows = [np.concatenate([p, both[j]]) for j in range(2) for p, both in zip(prompts, answers, strict=True)]
    begins, longest = [len(p) for p in prompts] * 2, max(map(len, rows))
    place = np.arange(longest)
    there = np.stack([place < len(row) for row in rows])
    pairs = zip(begins, rows, strict=True)
    answer = np.stack([(place >= begin) & (place < len(row)) for begin, row in pairs])
    ids = np.stack([np.pad(row, (0, longest - len(row))) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": there.astype(int), "completion_mask": answer.astype(int)}
    loss: torch.Tensor = trainer._compute_loss(
        trainer.model, {name: torch.from_numpy(x) for name, x in inputs.items()}, return_outputs=False
    )
    return loss


def own_loss(policy: Any, reference: Any, *, shared: bool) -> torch.Tensor:
    """The loss over one pack, each prompt once or once for each answer."""
    prompts, answers = case()
    if shared:
        firsts = [len(both[0]) for both in answers]
        batch = collate(prompts, [np.concatenate(both) for both in answers], CPU, first_answers=firsts)
    else:
        batch = collate([p for p in prompts for _ in "cr"], [a for both in answers for a in both], CPU)
    sums = []
    for base in (policy, reference):
        log_probs, of = PackedLM(base).response_log_probs(batch)
        sums.append(torch.zeros(2 * len(prompts)).index_add(0, of, log_probs).view(-1, 2))
    rc, rr = (sums[0] - sums[1].detach()).unbind(1)
    return dpo(rc, rr, BETA).mean()


@pytest.mark.parametrize("shared", [True, False])
def test_loss_and_gradients_are_trls(shared: bool, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token, tokenizer.eos_token = (tokenizer.convert_ids_to_tokens(i) for i in (0, 1))
    reference = base_of("llama", tokenizer)
    policy = copy.deepcopy(reference)
    torch.manual_seed(2)
    with torch.no_grad():  # else it is ln 2 for all
        for p in policy.parameters():
            p += 0.02 * torch.randn_like(p)
    trained = list(policy.parameters())
    own = own_loss(policy, reference, shared=shared)
    gradients = torch.autograd.grad(own, trained)
    for model in (policy, reference):
        model.set_attn_implementation("eager")
    peer = peers_loss(policy, reference, tokenizer, tmp_path)
    attention.register()
    assert abs(own.item() - np.log(2)) > 1e-3
    torch.testing.assert_close(own, peer, rtol=0, atol=1e-5)
    for mine, theirs in zip(gradients, torch.autograd.grad(peer, trained), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
