"""SMPD keeps the contract of data sets; prompts show what the paper's table says and nothing of later."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import Store, StoreError
from netgpt.graphstore.datasets.smpd import SHOWN, Smpd, choice, twin
from netgpt.graphstore.datasets.smpd.posts import Posts, PostsBuilder
from netgpt.graphstore.documents import documents
from netgpt.graphstore.errors import FormatError
from tests.contracts.dataset import DatasetTests
from tests.smpd import SCALE, built, named, plain_posts, settings_of

SETS = ("main", "prefer", "extra1", "extra2")


class TestSmpd(DatasetTests):
    dataset, config, suffix = Smpd(), settings_of(captions=twin.CAPTIONS, tpic=twin.TPIC), ""
    scale = SCALE

    def parts(self, source: Path, folder: Path) -> tuple[Path, Path]:
        for name in ("first", "second"):
            shutil.copytree(source, folder / name)
        return folder / "first", folder / "second"

    def bad(self, source: Path, folder: Path) -> Path:
        shutil.copytree(source, folder / "bad")
        path = folder / "bad" / "train_text.json"
        path.write_bytes(path.read_bytes()[:3000])
        return folder / "bad"

    def test_appending_is_building_from_all(
        self, halves: tuple[Path, Path], whole: Store, tmp_path: Path
    ) -> None:
        with pytest.raises(FormatError, match="found a store of SMPD, expected one whose relations follow"):
            graphstore.append(*halves, tmp_path / "made")

    def test_joining_in_memory_is_appending_for_the_new_nodes(
        self, halves: tuple[Path, Path], whole: Store
    ) -> None:
        with pytest.raises(StoreError, match="found posts to join sets that were drawn of all users at once"):
            self.dataset.open(halves[1], self.config, known_ids=whole.taken_ids())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smpd") / "data"
    Smpd().write_synthetic(path, SCALE, 3)
    return path


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    shutil.copytree(source, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("window", ["first", "last"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_windows_are_those_of_the_papers_table(k: int, window: str, source: Path, tmp_path: Path) -> None:
    store = built(source, tmp_path / "store", shots=k, window=window, tpic=twin.TPIC)
    users = plain_posts(source)
    pids, sets = list(store.strings("post", "pid")), named(store, "set")
    names, parts, roles = named(store, "user"), named(store, "part"), named(store, "role")
    seen: dict[str, set[str]] = {}
    rows = store.relation(SHOWN)
    expected: dict[str, tuple[list[str], str]] = {}  # by pid that is asked: what is shown, and its role
    for name, user in dict.fromkeys(zip(sets, names, strict=True)):
        seen.setdefault(name, set()).add(user)
        own = [pids[v] for v in range(len(pids)) if names[v] == user]
        if name == "tpic":
            p1, p2, p3, p4 = own
            expected[p4] = ([p1, p2, p3][:k], "test")
            continue
        assert own == [post["Pid"] for post in users[user][-5:]]
        p1, p2, p3, p4, p5 = own
        if window == "first":
            shown, asked = {1: ([p1], p2), 2: ([p1, p2], p3), 3: ([p1, p2, p3], p4)}[k]
        else:
            shown, asked = {1: ([p3], p4), 2: ([p2, p3], p4), 3: ([p1, p2, p3], p4)}[k]
        if name == "main":
            expected[asked] = (shown, "train")
        expected[p5] = ([*shown, asked], "prefer" if name == "prefer" else "test")
    assert {name: len(of) for name, of in seen.items() if name != "tpic"} == dict.fromkeys(SETS, 5)
    for v, pid in enumerate(pids):
        shown, role = expected.get(pid, ([], ""))
        assert [pids[head] for head in rows.neighbors(v).tolist()] == shown
        assert roles[v] == role and parts[v] == ("" if role == "prefer" else role)
    assert Counter(roles)["test"] == 15 + len(seen["tpic"]) and Counter(roles)["train"] == 5


def test_sets_are_disjoint_and_a_function_of_the_seed() -> None:
    users = [f"u{i}" for i in range(3000)]
    made = choice.cut(users, num=200, share=0.0, seed=1)
    assert [len(own) for own in made.values()] == [200] * 4 and list(made) == list(SETS)
    assert len({user for own in made.values() for user in own}) == 800
    assert choice.cut(users, num=200, share=0.0, seed=1) == made
    assert choice.cut(users, num=200, share=0.0, seed=2) != made
    more = choice.cut(users, num=200, share=0.02, seed=1)
    assert {name: more[name] for name in made} == made
    assert len(more["more"]) == round(0.02 * 242512 / 5) - 200 == 770
    assert not {user for own in made.values() for user in own} & {*more["more"]}
    assert len(choice.cut(users, num=200, share=0.15, seed=1)["more"]) == 2200  # all that there are
    assert [round(share * 242512 / 5) for share in (0.05, 0.10, 0.15)] == [2425, 4850, 7275]
    (everyone,) = choice.cut(users, num=0, share=0.0, seed=1).values()
    assert sorted(everyone) == sorted(users)
    with pytest.raises(StoreError, match="found 799 with enough posts, expected at least 4 sets of 200"):
        choice.cut(users[:799], num=200, share=0.0, seed=1)


def test_more_users_are_trained_on_and_never_tested(source: Path, tmp_path: Path) -> None:
    store = built(source, tmp_path / "store", users=3, share=1.0)
    seen = Counter(zip(named(store, "set"), named(store, "role"), strict=True))
    more = seen["more", "train"]
    assert more == store.attributes["smpd"]["candidates"] - 12 and seen["more", ""] == 4 * more
    assert seen["main", "train"] == seen["main", "test"] == seen["prefer", "prefer"] == 3
    assert not {("more", "test"), ("prefer", "test"), ("extra1", "train")} & seen.keys()


def posts_of(users: list[list[tuple[int, float, str]]]) -> Posts:
    """By user the (time, score, category) of posts."""
    posts, pid = PostsBuilder(), 0
    for user, own in enumerate(users):
        for time, score, category in own:
            pid += 1
            posts.add(time, score, {"pid": str(pid), "user": f"u{user}", "category": category}, {})
    return posts.posts()


a_post = st.tuples(st.integers(0, 6), st.floats(1, 15), st.sampled_from("abc"))


@given(
    st.lists(st.lists(a_post, min_size=5, max_size=8), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from(["first", "last"]),
    st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_nothing_of_later_is_shown_or_matters(
    users: list[list[tuple[int, float, str]]], k: int, window: str, random: Any
) -> None:
    """Posts may be of one moment. What comes after the post that is asked changes labels and words."""
    sets = {"main": [f"u{i}" for i in range(len(users))]}
    windows = choice.windows(5, k, window)
    posts = posts_of(users)
    chosen = choice.arrange(posts, sets, 5, *windows)
    times = posts.time[chosen.rows]
    assert (times[chosen.heads] < times[chosen.tails]).all()
    for v in np.flatnonzero(np.array(chosen.roles) == "train").tolist():
        own = posts.users[chosen.rows[v]]
        later = [row for row in range(len(posts)) if posts.users[row] == own and posts.time[row] > times[v]]
        others = [(posts.score[row], posts.texts["category"][row]) for row in later]
        random.shuffle(others)
        changed = posts_of(users)
        for row, (score, category) in zip(later, others, strict=True):
            changed.score[row] = score + 1
            changed.texts["category"][row] = category  # type: ignore[index]
        changed.score[chosen.rows[v]] += 1  # its own label is asked, and says nothing either
        again = choice.arrange(changed, sets, 5, *windows)
        assert [*again.rows, *again.roles] == [*chosen.rows, *chosen.roles]
        np.testing.assert_array_equal(again.heads[again.tails == v], chosen.heads[chosen.tails == v])
        for shown in (v, *chosen.heads[chosen.tails == v].tolist()):
            row = chosen.rows[shown]
            assert changed.texts["category"][row] == posts.texts["category"][row]
            assert shown == v or changed.score[row] == posts.score[row]


def test_settings_that_cannot_be_are_refused(source: Path, tmp_path: Path) -> None:
    for changed, message in (
        ({"shots": 4}, "shots: found 4, expected a number from 1 to 3"),
        ({"shots": 0}, "shots: found 0"),
        ({"shots": 4, "posts": 6, "tpic": "tpic"}, "shots: found 4, expected a number from 1 to 3"),
        ({"posts": 2}, "posts: found 2, expected a number from 3"),
        ({"window": "middle"}, "window: found 'middle', expected one of first, last"),
        ({"share": 0.5, "users": 0}, "share: found 0.5, expected 0, as users: 0 takes all"),
        ({"share": 1.5}, "share: found 1.5, expected one from 0 to 1"),
    ):
        with pytest.raises(StoreError, match=message):
            settings_of(**changed)
    with pytest.raises(
        StoreError, match=r"users: found \d+ with enough posts, expected at least 4 sets of 90"
    ):
        built(source, tmp_path / "store", users=90)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        StoreError, match=r"found none of SMPD's files, expected a folder with train_label.txt"
    ):
        Smpd().open(tmp_path / "empty")


def test_posts_that_are_gone_are_left_out_and_captions_are_kept(folder: Path, tmp_path: Path) -> None:
    users = plain_posts(folder)
    user = next(name for name, own in sorted(users.items()) if len(own) == 5)
    gone = users[user][-1]["Pid"]
    (folder / "gone.txt").write_text(f"{gone}\n987654321\n\n")
    store = built(folder, tmp_path / "store", users=0, leave_out="gone.txt", captions=twin.CAPTIONS)
    assert user not in named(store, "user") and set(named(store, "set")) == {"main"}
    captions = [json.loads(line) for line in (folder / twin.CAPTIONS).read_text().splitlines()]
    said = {one["Pid"]: one["caption"] for one in captions}
    pids = list(store.strings("post", "pid"))
    assert list(store.strings("post", "caption")) == [said[pid] for pid in pids]
    assert store.attributes["smpd"]["candidates"] == sum(len(own) >= 5 for own in users.values()) - 1
    (folder / "gone.txt").write_text("1 2\n")
    with pytest.raises(StoreError, match=r"gone.txt: record '0': field 'pid': found '1 2', expected one pid"):
        built(folder, tmp_path / "again", leave_out="gone.txt")
    for text, message in (
        ("{}\n", "record '0': field 'Pid': found no such field"),
        ("[1]\n", "record '0': found '\\[1\\]', expected a JSON object a line"),
        (f'{{"Pid": {pids[0]}, "caption": "a"}}\n' * 2, "record '1': field 'Pid': .*expected each once"),
    ):
        (folder / "c.jsonl").write_text(text)
        with pytest.raises(StoreError, match=message):
            built(folder, tmp_path / "again", users=0, captions="c.jsonl")
    with pytest.raises(StoreError, match=r"none.jsonl: found what cannot be read"):
        built(folder, tmp_path / "again", captions="none.jsonl")


def test_a_document_shows_the_papers_words(source: Path, tmp_path: Path) -> None:
    store = built(source, tmp_path / "store", tpic="tpic", captions=twin.CAPTIONS)
    (document,) = store.schema.documents
    assert document.is_prose and document.closing == "Provide the popularity score for this new post."
    roles, sets = named(store, "role"), named(store, "set")
    asked = [v for v, role in enumerate(roles) if role]
    for v, (pid, text) in zip(asked, documents(store, document, asked), strict=True):
        shown = json.loads(text)
        assert shown["pid"] == pid and "score" not in shown and "tags" not in shown
        heads = store.relation(SHOWN).neighbors(v).tolist()
        pids = store.strings("post", "pid")
        assert [one["pid"] for one in shown["history"]] == [pids[head] for head in heads]
        assert all("score" in one for one in shown["history"])
        assert ("shown_tags" in shown) == (sets[v] == "tpic") == ("category" not in shown)


def grid(num: int) -> set[float]:
    return {round(float(np.log2(v + 1)), 2) for v in range(1, num)}


def test_scores_of_the_twin_are_of_whole_views_and_history_tells_them() -> None:
    made = twin.make(0.05, 0)
    posts = made.posts
    small = {round(float(score), 2) for score in posts.score if score < 7}
    assert small <= grid(200) and posts.score.min() >= 1
    counts = Counter(posts.users)
    assert sum(num >= 5 for num in counts.values()) > 800 and max(counts.values()) <= 40
    assert 1500 <= len(counts) <= 1600 and 11_000 < len(posts) < 13_500
    assert len({*zip(posts.users, posts.time.tolist(), strict=True)}) == len(posts)
    months = sorted(str(one) for one in np.unique(posts.time.astype("datetime64[s]").astype("datetime64[M]")))
    assert (months[0], months[-1], len(months)) == ("2015-03", "2016-02", 12)
    rows = choice.latest(posts, choice.candidates(posts.users, 5), 5).values()
    truth = np.array([posts.score[own[4]] for own in rows])
    history = np.array([posts.score[own[:4]].mean() for own in rows])
    constant = np.abs(truth - np.median(truth)).mean()
    assert np.abs(truth - history).mean() < 0.8 * constant
    # The category helps beside the user's level
    _, user = np.unique(np.array(posts.users), return_inverse=True)
    _, category = np.unique(np.array(posts.texts["category"]), return_inverse=True)
    left = posts.score - (np.bincount(user, posts.score) / np.bincount(user))[user]
    better = left - (np.bincount(category, left) / np.bincount(category))[category]
    assert (better**2).mean() < 0.98 * (left**2).mean()
