"""Models of modalities against their formulas, number by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.base import ModalBatch, ModalModel, Retrieved, Shape
from netgpt.trainers.multimodal.models.names import MODELS, model_class

DIMS = {"visual": 6, "text": 4}
CONFIG = MultimodalConfig(visual="frames", text="video", visual_tokens=3, text_tokens=2, width=5)


def batch(num: int = 4, seed: int = 0, dims: dict[str, int] = DIMS) -> ModalBatch:
    """Some tokens are zero, one example has no neighbours, another none whose label is known."""
    g = torch.Generator().manual_seed(seed)
    tokens = {"visual": 3, "text": 2}
    x = {m: torch.randn(num, tokens[m], dim, generator=g) for m, dim in dims.items()}
    near = {m: torch.randn(num, tokens[m], dim, generator=g) for m, dim in dims.items()}
    for one in x.values():
        one[1, -1] = 0
    has, known = torch.ones(num, dtype=torch.bool), torch.ones(num, dtype=torch.bool)
    has[2], known[2], known[3] = False, False, False
    label = torch.where(known, torch.randn(num, generator=g), torch.zeros(()))
    return ModalBatch(x, Retrieved(near, has, label, known))


def made(name: str, config: MultimodalConfig = CONFIG, dims: dict[str, int] = DIMS) -> ModalModel:
    torch.manual_seed(1)
    model = model_class(name)(Shape(dims), config).double()
    for p in model.parameters():  # none stays at zero, so that nothing hides
        torch.nn.init.normal_(p, std=0.4)
    return model.eval()


def double(one: ModalBatch) -> ModalBatch:
    near = one.near
    assert near is not None
    return ModalBatch(
        {m: x.double() for m, x in one.x.items()},
        Retrieved({m: x.double() for m, x in near.x.items()}, near.has, near.label.double(), near.has_label),
    )


class Weights:
    """The weights of a model, as arrays by name."""

    def __init__(self, model: ModalModel) -> None:
        self.of = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        y = x @ self.of[f"{name}.weight"].T
        bias = self.of.get(f"{name}.bias")
        return y if bias is None else y + bias

    def head(self, h: np.ndarray) -> float:
        h = np.maximum(self.linear("head.1", h), 0)
        return float(self.linear("head.5", np.maximum(self.linear("head.3", h), 0))[0])


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def tokens(x: np.ndarray) -> np.ndarray:
    """Those that there are."""
    return x[x.any(axis=1)]


def paper_branch(w: Weights, name: str, v: np.ndarray, t: np.ndarray, alpha: float) -> list[np.ndarray]:
    d = CONFIG.width
    x = {
        "visual": relu(w.linear(f"{name}.inputs.visual", v)),
        "text": relu(w.linear(f"{name}.inputs.text", t)),
    }
    vectors = []
    for own, other in (("visual", "text"), ("text", "visual")):
        side = f"{name}.sides.{own}"
        read = []
        for i, scale in enumerate((alpha, -(1 - alpha))):
            q, k, value = (
                w.linear(f"{side}.attention.{i}.{part}", x[of])
                for part, of in (("query", own), ("key", other), ("value", other))
            )
            read.append(softmax(scale * q @ k.T / np.sqrt(d), axis=1) @ value)
        fused = w.linear(f"{side}.out", relu(x[own] + w.linear(f"{side}.joined", np.concatenate(read, 1))))
        a = softmax(w.linear(f"{side}.pool.weight", fused)[:, 0] / np.sqrt(d), axis=0)
        vectors.append((a[:, None] * fused).sum(0))
    return vectors


def retrieved(
    w: Weights, vectors: list[np.ndarray], one: ModalBatch, i: int
) -> tuple[list[np.ndarray], np.ndarray]:
    near = one.near
    assert near is not None
    if not near.has[i]:
        vectors = list(w.of["near.none"])
    label = relu(w.linear("near.label", np.array([float(near.label[i])])))
    return vectors, label if near.has_label[i] else w.of["near.no_label"]


def test_mmra_is_the_papers_formula() -> None:
    model, one = made("mmra"), double(batch())
    w, near = Weights(model), one.near
    assert near is not None
    for i, score in enumerate(model(one).detach().numpy()):
        v, t = (tokens(one.x[m][i].numpy()) for m in DIMS)
        own = paper_branch(w, "branch", v, t, CONFIG.alpha)
        found = paper_branch(w, "near.branch", *(tokens(near.x[m][i].numpy()) for m in DIMS), CONFIG.alpha)
        found, label = retrieved(w, found, one, i)
        products = [float(a @ b) for a in own for b in (*found, label)]
        assert len(products) == 6
        assert w.head(np.concatenate([*own, *found, label, products])) == pytest.approx(score, abs=1e-9)


def released_branch(w: Weights, name: str, v: np.ndarray, t: np.ndarray, alpha: float) -> list[np.ndarray]:
    x, d = {"visual": v, "text": t}, CONFIG.width
    vectors = []
    for own, other in (("visual", "text"), ("text", "visual")):
        a, b = (np.tanh(w.linear(f"{name}.compared.{m}", x[m])) for m in (own, other))
        weights = softmax(a @ b.T / d, axis=0)  # over the tokens that look
        positive = weights @ x[other]
        negative = -alpha * positive
        looked = np.tanh(w.linear(f"{name}.read.{own}", np.concatenate([positive, negative], 1)))
        fused = np.tanh(w.linear(f"{name}.joined.{own}", np.concatenate([x[own], looked], 1)))
        share = softmax(w.linear(f"{name}.pool.{own}.weight", fused)[:, 0] / d, axis=0)
        vectors.append((share[:, None] * fused).sum(0))
    return vectors


def test_released_is_the_codes_formula_whose_negative_attention_says_nothing_new() -> None:
    model, one = made("mmra-released"), double(batch())
    w, near = Weights(model), one.near
    assert near is not None
    for i, score in enumerate(model(one).detach().numpy()):
        own = released_branch(w, "branch", *(tokens(one.x[m][i].numpy()) for m in DIMS), CONFIG.alpha)
        read = [tokens(near.x[m][i].numpy()) for m in DIMS]
        found, label = retrieved(w, released_branch(w, "near.branch", *read, CONFIG.alpha), one, i)
        products = [a * b for a in own for b in (*found, label)]
        assert w.head(np.concatenate([*own, *found, *products])) == pytest.approx(score, abs=1e-9)
    # T_n is -alpha T_p: without it a model whose map of T_p is W_p - alpha W_n says the same
    lean = made("mmra-released", MultimodalConfig(**{**vars(CONFIG), "without": ["Neg"]}))
    state = model.state_dict()
    for name in [n for n in state if ".read." in n and n.endswith("weight")]:
        half = state[name].shape[1] // 2
        state[name] = state[name][:, :half] - CONFIG.alpha * state[name][:, half:]
    lean.load_state_dict(state)
    torch.testing.assert_close(lean(one), model(one))


def test_the_released_model_has_as_many_weights_as_the_code() -> None:
    model = model_class("mmra-released")(
        Shape({"visual": 768, "text": 768}), MultimodalConfig(visual="a", text="b")
    )
    own = {n: p.numel() for n, p in model.named_parameters() if "none" not in n and "no_label" not in n}
    assert sum(own.values()) == 18_115_509  # beside the vectors that we learn for what is not there


@pytest.mark.parametrize("name", ["mmra", "mmra-released"])
@pytest.mark.parametrize("without", [["RE"], ["Neg"], ["Pos"], ["RE", "Neg"]])
def test_what_is_left_out_is_not_read(name: str, without: list[str]) -> None:
    model, one = made(name, MultimodalConfig(**{**vars(CONFIG), "without": without})), double(batch())
    assert model.reads_neighbors
    near = one.near
    assert near is not None
    other = ModalBatch(
        one.x, Retrieved({m: x + 1 for m, x in near.x.items()}, near.has, near.label + 1, near.has_label)
    )
    changes = not torch.equal(model(one), model(other))
    assert changes == ("RE" not in without)
    assert len(list(model.parameters())) < len(list(made(name).parameters())) or name == "mmra-released"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dims", [DIMS, {"text": 4}, {"visual": 6}])
def test_tokens_that_are_none_change_nothing_and_all_weights_learn(name: str, dims: dict[str, int]) -> None:
    """Of each example by itself: other examples in the batch, and zeros behind its tokens, are not read."""
    model, one = made(name, dims=dims), double(batch(dims=dims))
    whole = model(one)
    for i in range(4):
        near = one.near
        assert near is not None
        part = slice(i, i + 1)
        alone = ModalBatch(
            {m: x[part] for m, x in one.x.items()},
            Retrieved(
                {m: x[part] for m, x in near.x.items()},
                near.has[part],
                near.label[part],
                near.has_label[part],
            ),
        )
        torch.testing.assert_close(model(alone), whole[part])
    if name != "cban":  # its tokens have places
        padded = ModalBatch({m: torch.cat([x, torch.zeros_like(x)], 1) for m, x in one.x.items()}, one.near)
        torch.testing.assert_close(model(padded), whole)
    model.train()
    extra = model.extra()
    loss: Tensor = (model(one) ** 2).sum() + (0 if extra is None else extra)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_fresh_model_says_the_constant_that_it_starts_at() -> None:
    for name in MODELS:
        model = model_class(name)(Shape(DIMS), CONFIG)
        model.start(3.5)
        torch.nn.init.zeros_(model.last.weight)
        torch.testing.assert_close(model.eval()(batch()), torch.full((4,), 3.5))


@pytest.mark.parametrize("name", ["hmmved", "massl"])
def test_the_product_of_experts_and_its_divergence(name: str) -> None:
    model, one = made(name), double(batch())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.2)  # within the bounds of the variances
    model(one)
    w, divergence, total = Weights(model), model.extra(), 0.0
    latent = model.latent  # type: ignore[attr-defined]
    for i in range(4):
        said = []
        for m in DIMS:
            x = one.x[m][i].numpy()
            if m == "visual":
                frames = model.frames(one.x[m][i : i + 1])  # type: ignore[attr-defined]
                x = frames.detach().numpy()[0]
            else:
                x = tokens(x).mean(0)
            h = relu(w.linear(f"experts.{m}.2", relu(w.linear(f"experts.{m}.0", x))))
            out = w.linear(f"says.{m}", h)
            said.append((out[:latent], np.exp(out[latent:])))
        precision = sum(1 / variance for _, variance in said)
        mean = sum(m / variance for m, variance in said) / precision
        product = torch.distributions.Normal(torch.from_numpy(mean), torch.from_numpy(precision**-0.5))
        zero = torch.zeros(latent, dtype=torch.float64)
        standard = torch.distributions.Normal(zero, zero + 1)
        total += float(torch.distributions.kl_divergence(product, standard).sum())
    assert divergence is not None and divergence.item() == pytest.approx(0.05 * total, rel=1e-6)
