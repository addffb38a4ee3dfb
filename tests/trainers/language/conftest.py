"""A tiny tokenizer, model and samples of the session's store, for the tests of the language stages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from netgpt.graphstore import Store
from netgpt.trainers.config import TinyConfig
from netgpt.trainers.language.model import attention
from netgpt.trainers.language.model.netgpt import NetGPT
from netgpt.trainers.language.model.tiny import make_model, train_tokenizer
from netgpt.trainers.language.samples import GraphStates, Samples
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.template import instruction_texts
from netgpt.trainers.language.text.tokens import Tokens
from tests.reference import prompts_of, words_of

TINY = TinyConfig(hidden=32, layers=6, heads=2, vocab=600)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(store: Store) -> Any:
    return train_tokenizer([*list(store.texts)[:80], *instruction_texts(words_of())], TINY.vocab)


@pytest.fixture(scope="module")
def builder(tokenizer: Any, store: Store) -> PromptBuilder:
    return prompts_of(tokenizer, store)


@pytest.fixture(scope="module")
def netgpt(tokenizer: Any, builder: PromptBuilder) -> NetGPT:
    torch.manual_seed(0)
    base = make_model(TINY, tokenizer, 0)
    base.set_attn_implementation({"text_config": attention.NAME})
    model = NetGPT(base.requires_grad_(False), 6, (builder.start_id, builder.pad_id, builder.end_id))
    return model.eval()


@pytest.fixture(scope="module")
def tokens(store: Store, builder: PromptBuilder) -> Tokens:
    num = store.num_nodes["video"]
    return Tokens.of(builder.tokenize((store.ids[v], store.texts[v]) for v in range(num)))


@pytest.fixture(scope="module")
def samples(store: Store, builder: PromptBuilder, tokens: Tokens) -> Samples:
    h = np.random.default_rng(0).normal(size=(store.num_nodes["video"], 6)).astype(np.float32)
    graph = GraphStates.of(h, np.arange(60))
    return Samples(np.arange(12), tokens, builder, CPU, graph, names=store.ids)
