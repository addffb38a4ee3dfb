"""Documents in sentences, and earlier examples in prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import Document, Store
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets.tables import write_tables
from netgpt.graphstore.document_types import Field, Newest
from netgpt.graphstore.documents import documents, newest_heads
from netgpt.trainers.config import EvaluationConfig, HistoryConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model.tiny import train_tokenizer
from netgpt.trainers.language.text.fields import HISTORY, document_of
from netgpt.trainers.language.text.form import form_of
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.template import Words, instruction_texts
from netgpt.trainers.tasks.evaluate import Judge
from netgpt.trainers.tasks.regression import Regression, RegressionConfig
from netgpt.trainers.tasks.split import SplitConfig

EDGE = ("post", "is_shown_to", "post")
POST = (
    Field("pid"),
    Field("title", phrase="The title of post {pid} is {}"),
    Field("category", phrase="the category is {}"),
    Field("caption", phrase="The photo in the post shows {}"),
    Field("score", phrase="The popularity score of post {pid} is {:.2f}"),
)
PROSE = Document(
    "post",
    "",
    (
        Field("user", phrase="The target user ID is {}. His posts are as follows:"),
        Field("history", newest=Newest(EDGE, 4, POST, oldest_first=True, behind="score")),
        Field("pid", phrase="The target new post is {}"),
        Field("title", phrase="the title is {}"),
        Field("caption", phrase="The photo in the new post shows {}"),
    ),
    closing="Provide the score.",
)


def said(record: dict[str, Any], document: Document = PROSE) -> str:
    form = form_of(document)
    return form.opening + form.between.join(form.pieces(record)) + form.closing


def test_sentences_are_the_papers() -> None:
    history = [
        {"pid": "11", "title": "Old car", "category": "Car", "caption": "a car.", "score": 7.5},
        {"pid": "12", "title": "Boat", "category": "Sea", "score": 10},
    ]
    record = {"user": "u@1", "history": history, "pid": "13", "title": "Hat", "caption": "a hat"}
    assert said(record) == (
        " The target user ID is u@1. His posts are as follows: The title of post 11 is Old car, the category "
        "is Car. The photo in the post shows a car. The title of post 12 is Boat, the category is Sea. The "
        "popularity score of post 11 is 7.50. The popularity score of post 12 is 10.00. The target new post "
        "is 13, the title is Hat. The photo in the new post shows a hat. Provide the score."
    )


def test_what_is_missing_is_not_said() -> None:
    record = {"history": [{"pid": "1", "category": "Sea", "score": 2.0}, {"title": "No number"}], "pid": "2"}
    assert said(record) == (
        " The category is Sea. The popularity score of post 1 is 2.00. The target new post is 2. Provide the "
        "score."
    )
    assert said({"title": "Hat"}) == " The title is Hat. Provide the score."
    assert said({}) == " Provide the score."


def test_the_first_clause_there_is_may_say_more() -> None:
    fields = (
        Field("pid"),
        Field("title", phrase="The title of post {pid} is {}"),
        Field("category", phrase="the category is {} | The category of post {pid} is {}"),
        Field("score", phrase="The score of post {pid} is {}"),
    )
    field = Field("history", newest=Newest(EDGE, 4, fields, behind="score"))
    document = Document("post", "", (field,))
    whole = {"pid": "1", "title": "Hat", "category": "Sea", "score": 2}
    history = [whole, {"pid": "2", "category": "Sea"}]
    assert said({"history": history}, document) == (
        " The title of post 1 is Hat, the category is Sea. The category of post 2 is Sea. The score of post 1"
        " is 2."
    )


def test_json_is_as_it_was() -> None:
    document = Document("post", "", (Field("a"), Field("b")))
    record = {"a": 'x "y" 标题', "b": [1, {"c": 2.5}]}
    assert said(record, document) == '{ "a": "x \\"y\\" 标题", "b": [1, {"c": 2.5}]}'
    assert json.loads(said(record, document)) == record and form_of(document).to_json() is None


def test_documents_go_to_json_and_back() -> None:
    raw = json.loads(json.dumps(PROSE.to_dict()))
    assert Document.from_dict(raw) == PROSE
    plain = Document("post", "", (Field("a"), Field("b", newest=Newest(EDGE, 2, (Field("c"),)))))
    assert Document.from_dict(plain.to_dict()) == plain
    text = json.dumps(plain.to_dict())
    assert not any(f'"{key}"' in text for key in ("phrase", "closing", "apart", "known_s", "behind"))


def test_phrases_that_name_nothing_are_problems() -> None:
    phrases = {
        "a": "A {b}",
        "c": "C {",
        "d": "{} of {}",
        "e": "{:{w}}",
        "f": "{:.2f}",
        "g": "the {} | The {}",
    }
    one = Document("post", "", tuple(Field(name, phrase=phrase) for name, phrase in phrases.items()))
    problems = list(one.phrase_problems())
    assert [problem[0] for problem in problems] == ["a", "c", "d", "e"]
    assert "which names b" in problems[0] and "phrase 'C {'" in problems[1]
    behind = replace(PROSE.fields[1], newest=replace(PROSE.fields[1].newest, behind="x"))  # type: ignore[type-var]
    assert "'x' behind all heads" in next(replace(PROSE, fields=(behind,)).phrase_problems())


# Earlier examples


DAY = 86_400


def films(seed: int, num: int = 40) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "key": [f"f{i}" for i in range(num)],
        "title": [f"title {i}" for i in range(num)],
        "at": random.integers(0, 12, num) * DAY,
        "maker": [f"m{i}" for i in random.integers(0, 4, num)],
        "series": [f"s{i}" if i else "" for i in random.integers(0, 6, num)],
        "views": random.integers(0, 99, num).astype(float),
    }


def built(folder: Path, rows: dict[str, Any]) -> Store:
    columns = {"title": "text", "at": "time", "maker": "category", "series": "category", "views": "number"}
    about = {"key": "key", "time": "at", "columns": columns, "document": ["title"], "features": ["title"]}
    groups = [{"name": "by_same_maker", "of": "film", "group": "maker"}]
    path = write_tables(folder / "tables", {"film": rows}, {"tables": {"film": about}, "relations": groups})
    graphstore.build(path, folder / "store", BuildConfig(encoder="hash:8"))
    return graphstore.open(folder / "store")


def plain_history(rows: dict[str, Any], v: int, config: HistoryConfig) -> list[dict[str, Any]]:
    """By the definition: the newest earlier ones of the same maker; of one moment the later row first."""
    made: list[int] = []
    seen = {rows["series"][v]} - {""} if config.apart else set()
    earlier = [
        u
        for u in range(len(rows["key"]))
        if rows["maker"][u] == rows["maker"][v]
        and rows["at"][u] < rows["at"][v]
        and rows["at"][u] + config.known_days * DAY <= rows["at"][v]
    ]
    for u in sorted(earlier, key=lambda u: (-rows["at"][u], -u)):
        if config.apart and rows["series"][u] and rows["series"][u] in seen:
            continue
        if config.apart and rows["series"][u]:
            seen.add(rows["series"][u])
        made.append(u)
    shown = made[: config.num][::-1]
    return [{"title": rows["title"][u], "views": int(rows["views"][u])} for u in shown]


@pytest.mark.parametrize(
    "config",
    [
        HistoryConfig(relation="by_same_maker", num=3, fields=["title"]),
        HistoryConfig(relation="by_same_maker", num=2, fields=["title"], apart="series"),
        HistoryConfig(relation="by_same_maker", num=50, fields=["title"], known_days=3.0),
    ],
)
def test_the_newest_earlier_examples_with_their_labels(config: HistoryConfig, tmp_path: Path) -> None:
    rows = films(0)
    store = built(tmp_path, rows)
    document = document_of(store, "views", config)
    assert document.fields[0].name == HISTORY and [f.name for f in document.fields[1:]] == ["title"]
    some = 0
    for v, (_, text) in enumerate(documents(store, document, range(40))):
        record, expected = json.loads(text), plain_history(rows, v, config)
        assert record.get(HISTORY, []) == expected
        assert record["title"] == rows["title"][v]
        some += len(expected) > 1
    assert some > 5


def test_what_the_shown_labels_come_to_is_a_baseline(tmp_path: Path) -> None:
    rows, config = films(0), HistoryConfig(relation="by_same_maker", num=3, apart="series")
    store = built(tmp_path, rows)
    task = Regression(RegressionConfig(name="regression", label="views", split=SplitConfig(by="random")))
    examples, document = task.examples(store), document_of(store, "views", config)
    assert not any("history" in name for name in task.judge(store, EvaluationConfig()).baseline_metrics())
    judge = task.judge(store, EvaluationConfig(), document)
    assert isinstance(judge, Judge)
    assert "trees with the history" in judge.baselines
    fallback, some = examples.truth[examples.train].mean(), 0
    for name, of in {"last": lambda x: x[-1], "mean": np.mean, "median": np.median}.items():
        found = judge.baselines[f"{name} of the history"].scores
        assert found is not None
        for v, score in zip(examples.test.tolist(), found.tolist(), strict=True):
            shown = [one["views"] for one in plain_history(rows, v, replace(config, fields=["title"]))]
            assert score == pytest.approx(of(shown) if shown else fallback)
            some += len(shown) > 1
    assert some > 5


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.integers(0, 39))
def test_nothing_later_and_no_own_label_changes_a_prompt(
    tmp_path_factory: pytest.TempPathFactory, seed: int, asked: int
) -> None:
    """Not a byte of it: what comes at or after its time gets other titles, makers, series and labels."""
    rows, random = films(seed), np.random.default_rng(seed + 1)
    other = {name: list(column) for name, column in rows.items()}
    for u in range(40):
        if u == asked:
            other["views"][u] = float(random.integers(100, 200))
        elif rows["at"][u] >= rows["at"][asked]:
            other["views"][u] = float(random.integers(100, 200))
            other["title"][u] = f"another {random.integers(100)}"
            other["maker"][u] = f"m{random.integers(0, 4)}"
            other["series"][u] = f"s{random.integers(1, 6)}"
    config = HistoryConfig(relation="by_same_maker", num=3, fields=["title"], apart="series")
    prompts = []
    words = Words("How often seen? ", "Views: ", (), "-88888.8")
    tokenizer = train_tokenizer([*rows["title"], *instruction_texts(words), HISTORY, "views", "title"], 400)
    for one in (rows, other):
        store = built(tmp_path_factory.mktemp("films"), one)
        document = document_of(store, "views", config)
        builder = PromptBuilder(
            tokenizer, document, words, max_tokens=400, max_comments=0, seed=0, with_graph=False
        )
        ((name, text),) = documents(store, document, [asked])
        prompts.append((text, builder.prompt(name, text).ids.tobytes()))
    assert prompts[0] == prompts[1]


def test_too_long_the_oldest_go_first(tmp_path: Path) -> None:
    store = built(tmp_path, films(2))
    config = HistoryConfig(relation="by_same_maker", num=9, fields=["title"])
    document = document_of(store, "views", config)
    words = Words("How often seen? ", "Views: ", (), "-88888.8")
    texts = dict(documents(store, document, range(40)))
    tokenizer = train_tokenizer([*texts.values(), *instruction_texts(words)], 500)
    name, text = max(texts.items(), key=lambda one: len(json.loads(one[1]).get(HISTORY, [])))
    whole = json.loads(text)[HISTORY]
    lengths = []
    for most in (400, 150, 128):
        builder = PromptBuilder(tokenizer, document, words, max_tokens=most, max_comments=0, seed=0)
        prompt = builder.prompt(name, text)
        shown = tokenizer.decode(prompt.ids)
        kept = [one for one in whole if f'"{one["title"]}"' in shown]
        assert kept == whole[len(whole) - len(kept) :]
        lengths.append(len(kept))
        assert len(prompt.ids) + len(builder.written("-88888.8")) <= most
    assert lengths[0] == len(whole) > lengths[1] >= lengths[2]


def test_texts_of_neighbours_are_cut_before_any_goes() -> None:
    """Captions first, the longest most, then titles; numbers and ids never."""
    fields = tuple(replace(one, cut={"caption": 1, "title": 2}.get(one.name, 0)) for one in POST)
    inner = Newest(EDGE, 4, fields, oldest_first=True, behind="score")
    own = [replace(one, cut={"caption": 1, "title": 2}.get(one.name, 0)) for one in PROSE.fields]
    own[1] = replace(PROSE.fields[1], newest=inner)
    document = replace(PROSE, fields=tuple(own))
    words = Words("Say it. ", "", (), "-88888.88")
    history = [
        {"pid": str(i), "title": f"title {i} " * 4, "caption": "a photo of it " * (i + 2), "score": i + 0.5}
        for i in range(3)
    ]
    record = {"user": "u", "history": history, "pid": "9", "title": "the title", "caption": "words " * 9}
    tokenizer = train_tokenizer([said(record, document), *instruction_texts(words)], 400)
    text, whole, seen = json.dumps(record), 0, []
    for share in (1.0, 0.85, 0.7, 0.62):
        most = int(share * whole) if whole else 1000
        builder = PromptBuilder(
            tokenizer, document, words, max_tokens=most, max_comments=0, seed=0, with_graph=False
        )
        prompt = builder.prompt("9", text)
        whole = whole or len(prompt.ids) + len(builder.written(words.longest))
        shown = tokenizer.decode(prompt.ids)
        assert len(prompt.ids) <= most and all(f"post {i} is {i + 0.5:.2f}" in shown for i in range(3))
        assert "The target new post is 9" in shown
        seen.append((shown.count("photo of it"), shown.count("title "), prompt.tokens.cut_characters))
    photos, titles, cut = zip(*seen, strict=True)
    assert list(photos) == sorted(photos, reverse=True) and photos[0] > photos[1] and photos[-1] == 0
    assert titles[0] == titles[1] > titles[-1] and cut[0] == 0 < cut[1] < cut[-1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"relation": "by_no_one"}, "language.history.relation: found 'by_no_one', expected one of by"),
        ({"fields": ["views"]}, r"language.history.fields: found 'views'"),
        ({"fields": ["plot"]}, r"found 'plot', expected some of title"),
        ({"apart": "at"}, r"history.apart: found 'at', expected a category"),
    ],
)
def test_what_a_history_cannot_be_is_one_line(config: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = HistoryConfig(**{"relation": "by_same_maker", **config})
    with pytest.raises(TrainerError, match=message):
        document_of(built(tmp_path, films(0)), "views", made)


def test_states_of_one_video_do_not_tell_each_others_level(store: Store) -> None:
    """XS-Video says so itself: no other state of the same video, and levels that are final."""
    (url, _), day = store.category("video", "url"), store.times["video"]
    for relation in ("has_same_author_as", "is_history_of"):
        document = document_of(store, "label", HistoryConfig(relation=relation, num=50))
        newest = document.fields[0].newest
        assert newest is not None and newest.apart == "url" and newest.known_s == 14 * DAY
        heads, some = newest_heads(store, newest), 0
        for v in range(store.num_nodes["video"]):
            found = heads(v)
            some += len(found)
            assert not any(url[u] == url[v] for u in found)
            assert all(day[u] + 14 * DAY <= day[v] for u in found)
        assert (some > 0) == (relation == "has_same_author_as")
    with pytest.raises(
        TrainerError, match=r"history.apart: found 'author', expected url, which says the label"
    ):
        document_of(store, "label", HistoryConfig(relation="has_same_author_as", apart="author"))


def test_a_history_that_would_tell_the_label_is_refused(tmp_path: Path) -> None:
    """Grouped by the label's own column, its members tell it."""
    rows = films(0)
    store = built(tmp_path, rows)
    with pytest.raises(TrainerError, match=r"task\.label"):
        document_of(store, "at", HistoryConfig(relation="by_same_maker"))
