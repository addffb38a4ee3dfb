"""SMPD and TPIC2017 as MultiSmpLLM (Wang et al., 2024) uses them: posts of users, and what is shown before
each.

A source is a folder with the official files of SMPD's train part (`files`), under the names of either
generation, or a CSV of real labels without users, whose runs of consecutive pids stand in for them
(`proxy`). Users are drawn into disjoint sets (`users`): `main`, which is trained on and tested later in
time, `prefer`, whose labels only preference pairs see, and the test sets `extra1`, `extra2` and, of TPIC2017
(`tpic`), `tpic`. The posts of those users alone are nodes. What a prompt shows before a post that is asked
is the relation `is_shown_to`.

Sets are drawn of all users at once, so that no post can be appended. The data need a licence, and none of
them are in this repository.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from netgpt.graphstore.dataset import Block, BuildConfig, Dataset, Facts, ReadReport, Source
from netgpt.graphstore.datasets.smpd import files, proxy, tpic, twin
from netgpt.graphstore.datasets.smpd import users as choice
from netgpt.graphstore.datasets.smpd.posts import CATEGORIES, NUMBERS, Posts
from netgpt.graphstore.document_types import Document, Field, Newest
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import Json, file_digest, value_digest
from netgpt.graphstore.relation_types import EdgeType, RelationType
from netgpt.graphstore.schema import Column, NodeType, Schema
from netgpt.graphstore.sort import CHUNK_EDGES, Piece
from netgpt.graphstore.store import Store

POST = "post"
SHOWN: EdgeType = (POST, "is_shown_to", POST)
LINKED = ("user", "category", "subcategory", "concept")
"""Categories whose values are nodes."""
MOST_SHOTS = 8
"""Posts of a prompt's history, or as many as there are shots."""
_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class SmpdConfig(BuildConfig):
    """Which users are drawn, and what is shown before which of their posts."""

    dataset: ClassVar[str] = "smpd"

    shots: int = 3
    """k: posts that a training prompt shows; from 1 to posts - 2."""
    window: str = "first"
    """What a training prompt asks: first: the earliest of the posts that are not shown; last: the one right
    before the newest. The paper says both; they are the same where shots = posts - 2."""
    posts: int = 5
    """Latest posts of a user that are kept; who has fewer is none."""
    users: int = 200
    """Of each of the four sets; 0: all are the main one."""
    share: float = 0.0
    """Share of the paper's data, whose users are trained on too: 0.05 is 2,425 of them. Tests stay."""
    seed: int = 0
    """Of the one shuffle that the sets are cut from."""
    leave_out: str = ""
    """File with a pid a line, beside the source, of posts that are no longer there."""
    captions: str = ""
    """File of JSON lines {"Pid": …, "caption": …}, beside the source."""
    tpic: str = ""
    """Folder of TPIC2017's files, beside the source, whose users are one more test set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("window", ("first", "last"))
        most = min(self.posts - 2, choice.TPIC_POSTS - 1) if self.tpic else self.posts - 2
        for name, low, high in (
            ("posts", 3, 1 << 20),
            ("shots", 1, most),
            ("users", 0, 1 << 30),
            ("seed", 0, (1 << 30) - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise StoreError(
                    f"{name}: found {getattr(self, name)}, expected a number from {low} to {high}"
                )
        if not 0 <= self.share <= (1 if self.users else 0):
            expected = "one from 0 to 1" if self.users else "0, as users: 0 takes all"
            raise StoreError(f"share: found {self.share:g}, expected {expected}")


def document_of(config: SmpdConfig) -> Document:
    """The paper's prompt: a user's posts that are shown, the oldest first, their scores, and the post that is
    asked. A post without a title begins with its category."""

    def words(own: bool) -> tuple[Field, ...]:
        """What is said of a post: of the one that is asked (own), or of one before it."""
        begins = "the {0} is {{}}" if own else "the {0} is {{}} | The {0} of post {{pid}} is {{}}"
        title = "the title is {}" if own else "The title of post {pid} is {}"
        length = "the title length is {}" if own else "The title length of post {pid} is {}"
        photo = "The photo in the new post shows {}" if own else "The photo in the post shows {}"
        return (
            Field("title", free=True, cut=2, phrase=title),
            Field("category", phrase=begins.format("category")),
            Field("subcategory", phrase=begins.format("subcategory")),
            Field("concept", phrase=begins.format("concept")),
            Field("shown_title_length", phrase=length),
            Field("shown_tags", phrase="the number of tags is {}"),
            Field("date", free=True, phrase="the release date is {}"),
            Field("caption", free=True, cut=1, phrase=photo),
        )

    score = Field("score", phrase="The popularity score of post {pid} is {:.2f}")
    before = Newest(
        SHOWN,
        max(MOST_SHOTS, config.shots + 1),
        (Field("pid", free=True), *words(own=False), score),
        oldest_first=True,
        behind="score",
    )
    head = "The target user ID is {}. The information and popularity of the posts published by this user are "
    return Document(
        POST,
        "",
        (
            Field("user", free=True, phrase=f"{head}as follows:"),
            Field("history", free=True, newest=before),
            Field("pid", free=True, phrase="The target new post is {}"),
            *words(own=True),
        ),
        closing="Provide the popularity score for this new post.",
    )


def schema_of(config: SmpdConfig) -> Schema:
    """Posts, the values of their categories, and what is shown to what."""
    columns = (
        *(Column("pid", "id", title="post"), Column("title", "text"), Column("caption", "text")),
        *(Column(name, "category") for name in CATEGORIES),
        Column("score", "number", title="popularity score"),
        *(Column(name, "number", title=name.replace("_", " ")) for name in NUMBERS),
        Column("time", "time", title="post time"),
        Column("date", "text", title="release date"),
        Column("part", "category"),
        Column("set", "category", title="set of users"),
        Column("role", "category", title="what it is asked for"),
    )
    post = NodeType(name=POST, encoding="text", inputs=("title",), columns=columns, time="time")
    values = tuple(
        NodeType(
            name=name, encoding="none" if name == "user" else "text", origin="values", of=POST, column=name
        )
        for name in LINKED
    )
    relations = [RelationType(edge_type=SHOWN)]
    for name in LINKED:
        is_user = name == "user"
        relations += [
            RelationType(edge_type=(name, "published" if is_user else f"is_{name}_of", POST), column=name),
            RelationType(
                edge_type=(POST, "is_published_by" if is_user else f"has_{name}", name), column=name
            ),
        ]
    return Schema(
        target=POST,
        node_types=(post, *values),
        relations=tuple(relations),
        documents=(document_of(config),),
    )


class PostSource(Source):
    """The posts of the users that are drawn. All posts are read once; those of no set are let go."""

    def __init__(
        self,
        place: Path | None,
        config: SmpdConfig,
        report: ReadReport | None = None,
        *,
        made: twin.Made | None = None,
        said: str = "",
    ) -> None:
        """made: posts that come from no file; said: what their digest is of."""
        self.place, self.config, self._made, self._said = place, config, made, said
        self.file = str(place) if place else said
        self.report = report if report is not None else ReadReport()
        self._is_proxy = place is not None and not place.is_dir()
        self.schema = schema_of(config)
        self.counts: Json = {}
        """Posts and users that there are, and users of each set, once posts are read."""

    def _beside(self, name: str) -> Path:
        assert self.place is not None
        return (self.place.parent if self._is_proxy else self.place) / name

    def digest(self) -> str:
        config = self.config
        if self.place is None:
            return value_digest(self._said)
        paths = [self.place] if self._is_proxy else list(files.find_files(self.place).values())
        paths += [self._beside(name) for name in (config.leave_out, config.captions) if name]
        if config.tpic:
            paths += tpic.find_files(self._beside(config.tpic)).values()
        for path in paths:
            if not path.is_file():
                raise StoreError(f"{path}: found no such file, expected one")
        return value_digest([file_digest(path) for path in paths])

    def _read(self) -> Posts:
        if self._made is not None:
            return self._made.posts
        assert self.place is not None
        read = proxy.read_runs if self._is_proxy else files.read_posts
        return read(self.place, self.report, skips=self.config.on_error == "skip")

    def _captions(self, wanted: set[str]) -> Mapping[str, str]:
        if not self.config.captions:
            return {}
        if self._made is not None:
            return self._made.captions
        return files.read_captions(self._beside(self.config.captions), wanted)

    @cached_property
    def _chosen(self) -> tuple[Posts, choice.Chosen, list[str]]:
        """The posts that are nodes, what is asked of them, and their captions."""
        config = self.config
        self.report.clear()
        posts = self._read()
        num_read = len(posts)
        if config.leave_out and self._made is None:
            gone = files.read_pids(self._beside(config.leave_out))
            posts = posts.take([row for row, pid in enumerate(posts.pids) if pid not in gone])
        there = choice.candidates(posts.users, config.posts)
        try:
            sets = choice.cut(there, num=config.users, share=config.share, seed=config.seed)
        except StoreError as error:
            raise StoreError(
                f"{self.file}: {error} ({config.posts} posts each; {len(posts):,} posts)"
            ) from None
        num_users = {name: len(users) for name, users in sets.items()}
        windows = choice.windows(config.posts, config.shots, config.window)
        chosen = choice.arrange(posts, sets, config.posts, *windows)
        posts, chosen = posts.take(chosen.rows), replace(chosen, rows=list(range(len(chosen.rows))))
        captions = self._captions(set(posts.pids))
        said = [captions.get(pid, "") for pid in posts.pids]
        if config.tpic:
            others, asked = self._tpic(posts)
            num_users[choice.TPIC] = len(others) // choice.TPIC_POSTS
            chosen = choice.joined(chosen, asked, len(posts))
            posts = posts.followed_by(others)
            said += [""] * len(others)
        self.report.num_read = len(posts)
        self.counts = {"read": num_read, "candidates": len(there), "users": num_users}
        return posts, chosen, said

    def _tpic(self, own: Posts) -> tuple[Posts, choice.Chosen]:
        """The latest posts of all users of TPIC2017 that have enough; ids that `own` has too are marked."""
        if self._made is not None:
            posts = self._made.tpic
        else:
            folder = self._beside(self.config.tpic)
            posts = tpic.read_posts(folder, self.report, skips=self.config.on_error == "skip")
        users = choice.candidates(posts.users, choice.TPIC_POSTS)
        if not users:
            raise StoreError(
                f"{self.config.tpic}: found no user with {choice.TPIC_POSTS} posts, expected some"
            )
        window = choice.tpic_window(self.config.shots)
        asked = choice.arrange(posts, {choice.TPIC: users}, choice.TPIC_POSTS, window, window)
        posts = posts.take(asked.rows)
        texts = dict(posts.texts)
        for name in ("pid", "user"):
            taken = set(own.texts[name])
            texts[name] = [f"tpic-{one}" if one in taken else one for one in texts[name]]
            if num := sum(one in taken for one in posts.texts[name]):
                self.report.notes.append(f"{num:,} posts of TPIC2017 have a {name} of SMPD's: now tpic-…")
        return replace(posts, texts=texts), replace(asked, rows=list(range(len(asked.rows))))

    def attributes(self) -> Json:
        _ = self._chosen
        return {"smpd": self.counts}

    def blocks(self) -> Iterator[Block]:
        posts, chosen, captions = self._chosen
        for first in range(0, len(posts), _ROWS):
            part = slice(first, min(first + _ROWS, len(posts)))
            columns: dict[str, Any] = {name: list(texts[part]) for name, texts in posts.texts.items()}
            columns |= {name: numbers[part] for name, numbers in posts.numbers.items()}
            columns |= {"time": posts.time[part], "score": posts.score[part], "caption": captions[part]}
            columns |= {"part": chosen.parts[part], "set": chosen.sets[part], "role": chosen.roles[part]}
            yield Block(POST, columns)

    def edges(self, edge_type: EdgeType) -> Iterator[Piece]:
        _, chosen, _ = self._chosen
        for first in range(0, len(chosen.heads), CHUNK_EDGES):
            part = slice(first, first + CHUNK_EDGES)
            yield Piece(chosen.heads[part], chosen.tails[part], self.file, first)


class Smpd(Dataset):
    """Users' posts with their popularity scores: SMPD, TPIC2017, or near users of real labels."""

    name = "smpd"
    title = "SMPD"
    unit = "posts"
    Config = SmpdConfig

    def reads(self, source: Path) -> bool:
        return files.is_official(source) or proxy.is_proxy(source)

    def open(
        self,
        source: Path,
        config: BuildConfig | None = None,
        *,
        report: ReadReport | None = None,
        require_labels: bool = True,
        known_ids: Collection[str] = frozenset(),
        check_history: bool = True,
    ) -> Source:
        settings: SmpdConfig = self.configured(config)
        if known_ids:
            raise StoreError(
                f"{source}: found posts to join sets that were drawn of all users at once, expected a build "
                "from all posts"
            )
        if not self.reads(source):
            wanted = f"a folder with {', '.join(files.NAMES[kind][0] for kind in ('label', 'category'))}, …"
            raise StoreError(f"{source}: found none of SMPD's files, expected {wanted} or a CSV of labels")
        if source.is_dir():
            files.find_files(source)
        return PostSource(source, settings, report)

    def synthetic(self, scale: float, seed: int, config: BuildConfig | None = None) -> Source:
        said = f"smpd, scale {scale:g}, seed {seed}"
        return PostSource(None, self.configured(config), made=twin.make(scale, seed), said=said)

    def write_synthetic(self, path: Path, scale: float, seed: int) -> int:
        return twin.write(path, twin.make(scale, seed))

    def facts(self, store: Store) -> Facts:
        counts = store.attributes["smpd"]
        shown = [(name, f"{num:,}") for name, num in store.num_nodes.items()]
        shown += [(f"users of the set {name}", f"{num:,}") for name, num in counts["users"].items()]
        return replace(super().facts(store), counts=tuple(shown))
