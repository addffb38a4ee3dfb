"""Engines: gradients, clipping, rates, shares; and what `trainers/compat.py` relies on of DeepSpeed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from netgpt.trainers import checkpoint
from netgpt.trainers.checkpoint import MOMENTS, VALUE
from netgpt.trainers.compat import import_deepspeed, optimizer_parameters
from netgpt.trainers.engine import AdamWEngine, ZeroEngine
from netgpt.trainers.errors import TrainerError
from tests.trainers.toy_steps import BATCH, PACKS, KilledError, Network, make_engine, points

ENGINES = ("adamw", "zero")


pytestmark = pytest.mark.usefixtures("process_group")


def step(engine: AdamWEngine | ZeroEngine, network: Network, number: int, norms: list[float]) -> None:
    """One step over BATCH points, in packs of unlike sizes under ZeRO-2."""
    x, y = points()
    chosen = torch.arange(number * BATCH, (number + 1) * BATCH) % len(x)
    parts = [chosen[:3], chosen[3:]] if isinstance(engine, ZeroEngine) else [chosen]
    call = engine.forward if isinstance(engine, ZeroEngine) else network
    for i, part in enumerate(parts):
        loss = ((call(x[part]) - y[part]) ** 2).sum()
        engine.backward(loss, BATCH, last=i + 1 == len(parts))
    engine.step(norms.append)


@pytest.mark.parametrize("kind", ENGINES)
def test_steps_are_plain_adamw_of_the_mean_loss(kind: str) -> None:
    """In float64: the mean over the whole step, clipped to the norm, at the rate that was set."""
    network = Network().eval()
    oracle = Network().eval().double()
    engine = make_engine(kind, network)
    optimizer = torch.optim.AdamW(oracle.parameters(), lr=1.0, weight_decay=0.01)
    x, y = (t.double() for t in points())
    norms: list[float] = []
    for number, rate in enumerate((0.03, 0.02, 0.05, 0.01)):
        chosen = torch.arange(number * BATCH, (number + 1) * BATCH)
        optimizer.zero_grad()
        ((oracle(x[chosen]) - y[chosen]) ** 2).mean().backward()  # type: ignore[no-untyped-call]
        expected = float(nn.utils.clip_grad_norm_(oracle.parameters(), 1.0))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        engine.set_rate(rate)
        step(engine, network, number, norms)  # type: ignore[arg-type]
        assert norms[-1] == pytest.approx(expected, rel=1e-4) and len(norms) == number + 1
    assert max(norms) > 1 > min(norms) or max(norms) > 1  # clipped, at least once
    values = engine.values()
    assert set(values) == set(engine.trained) == {name for name, _ in oracle.named_parameters()}
    for name, p in oracle.named_parameters():
        torch.testing.assert_close(values[name].double(), p.detach(), rtol=1e-4, atol=1e-6)
        assert values[name].dtype == torch.float32


@pytest.mark.parametrize("kind", ENGINES)
def test_a_share_goes_into_another_engine_and_on_from_there(kind: str, tmp_path: Path) -> None:
    network = Network().eval()
    engine = make_engine(kind, network)
    for number in range(3):
        step(engine, network, number, [])  # type: ignore[arg-type]
    share = {name: t.detach().clone() for name, t in engine.share().items()}
    kinds = (VALUE, *MOMENTS)
    assert set(share) == {f"{one}.{name}" for one in kinds for name in engine.trained}
    checkpoint.save(tmp_path, 3, share, {}, {"key": "", "trained": sorted(engine.trained)})
    found = checkpoint.open_newest(tmp_path, "")
    assert found is not None
    other_network = Network().eval()
    other = make_engine(kind, other_network)
    other.load(found)
    for name, tensor in other.share().items():
        assert torch.equal(tensor.cpu(), share[name]), name
    for number in (3, 4):
        step(engine, network, number, [])  # type: ignore[arg-type]
        step(other, other_network, number, [])  # type: ignore[arg-type]
    one, two = engine.values(), other.values()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("kind", ENGINES)
def test_values_are_copies(kind: str) -> None:
    network = Network().eval()
    engine = make_engine(kind, network)
    before = engine.values()
    kept = {name: t.clone() for name, t in before.items()}
    step(engine, network, 0, [])  # type: ignore[arg-type]
    assert all(torch.equal(before[name], kept[name]) for name in kept)
    after = engine.values()
    assert all(not torch.equal(after[name], kept[name]) for name in kept)


def test_a_norm_that_is_refused_changes_no_weight() -> None:
    network = Network().eval()
    engine = make_engine("adamw", network)
    before = engine.values()

    def refuse(norm: float) -> None:
        raise KilledError(norm)

    x, y = points()
    engine.backward(((network(x) - y) ** 2).sum() * float("inf"), len(x))
    with pytest.raises(KilledError, match=r"nan|inf"):
        engine.step(refuse)
    assert all(torch.equal(value, before[name]) for name, value in engine.values().items())


class HalfUsed(Network):
    """With a layer that no loss depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)


def test_a_parameter_without_a_gradient_is_kept_as_it_is(tmp_path: Path) -> None:
    """A guest's layer may have one, such as the map of a type that no relation of the last layer reads."""
    network = HalfUsed().eval()
    engine = AdamWEngine(network, lr=0.1, weight_decay=0.1, clip=1.0)
    before = engine.values()["unused.weight"]
    step(engine, network, 0, [])
    checkpoint.save(tmp_path, 1, engine.share(), {}, {"key": "", "trained": sorted(engine.trained)})
    again_network = HalfUsed().eval()
    again = AdamWEngine(again_network, lr=0.1, weight_decay=0.1, clip=1.0)
    found = checkpoint.open_newest(tmp_path, "")
    assert found is not None
    again.load(found)
    for number in (1, 2):
        step(engine, network, number, [])
        step(again, again_network, number, [])
    one, two = engine.values(), again.values()
    assert all(torch.equal(one[name], two[name]) for name in one) and torch.equal(
        one["unused.weight"], before
    )


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    engine = make_engine("adamw", Network())
    for p in engine.trained.values():
        engine.optimizer.state[p] = {k: torch.zeros_like(p) for k in MOMENTS}  # type: ignore[attr-defined]
    share = engine.share()
    names = sorted(engine.trained)
    checkpoint.save(tmp_path / "names", 1, share, {}, {"key": "", "trained": [*names, "more"]})
    wide = {name: torch.zeros(9, 9) if name.endswith("0.weight") else t for name, t in share.items()}
    checkpoint.save(tmp_path / "shapes", 1, wide, {}, {"key": "", "trained": names})
    for folder, words in (
        ("names", r"found trained parameters of another model \(\['more'\]…\); remove the checkpoint"),
        ("shapes", r"found layers\.0\.weight of shape \(9, 9\), expected \(8, 3\); remove the checkpoint"),
    ):
        found = checkpoint.open_newest(tmp_path / folder, "")
        assert found is not None
        with pytest.raises(TrainerError, match=words):
            engine.load(found)


# What compat.py relies on: each of these fails when it can go, or must be done in another way


def test_no_kernel_is_compiled() -> None:
    """Without the flag the first engine of a new environment compiles a sum over CPU ranks, for minutes."""
    from deepspeed.comm import comm

    make_engine("zero", Network())
    assert "deepspeed_shm_comm" in import_deepspeed().ops.__compatible_ops__
    assert comm.cdb is not None and comm.cdb.shm_comm_op is None
    assert not hasattr(torch.ops.deepspeed, "inference_all_reduce_")


class Frozen(Network):
    """With a layer that is not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.after = nn.Linear(1, 1).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.after(super().forward(x)[:, None])
        return found[:, 0]


def test_what_is_trained_is_what_is_named() -> None:
    """The optimiser's own groups hold as many numbers as the parameters that it was given, padding apart."""
    network = Frozen().eval()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    engine = ZeroEngine(
        network, trained, lr=0.1, weight_decay=0.0, clip=1.0, accumulation=PACKS, bfloat16=False
    )
    num = sum(p.numel() for p in trained.values())
    assert (
        engine.num_held
        == optimizer_parameters(engine.engine)
        == num
        < sum(p.numel() for p in network.parameters())
    )
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    step(engine, network, 0, [])
    for name, p in network.named_parameters():
        assert torch.equal(p, before[name]) == (name not in trained), name
    assert set(engine.values()) == set(trained)


def test_a_fresh_optimizer_has_no_state_to_resume_into() -> None:
    """Why `make_optimizer_state` is there."""
    engine = make_engine("zero", Network())
    assert isinstance(engine, ZeroEngine)
    assert not engine.engine.optimizer.optimizer.state
