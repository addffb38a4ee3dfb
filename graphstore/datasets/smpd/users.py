"""Which users are in which set, which of their posts are asked, and what is shown before each.

p1 … pn are a user's n latest posts by (time, pid). With k shots a training prompt shows p1 … pk and asks
p(k+1) (window `first`), or shows p(n-1-k) … p(n-2) and asks p(n-1) (window `last`); the test prompt shows
the same posts and the one that was asked, and asks pn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from netgpt.graphstore.datasets.smpd.posts import Posts, pid_order
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.mixing import seed_of

MAIN, PREFER, MORE, TPIC = "main", "prefer", "more", "tpic"
SETS = (MAIN, PREFER, "extra1", "extra2")
"""Sets of users in the order that they are cut in."""
TRAIN, TEST = "train", "test"
TPIC_POSTS = 4
"""Latest posts of a user of TPIC2017."""
PAPER_POSTS, PAPER_SHARE = 242_512, 5
"""Posts of the paper's data, and by how many of them a share of it counts one user."""


@dataclass(frozen=True)
class Window:
    """One prompt: places among a user's posts, the oldest 0."""

    shown: tuple[int, ...]
    asked: int


@dataclass(frozen=True)
class Chosen:
    """Posts of the users of all sets, and what is asked of them: [n] each; edges [e]."""

    rows: list[int]
    """Row in the source's posts, by set, user and time."""
    sets: list[str]
    parts: list[str]
    """train, test, or empty where no loader takes it: history, and what the preference pairs ask."""
    roles: list[str]
    """train, test or prefer of a post that is asked; empty of others."""
    heads: np.ndarray
    """Places among the rows, int64: the post that is shown."""
    tails: np.ndarray
    """The post that is asked."""


def windows(num: int, shots: int, window: str) -> tuple[Window, Window]:
    """The training and the test prompt of a user's `num` posts, of which there are shots + 2 at least."""
    if window == "last":
        first = num - 2 - shots
        return Window(tuple(range(first, num - 2)), num - 2), Window(tuple(range(first, num - 1)), num - 1)
    return Window(tuple(range(shots)), shots), Window(tuple(range(shots + 1)), num - 1)


def tpic_window(shots: int) -> Window:
    """The test prompt of the four posts of a user of TPIC2017, whatever the window."""
    return Window(tuple(range(shots)), TPIC_POSTS - 1)


def candidates(users: Iterable[str], least: int) -> list[str]:
    """Users with `least` posts and more, by their characters."""
    return sorted(user for user, num in Counter(users).items() if num >= least)


def cut(users: Sequence[str], *, num: int, share: float, seed: int) -> dict[str, list[str]]:
    """The users of each set, of one shuffle that is a function of the seed.

    num: users of each of the four sets; 0: all are the main one. With a share of the paper's data, users that
    are in no set are `more`, so that these and the main ones are that share, or all there are. StoreError for
    fewer users than the sets have.
    """
    order = np.random.default_rng(seed_of(seed, "users")).permutation(len(users))
    drawn = [users[i] for i in order]
    if not drawn or len(drawn) < len(SETS) * num:
        expected = f"at least {len(SETS)} sets of {num}" if num else "some"
        raise StoreError(f"users: found {len(drawn)} with enough posts, expected {expected}")
    if not num:
        return {MAIN: drawn}
    made = {name: drawn[i * num : (i + 1) * num] for i, name in enumerate(SETS)}
    wanted = round(share * PAPER_POSTS / PAPER_SHARE) - num
    if wanted > 0:
        made[MORE] = drawn[len(SETS) * num :][:wanted]
    return made


def latest(posts: Posts, users: Iterable[str], num: int) -> dict[str, list[int]]:
    """By user the rows of the `num` latest posts by (time, pid), the oldest first."""
    of_user: dict[str, list[int]] = {user: [] for user in users}
    for row, user in enumerate(posts.users):
        if user in of_user:
            of_user[user].append(row)
    times, pids = posts.time, posts.pids
    for rows in of_user.values():
        rows.sort(key=lambda row: (int(times[row]), pid_order(pids[row])))
        del rows[:-num]
    return of_user


def prompts(name: str, train: Window, test: Window) -> dict[str, Window]:
    """By role the prompts that are asked of each user of a set."""
    if name == MORE:
        return {TRAIN: train}
    if name == PREFER:
        return {PREFER: test}
    return {TRAIN: train, TEST: test} if name == MAIN else {TEST: test}


def arrange(posts: Posts, sets: Mapping[str, Sequence[str]], num: int, train: Window, test: Window) -> Chosen:
    """The posts of all sets and what is asked. A post that is shown is earlier than the one that is asked: of
    one moment it is left out."""
    rows_of = latest(posts, (user for users in sets.values() for user in users), num)
    rows: list[int] = []
    names: list[str] = []
    roles: list[str] = []
    edges: list[tuple[int, int]] = []
    for name, users in sets.items():
        asked = prompts(name, train, test)
        role_of = {window.asked: role for role, window in asked.items()}
        for user in users:
            own, first = rows_of[user], len(rows)
            rows += own
            names += [name] * num
            roles += [role_of.get(place, "") for place in range(num)]
            for window in asked.values():
                moment = posts.time[own[window.asked]]
                edges += [
                    (first + place, first + window.asked)
                    for place in window.shown
                    if posts.time[own[place]] < moment
                ]
    heads, tails = np.array(edges, np.int64).reshape(-1, 2).T
    parts = [role if role in (TRAIN, TEST) else "" for role in roles]
    return Chosen(rows, names, parts, roles, heads, tails)


def joined(one: Chosen, other: Chosen, num_posts: int) -> Chosen:
    """Both, the other's posts behind the first's. num_posts: of the first's source."""
    first = len(one.rows)
    return Chosen(
        one.rows + [row + num_posts for row in other.rows],
        one.sets + other.sets,
        one.parts + other.parts,
        one.roles + other.roles,
        np.concatenate([one.heads, other.heads + first]),
        np.concatenate([one.tails, other.tails + first]),
    )
