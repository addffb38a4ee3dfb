"""Where pairs of users and items are: a small YAML file, or a file whose columns are known.

    interactions:
      path: clicks.parquet               # Parquet, CSV with a header, npz of [n] arrays; one file or several
      user: user_id
      item: item_id
      time: at                           # optional: whole seconds
      stars: {column: rating, low: 1, high: 5}
      split: {column: x_label, parts: ["0", "1", "2"]}     # values of train, validation and test
      keep: is_click                     # only rows where this column is not zero
    items:                               # optional: then all of its rows are items, also those of no pair
      path: movies.dat
      separator: "::"
      encoding: latin-1
      header: [movie, title, genres]
      key: movie
      texts: [title, genres]
      vectors: {image: image_feat.npy}   # row i: the table's row i, or without a path the item i

Known without one are MovieLens' `u.data`, `ratings.dat` and `ratings.csv` with the movies beside them, and
`NAME.inter` with a header (`user_id:token`, `userID`, …), with `MODALITY_feat.npy` beside it. A folder that
has one of them is it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netgpt.graphstore.datasets.described import (
    check_keys,
    has_pairs,
    read_described,
    reading,
    require,
)
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.schema import NAME

SUFFIXES = (".parquet", ".csv", ".npz", ".inter", ".data", ".dat", ".tsv")
PARTS = ("0", "1", "2")
"""Values of a given split by default: train, validation, test."""
_U_ITEM = (
    *("movie", "title", "released", "video", "url", "unknown", "Action", "Adventure", "Animation"),
    *("Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Noir", "Horror", "Musical"),
    *("Mystery", "Romance", "SciFi", "Thriller", "War", "Western"),
)


@dataclass(frozen=True, kw_only=True)
class TextFile:
    """How a file of texts is taken apart."""

    separator: str = ","
    encoding: str = "utf-8"
    header: tuple[str, ...] = ()
    """Names of its columns, where its first line has none."""


@dataclass(frozen=True, kw_only=True)
class Items:
    path: Path | None = None
    form: TextFile = TextFile()
    key: str = ""
    texts: tuple[str, ...] = ()
    vectors: dict[str, Path] = field(default_factory=dict)
    """By modality [items, width] float16 or float32."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a source says of itself."""

    path: Path
    """What messages name: the description, or the known file."""
    files: tuple[Path, ...]
    form: TextFile = TextFile()
    user: str
    item: str
    time: str = ""
    stars: str = ""
    low: float | None = None
    high: float | None = None
    split: str = ""
    parts: tuple[str, ...] = PARTS
    keep: str = ""
    items: Items = Items()

    @property
    def columns(self) -> list[str]:
        """Those of the files that are read."""
        return [c for c in (self.user, self.item, self.time, self.stars, self.split, self.keep) if c]

    @property
    def sources(self) -> list[Path]:
        """All files that the rows come from."""
        beside = [self.items.path] if self.items.path else []
        own = [] if self.path in self.files else [self.path]
        return [*own, *self.files, *beside, *self.items.vectors.values()]


def known_file(path: Path) -> Path | None:
    """The file of pairs that a path is, or that a folder has; None where there is none of known columns."""
    if path.is_dir():
        found = [path / name for name in _MOVIELENS if (path / name).is_file()]
        found += sorted(path.glob("*.inter"))
        return found[0] if len(found) == 1 else None
    known = path.name in _MOVIELENS or path.suffix == ".inter"
    return path if known and path.is_file() else None


def is_interactions(path: Path) -> bool:
    """Whether a path is a source of pairs, by its name or its first key."""
    if known_file(path) is not None:
        return True
    return has_pairs(path)


def describe(path: Path) -> Described:
    """What a source says; paths in it are whole. Raises StoreError."""
    path = path.absolute()  # its files are read later, perhaps from another folder
    if (known := known_file(path)) is not None:
        return _known(known)
    if path.is_dir():
        names = f"{', '.join(_MOVIELENS)}, one NAME.inter"
        raise StoreError(f"{path}: found a folder without one file of pairs, expected {names}")
    return _described(path)


@dataclass(frozen=True, kw_only=True)
class _MovieLens:
    """One of its files, and the movies that may be beside it."""

    columns: tuple[str, str, str, str]
    """Of user, item, stars and time."""
    separator: str
    has_header: bool = False
    low: float
    movies: str
    movies_form: TextFile
    key: str
    texts: tuple[str, ...]


_MOVIELENS = {
    "u.data": _MovieLens(
        columns=("user", "item", "stars", "time"),
        separator="\t",
        low=1.0,
        movies="u.item",
        movies_form=TextFile(separator="|", encoding="latin-1", header=_U_ITEM),
        key="movie",
        texts=("title",),
    ),
    "ratings.dat": _MovieLens(
        columns=("user", "item", "stars", "time"),
        separator="::",
        low=1.0,
        movies="movies.dat",
        movies_form=TextFile(separator="::", encoding="latin-1", header=("movie", "title", "genres")),
        key="movie",
        texts=("title", "genres"),
    ),
    "ratings.csv": _MovieLens(
        columns=("userId", "movieId", "rating", "timestamp"),
        separator=",",
        has_header=True,
        low=0.5,
        movies="movies.csv",
        movies_form=TextFile(),
        key="movieId",
        texts=("title", "genres"),
    ),
}


def _known(file: Path) -> Described:
    if (one := _MOVIELENS.get(file.name)) is None:
        return _inter(file)
    user, item, stars, time = one.columns
    movies = file.parent / one.movies
    beside = Items(path=movies, form=one.movies_form, key=one.key, texts=one.texts)
    return Described(
        path=file,
        files=(file,),
        form=TextFile(separator=one.separator, header=() if one.has_header else one.columns),
        user=user,
        item=item,
        stars=stars,
        time=time,
        low=one.low,
        high=5.0,
        items=beside if movies.is_file() else Items(),
    )


def _inter(file: Path) -> Described:
    """The header's names, less their types; user and item by their names, else the first two columns."""
    with reading(file, "a header and rows"), file.open(encoding="utf-8-sig") as lines:
        names = lines.readline().rstrip("\r\n").split("\t")
    by_name = {name.partition(":")[0]: name for name in names}
    if len(by_name) < 2 or len(by_name) < len(names):
        raise StoreError(f"{file}: found the header {names}, expected user and item, tabs between")
    user, item = (
        next((by_name[one] for one in known if one in by_name), names[place])
        for place, known in enumerate((("user_id", "userID"), ("item_id", "itemID")))
    )
    vectors = {path.name.removesuffix("_feat.npy"): path for path in sorted(file.parent.glob("*_feat.npy"))}
    for name, path in vectors.items():
        require(file, _is_free(name), str(path.name), name, _FREE)
    return Described(
        path=file,
        files=(file,),
        form=TextFile(separator="\t"),
        user=user,
        item=item,
        time=by_name.get("timestamp", ""),
        stars=by_name.get("rating", ""),
        split=by_name.get("x_label", ""),
        items=Items(vectors=vectors),
    )


_FREE = "names of letters, digits, _, - and ., other than user, item and id"


def _is_free(name: str) -> bool:
    """Whether a node type and a column may have a name."""
    return bool(NAME.fullmatch(name)) and name not in ("user", "item", "id")


_KEYS = ("path", "separator", "encoding", "header", "user", "item", "time", "stars", "split", "keep")
_ITEM_KEYS = ("path", "separator", "encoding", "header", "key", "texts", "vectors")


def _described(path: Path) -> Described:
    raw = read_described(path)
    check_keys(path, "", raw, ("interactions", "items"))
    check_keys(path, "interactions", raw.get("interactions"), _KEYS)
    pairs = raw["interactions"]
    files = _files(path, "interactions.path", pairs.get("path"))
    names = {key: _text(path, f"interactions.{key}", pairs.get(key, "")) for key in ("time", "keep")}
    for key in ("user", "item"):
        names[key] = _text(path, f"interactions.{key}", pairs.get(key))
        require(path, bool(names[key]), f"interactions.{key}", names[key], "a column")
    stars, low, high = _stars(path, pairs.get("stars"))
    split, parts = _split(path, pairs.get("split"))
    used = [name for name in (*names.values(), stars, split) if name]
    require(path, len(set(used)) == len(used), "interactions", used, "a column for each of them")
    return Described(
        path=path,
        files=files,
        form=_form(path, "interactions", pairs),
        **names,
        stars=stars,
        low=low,
        high=high,
        split=split,
        parts=parts,
        items=_items(path, raw.get("items")),
    )


def _items(path: Path, raw: Any) -> Items:
    if raw is None:
        return Items()
    check_keys(path, "items", raw, _ITEM_KEYS)
    file, key = None, _text(path, "items.key", raw.get("key", ""))
    if "path" in raw:
        (file,) = _files(path, "items.path", raw["path"], most=1)
        require(path, bool(key), "items.key", key, "the column that has the items' ids")
    texts, vectors = raw.get("texts", []), raw.get("vectors", {})
    listed = isinstance(texts, list) and all(isinstance(one, str) for one in texts)
    require(path, listed, "items.texts", texts, "a list of columns")
    require(path, file is not None or not texts, "items.texts", texts, "items.path that has them")
    require(path, isinstance(vectors, dict), "items.vectors", vectors, "an .npy file by modality")
    for name in (*texts, *vectors):
        require(path, _is_free(str(name)), "items", name, _FREE)
    require(path, not set(texts) & set(vectors), "items", sorted(vectors), "other names than those of texts")
    found = {}
    for name, value in vectors.items():
        place = path.parent / str(value)
        require(
            path, place.suffix == ".npy" and place.is_file(), f"items.vectors.{name}", value, "an .npy file"
        )
        found[str(name)] = place
    some = file is not None or bool(found)
    require(path, some, "items", raw, "a path, or vectors")
    return Items(path=file, form=_form(path, "items", raw), key=key, texts=tuple(texts), vectors=found)


def _stars(path: Path, raw: Any) -> tuple[str, float | None, float | None]:
    if raw is None or isinstance(raw, str):
        return raw or "", None, None
    check_keys(path, "interactions.stars", raw, ("column", "low", "high"))
    bounds = [raw.get("low"), raw.get("high")]
    sound = all(b is None or (isinstance(b, int | float) and not isinstance(b, bool)) for b in bounds)
    require(path, sound, "interactions.stars", bounds, "numbers low and high")
    low, high = (None if b is None else float(b) for b in bounds)
    rising = low is None or high is None or low <= high
    require(path, rising, "interactions.stars", bounds, "low not above high")
    column = _text(path, "interactions.stars.column", raw.get("column"))
    require(path, bool(column), "interactions.stars.column", column, "a column")
    return column, low, high


def _split(path: Path, raw: Any) -> tuple[str, tuple[str, ...]]:
    if raw is None or isinstance(raw, str):
        return raw or "", PARTS
    check_keys(path, "interactions.split", raw, ("column", "parts"))
    parts = raw.get("parts", list(PARTS))
    sound = isinstance(parts, list) and len(parts) == 3 and len({str(p) for p in parts}) == 3
    sound = sound and all(isinstance(part, str) or type(part) is int for part in parts)
    require(path, sound, "interactions.split.parts", parts, "values of train, validation and test")
    column = _text(path, "interactions.split.column", raw.get("column"))
    require(path, bool(column), "interactions.split.column", column, "a column")
    return column, tuple(str(part) for part in parts)


def _form(path: Path, place: str, raw: dict[str, Any]) -> TextFile:
    header = raw.get("header", [])
    listed = isinstance(header, list) and all(isinstance(name, str) for name in header)
    listed = listed and len(set(header)) == len(header)
    require(path, listed, f"{place}.header", header, "a list of names, each once")
    separator = _text(path, f"{place}.separator", raw.get("separator", ","))
    require(path, bool(separator), f"{place}.separator", separator, "a text")
    encoding = _text(path, f"{place}.encoding", raw.get("encoding", "utf-8"))
    return TextFile(separator=separator, encoding=encoding, header=tuple(header))


def _text(path: Path, place: str, value: Any) -> str:
    require(path, isinstance(value, str), place, value, "a text")
    return str(value)


def _files(path: Path, place: str, raw: Any, most: int | None = None) -> tuple[Path, ...]:
    names = [raw] if isinstance(raw, str) else raw
    listed = isinstance(names, list) and bool(names) and all(isinstance(one, str) for one in names)
    require(path, listed, place, raw, "a file or a list of files")
    require(path, most is None or len(names) <= most, place, raw, "one file")
    files = tuple(path.parent / one for one in names)
    for file in files:
        require(path, file.suffix in SUFFIXES, place, str(file), f"a name that ends in {', '.join(SUFFIXES)}")
        require(path, file.is_file(), place, str(file), "a file")
    return files
