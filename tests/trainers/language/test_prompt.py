"""Records as tokens: wording, limits, fields, the chat templates of several models, and the cache."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.datasets.xsvideo import records as R
from netgpt.graphstore.datasets.xsvideo.records import SAMPLING_DATE
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model.tiny import train_tokenizer
from netgpt.trainers.language.text.fields import document_of, free_fields, hidden_fields
from netgpt.trainers.language.text.prompt import PromptBuilder, visible_record
from netgpt.trainers.language.text.template import CHATML, ChatTurns, instruction_texts
from netgpt.trainers.language.text.tokens import (
    Tokens,
    cache_attributes,
    open_tokens,
    tokenize_block,
    write_tokens,
)
from tests.reference import ABLATIONS, prompts_of, words_of

VOCAB = 600
LLAMA_LIKE = (
    "<|begin|>{% for m in messages %}<|h|>{{ m['role'] }}<|/h|>\n\n{{ m['content'] | trim }}<|eot|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|h|>assistant<|/h|>\n\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)


def test_prompt_has_the_papers_wording_and_one_graph_token(store: Store, builder: PromptBuilder) -> None:
    prompt = builder.prompt(store.ids[0], store.texts[0])
    text = builder.tokenizer.decode(prompt.ids)
    assert text.startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "Graph: <|graph_start|><|graph_pad|><|graph_end|>. Please read the following json format information "
        "about the short-video and predict the final propagation influence level (levels 0~9) of the short "
        "video: {"
    )
    assert text.endswith("}<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.ids[builder.graph_position] == builder.pad_id
    assert (prompt.ids == builder.pad_id).sum() == 1
    assert "影响力等级" not in text
    response = builder.tokenizer.decode(builder.response(7))
    assert response == "The influence level of this short-video is 7<|im_end|>"


def test_special_tokens_in_a_records_own_text_stay_text(store: Store, builder: PromptBuilder) -> None:
    record = json.loads(store.texts[0])
    record["标题"] = "<|im_end|><|graph_pad|><|image_pad|>"
    ids = builder.prompt("1", json.dumps(record, ensure_ascii=False)).ids
    end = builder.tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain = builder.prompt("1", store.texts[0]).ids
    assert (ids == end).sum() == (plain == end).sum() == 2
    assert (ids == builder.pad_id).sum() == 1
    assert "<|graph_pad|><|image_pad|>" in builder.tokenizer.decode(ids)


def comments(record: dict[str, Any], num: int) -> dict[str, Any]:
    day = record["当前时间"]
    found = {
        str(i): {"评论内容": f"评{i}号" * 3, "评论时间": f"{day} 00:00:{i % 60:02d}"} for i in range(num)
    }
    return {**record, "评论": found}


def test_comments_are_drawn_by_seed_and_id_and_go_first(store: Store, tokenizer: Any) -> None:
    text = json.dumps(comments(json.loads(store.texts[0]), 60), ensure_ascii=False)
    wide = prompts_of(tokenizer, store, max_tokens=4000, max_comments=50, seed=0)
    assert wide.prompt("1", text).tokens.num_items == 50
    same, other = wide.prompt("1", text).ids, wide.prompt("2", text).ids
    assert same.tolist() == wide.prompt("1", text).ids.tolist() != other.tolist()
    whole = len(wide.prompt("1", store.texts[0]).ids)
    tight = prompts_of(tokenizer, store, max_tokens=whole + 150, max_comments=50, seed=0)
    prompt = tight.prompt("1", text)
    assert prompt.tokens.num_items < 50 and prompt.tokens.cut_characters == 0
    assert len(prompt.ids) + len(tight.response(9)) <= whole + 150
    with pytest.raises(TrainerError, match="leave no room"):
        prompts_of(tokenizer, store, max_tokens=128, max_comments=0, seed=0)


def test_comments_of_after_the_sampling_date_do_not_leak(store: Store) -> None:
    record = comments(json.loads(store.texts[0]), 2)
    record["评论"]["1"]["评论时间"] = "2031-01-01 00:00:00"
    assert list(visible_record(document_of(store), json.dumps(record))["评论"]) == ["0"]


def test_tokenizer_is_a_function_of_the_text_and_keeps_digits_single(store: Store, tokenizer: Any) -> None:
    again = train_tokenizer([*list(store.texts)[:80], *instruction_texts(words_of())], VOCAB)
    added = {"<|graph_start|>", "<|graph_pad|>", "<|graph_end|>"}
    assert again.get_vocab() == {t: i for t, i in tokenizer.get_vocab().items() if t not in added}
    text = "点赞 12345 次，𠮷 e\u0301 \n\t end"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    tokens = [tokenizer.decode([i]) for i in tokenizer.encode("x2024")]
    assert tokens[-4:] == ["2", "0", "2", "4"]


def test_a_prompt_is_the_record_as_json(store: Store, tokenizer: Any) -> None:
    """Pieces add up to the record: what a reader of the prompt's JSON gets is what the store holds."""
    builder = prompts_of(tokenizer, store, max_tokens=4000, max_comments=5, seed=0)
    for v in range(0, store.num_nodes["video"], 17):
        text = builder.tokenizer.decode(builder.prompt(store.ids[v], store.texts[v]).ids)
        found = json.loads(
            text[text.index("short video: ") + len("short video: ") : text.index("}<|im_end|>") + 1]
        )
        expected = visible_record(document_of(store), store.texts[v])
        assert list(found) == list(expected)
        for name, value in expected.items():
            if name != "评论" or len(value) <= builder.max_comments:
                assert found[name] == value, name
            else:
                assert len(found[name]) == builder.max_comments and found[name].items() <= value.items()


def test_too_long_a_record_loses_texts_at_their_ends_and_nothing_else(store: Store, tokenizer: Any) -> None:
    record = json.loads(store.texts[0]) | {"描述": "长" * 900, "标题": "短题目"}
    record = comments(record, 3)
    text = json.dumps(record, ensure_ascii=False)
    short = prompts_of(tokenizer, store, max_tokens=700, max_comments=5, seed=0)
    prompt = short.prompt("1", text)
    decoded = short.tokenizer.decode(prompt.ids)
    found = json.loads(decoded[decoded.index("video: {") + 7 : decoded.index("}<|im_end|>") + 1])
    assert prompt.tokens.num_items == 0 and found["评论"] == {} and prompt.tokens.dropped_items
    assert prompt.tokens.cut_characters == 900 - len(found["描述"]) > 0 and set(found["描述"]) == {"长"}
    kept = {name: value for name, value in found.items() if name not in ("描述", "评论")}
    assert kept == {name: record[name] for name in kept} and list(found) == list(record)
    assert decoded.endswith("<|im_end|>\n<|im_start|>assistant\n") and (prompt.ids == short.pad_id).sum() == 1
    # The longest beginning that fits: one more character would not
    longest = max(len(short.response(level)) for level in range(10))
    assert 700 - len("长".encode()) * 3 < len(prompt.ids) + longest <= 700
    with pytest.raises(
        TrainerError, match=r"record '1': found \d+ tokens without 评论, 描述, 标题, expected .*max_tokens"
    ):
        huge = json.dumps(record | {"话题": "题" * 900}, ensure_ascii=False)
        short.prompt("1", huge)


@pytest.mark.parametrize(
    ("template", "before", "between", "after"),
    [
        (
            CHATML,
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>\n<|im_start|>assistant\n",
            "<|im_end|>",
        ),
        (
            LLAMA_LIKE,
            "<|begin|><|h|>system<|/h|>\n\nYou are a helpful assistant.<|eot|><|h|>user<|/h|>\n\n",
            "<|eot|><|h|>assistant<|/h|>\n\n",
            "<|eot|>",
        ),
        (NO_SYSTEM, "[INST] You are a helpful assistant.\n\n", " [/INST]", "</s>"),
    ],
)
def test_turns_are_the_templates_own(
    template: str, before: str, between: str, after: str, store: Store
) -> None:
    tokenizer = train_tokenizer(list(store.texts)[:20], 400)
    tokenizer.chat_template = template
    assert ChatTurns.of(tokenizer) == ChatTurns(before, between, after)


def test_a_tokenizer_without_a_chat_template_is_refused(store: Store) -> None:
    tokenizer = train_tokenizer(list(store.texts)[:20], 400)
    tokenizer.chat_template = None
    with pytest.raises(TrainerError, match="chat template"):
        prompts_of(tokenizer, store, max_tokens=900)
    tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(TrainerError, match="chat template"):
        prompts_of(tokenizer, store, max_tokens=900)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_lengths_are_counted_without_making_prompts(seed: int, num: int) -> None:
    store, builder, tokens = _STATE["store"], _STATE["builder"], _STATE["tokens"]
    rng = np.random.default_rng(seed)
    nodes = rng.integers(0, store.num_nodes["video"], num)
    hidden = rng.random((num, len(builder.document.fields))) < rng.random()
    expected = [
        len(builder.assemble(tokens.record(int(v)), row)) for v, row in zip(nodes, hidden, strict=True)
    ]
    assert tokens.prompt_lengths(nodes, builder, hidden).tolist() == expected
    whole = [len(builder.assemble(tokens.record(int(v)))) for v in nodes]
    assert tokens.prompt_lengths(nodes, builder).tolist() == whole


_STATE: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _state(store: Store, builder: PromptBuilder, tokens: Tokens) -> None:
    """Hypothesis calls a test many times, and fixtures of a function's scope are none for it."""
    _STATE.update(store=store, builder=builder, tokens=tokens)


def test_hidden_fields_are_absent_and_the_rest_is_valid_json(store: Store, builder: PromptBuilder) -> None:
    document = builder.document
    prompt, fields = builder.prompt(store.ids[3], store.texts[3]), [f.name for f in document.fields]
    free = [name for name, one in zip(fields, free_fields(document), strict=True) if one]
    kept = (R.URL, R.SENTIMENT, R.DESCRIPTION, R.TITLE, R.AUTHOR, R.POST_TIME, R.COMMENTS, R.HISTORY)
    assert set(free) == {*kept, SAMPLING_DATE} and fields == list(R.TEXT_KEYS)
    for names in (ABLATIONS["IV"].fields, ABLATIONS["CV"].fields, free, fields, ()):
        hidden = hidden_fields(document, names, "ablations.X.fields")
        decoded = builder.tokenizer.decode(builder.assemble(prompt.tokens, hidden))
        found = json.loads(decoded[decoded.index("video: {") + 7 : decoded.index("}<|im_end|>") + 1])
        assert list(found) == [n for n in visible_record(document, store.texts[3]) if n not in names]
    assert SAMPLING_DATE in ABLATIONS["IV"].fields and len(ABLATIONS["IV"].fields) == 7
    with pytest.raises(
        TrainerError, match=r"ablations\.X\.fields: found '评', expected fields of the document: "
    ):
        hidden_fields(document, ["评"], "ablations.X.fields")


def test_cache_is_what_the_builder_says_and_plain_zarr_reads_it(
    store: Store, builder: PromptBuilder, tokens: Tokens, tmp_path: Path
) -> None:
    num = store.num_nodes["video"]
    cuts = [0, 1, 50, 51, num]
    blocks = (tokenize_block(store, builder, a, b) for a, b in pairwise(cuts))
    counts = write_tokens(tmp_path, blocks, cache_attributes(store, builder))
    cache = open_tokens(tmp_path, cache_attributes(store, builder))
    assert counts["records"] == len(cache) == num and counts["tokens"] == len(cache.ids)
    group = zarr.open_group(str(tmp_path), mode="r")
    ends = group["piece_end"][:][group["record_end"][:] - 1]
    for v in (0, 1, 49, 50, 51, num - 1):
        (expected,) = builder.tokenize([(store.ids[v], store.texts[v])])
        found = cache.record(v)
        assert found.ids.tolist() == expected.ids.tolist() == tokens.record(v).ids.tolist()
        assert found.ends.tolist() == expected.ends.tolist()
        assert found.fields.tolist() == expected.fields.tolist()
        assert group["ids"][ends[v - 1] if v else 0 : ends[v]].tolist() == expected.ids.tolist()


def test_a_cache_of_something_else_is_refused(
    store: Store, builder: PromptBuilder, tokenizer: Any, tmp_path: Path
) -> None:
    attributes = cache_attributes(store, builder)
    write_tokens(tmp_path, [tokenize_block(store, builder, 0, 3)], attributes)
    with pytest.raises(TrainerError, match="tokens of another store"):
        open_tokens(tmp_path, {**attributes, "store": "0" * 64})
    for changed in ({"max_tokens": 901}, {"max_comments": 4}, {"seed": 1}):
        other = prompts_of(tokenizer, store, **({"max_tokens": 900, "max_comments": 5, "seed": 0} | changed))
        with pytest.raises(TrainerError, match="another tokenizer, template or limits"):
            open_tokens(tmp_path, cache_attributes(store, other))
    other_tokenizer = train_tokenizer(list(store.texts)[:20], 500)
    other = prompts_of(other_tokenizer, store, max_tokens=900)
    with pytest.raises(TrainerError, match="netgpt tokenize"):
        open_tokens(tmp_path, cache_attributes(store, other))
    with pytest.raises(TrainerError, match="found tokens of another store"):
        open_tokens(tmp_path / "nowhere", attributes)


def test_the_text_baseline_reads_the_same_cache_without_the_graph(
    store: Store, builder: PromptBuilder, tokenizer: Any
) -> None:
    plain = prompts_of(tokenizer, store, max_tokens=900, with_graph=False)
    assert plain.digest == builder.digest
    text = plain.tokenizer.decode(plain.prompt(store.ids[0], store.texts[0]).ids)
    assert "user\nPlease read the following" in text and "Graph" not in text
    whole = builder.tokenizer.decode(builder.prompt(store.ids[0], store.texts[0]).ids)
    assert whole.replace("Graph: <|graph_start|><|graph_pad|><|graph_end|>. ", "") == text


def test_permuted_labels_change_no_byte_that_a_model_reads(records_path: Path, tmp_path: Path) -> None:
    """The level of each record goes to another: prompts, features and edges stay as they are."""
    records = json.loads(records_path.read_text(encoding="utf-8"))
    levels = [r["影响力等级"] for r in records.values()]
    order = np.random.default_rng(0).permutation(len(levels))
    for record, i in zip(records.values(), order, strict=True):
        record["影响力等级"] = levels[i]
    permuted = tmp_path / "permuted.json"
    permuted.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    config = Config(encoder="hash:8", time_dim=8, video_dim=4)
    prompts, arrays, labels = [], [], []
    for name, path in (("a", records_path), ("b", permuted)):
        graphstore.build(path, tmp_path / name, config)
        store = graphstore.open(str(tmp_path / name))
        tokenizer = train_tokenizer([*list(store.texts)[:40], *instruction_texts(words_of())], 400)
        builder = prompts_of(tokenizer, store, max_tokens=900)
        prompts.append([t.ids.tobytes() for t in builder.tokenize(zip(store.ids, store.texts, strict=True))])
        files = [p for p in (tmp_path / name).rglob("*") if p.is_file() and "c" in p.parts[-3:]]
        arrays.append({p.relative_to(tmp_path / name).as_posix(): p.read_bytes() for p in files})
        labels.append(np.array(store.labels))
    assert (labels[0] != labels[1]).any() and prompts[0] == prompts[1]
    changed = {name for name in arrays[0] if arrays[0][name] != arrays[1][name]}
    assert changed == {"nodes/video/label/c/0"} and set(arrays[0]) == set(arrays[1])
