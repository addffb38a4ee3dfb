"""Pairs of users and items: known files, descriptions, what is kept, and what is refused."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from netgpt import graphstore
from netgpt.graphstore import ReadReport, Store, StoreError
from netgpt.graphstore.datasets import names
from netgpt.graphstore.datasets.interactions import TAKEN, TOOK, Interactions, InteractionsConfig
from netgpt.graphstore.errors import UnknownNameError
from netgpt.graphstore.look import look

Pair = tuple[str, str]


def made(folder: Path, rows: list[str], name: str = "a.inter") -> Path:
    path = folder / name
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def built(source: Path, out: Path, **settings: object) -> tuple[Store, ReadReport]:
    report = graphstore.build(source, out, InteractionsConfig(encoder="hash:16", **settings))  # type: ignore[arg-type]
    return graphstore.open(out), report


def edges(store: Store) -> set[Pair]:
    """Of the rows, by their ids; both directions have the same."""
    users, items = store.node_ids("user"), store.node_ids("item")
    found = []
    for edge_type in (TOOK, TAKEN):
        first, heads = store.relation(edge_type).to_csr()
        tails = np.repeat(np.arange(len(first) - 1), np.diff(first))
        ends = (heads, tails) if edge_type == TOOK else (tails, heads)
        found.append({(users[u], items[i]) for u, i in zip(*map(np.ndarray.tolist, ends), strict=True)})  # type: ignore[arg-type]
        assert len(found[-1]) == store.num_edges[edge_type]
    assert found[0] == found[1]
    return found[0]


def held(store: Store, part: str) -> set[Pair]:
    users, items = store.node_ids("user"), store.node_ids("item")
    return {(users[u], items[i]) for u, i in zip(*store.held(TOOK, part), strict=True)}


def rows_of(seed: int, num: int = 300) -> tuple[list[str], dict[Pair, tuple[int, float]]]:
    """Lines with some pairs twice, and the first time and stars of each pair."""
    rng = np.random.default_rng(seed)
    lines, first = [], dict[Pair, tuple[int, float]]()
    for _ in range(num):
        pair = (f"u{rng.integers(15)}", f"i{rng.integers(30)}")
        at, stars = int(rng.integers(1000)), float(rng.integers(1, 6))
        first.setdefault(pair, (at, stars))
        lines.append(f"{pair[0]}\t{pair[1]}\t{stars}\t{at}")
    return ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *lines], first


@pytest.mark.parametrize("split", ["random", "user_random", "user_time", "global_time", "last"])
def test_each_pair_is_an_edge_of_train_or_held_out(tmp_path: Path, split: str) -> None:
    lines, first = rows_of(0)
    store, report = built(made(tmp_path, lines), tmp_path / "store", split=split)
    train, val, test = edges(store), held(store, "val"), held(store, "test")
    assert train | val | test == set(first) and len(train) + len(val) + len(test) == len(first)
    assert val and test and report.skipped == {"pairs again": 300 - len(first)}
    users, items = store.node_ids("user"), store.node_ids("item")
    relation = store.relation(TOOK)
    assert relation.time is not None
    begin, heads = relation.to_csr()
    for item in range(len(items)):
        for edge in range(begin[item], begin[item + 1]):
            at, stars = first[users[heads[edge]], items[item]]
            assert (relation.time[edge], relation.numbers["stars"][edge]) == (at, stars)
    assert graphstore.verify(store.path) == []
    assert store.attributes["interactions"]["split"] == split


def test_a_store_depends_on_no_order_of_rows(tmp_path: Path) -> None:
    lines, _ = rows_of(1)
    header, *rest = lines
    once = list({tuple(line.split("\t")[:2]): line for line in reversed(rest)}.values())
    one, _ = built(made(tmp_path, [header, *once]), tmp_path / "one")
    other, _ = built(made(tmp_path, [header, *sorted(once)], "b.inter"), tmp_path / "other")
    same = [name for name in one.seal.files if name != "zarr.json"]
    assert [one.seal.files[name] for name in same] == [other.seal.files[name] for name in same]


def test_held_pairs_are_where_no_reader_of_edges_looks(tmp_path: Path) -> None:
    """Another test part changes the held arrays and the store's own description, and nothing else."""
    header = "user_id\titem_id\tx_label"
    rows = [f"{u}\t{i}\t{0 if (u + i) % 3 else 1 + u % 2}" for u in range(8) for i in range(9)]
    one, _ = built(made(tmp_path, [header, *rows]), tmp_path / "one")
    moved = [row[:-1] + "1" if row.startswith("1\t") and row.endswith("2") else row for row in rows]
    assert moved != rows
    other, _ = built(made(tmp_path, [header, *moved], "b.inter"), tmp_path / "other")
    changed = {name for name in one.seal.files if one.seal.files[name] != other.seal.files.get(name)}
    assert changed and all(name.startswith("held/") or name == "zarr.json" for name in changed)
    assert not any(name.startswith("held/") for name in one.seal.files if "edges" in name)
    plain = zarr.open_group(str(one.path), mode="r")
    users = plain["held/user/took/item/test/heads"][:]  # type: ignore[index]
    np.testing.assert_array_equal(users, one.held(TOOK, "test")[0])
    with pytest.raises(UnknownNameError, match="held pairs of user/took/item: found 'dev', expected one of"):
        one.held(TOOK, "dev")
    with pytest.raises(UnknownNameError, match="expected one of none"):
        one.held(TAKEN, "test")


def test_thresholds_and_core_leave_out_what_a_loop_leaves_out(tmp_path: Path) -> None:
    lines, _ = rows_of(2, 300)
    store, report = built(made(tmp_path, lines), tmp_path / "store", least_stars=2.0, core=6)
    # Of rows that are above the stars: the first of a pair may be one that is not
    kept: set[Pair] = set()
    for line in lines[1:]:
        user, item, stars, _ = line.split("\t")
        if float(stars) >= 2:
            kept.add((user, item))
    while True:
        users, items = Counter(u for u, _ in kept), Counter(i for _, i in kept)
        left = {(u, i) for u, i in kept if users[u] >= 6 and items[i] >= 6}
        if left == kept:
            break
        kept = left
    assert kept and edges(store) | held(store, "val") | held(store, "test") == kept
    assert set(store.node_ids("user")) == {u for u, _ in kept}
    assert set(store.node_ids("item")) == {i for _, i in kept}
    assert report.num_read + report.num_skipped == 300
    assert set(report.skipped) == {"below least_stars", "pairs again", "outside the core"}


def test_known_files_are_read_with_what_is_beside_them(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text(
        "".join(f"{u}\t{i}\t{1 + i % 5}\t{u * i}\n" for u in range(2, 12) for i in (1, 2, 10))
    )
    flags = "|".join(["0"] * 19)
    titles = {"1": "One (1995)", "2": "Deux à deux", "10": 'The "Ten"', "11": "Nobody's"}
    text = "".join(f"{key}|{title}|01-Jan-1995||http://x|{flags}\n" for key, title in titles.items())
    (tmp_path / "u.item").write_text(text, encoding="latin-1")
    store, report = built(tmp_path, tmp_path / "store")
    assert store.node_ids("user")[:3] == ["2", "3", "4"] and store.node_ids("user")[9] == "11"
    assert list(store.node_ids("item")) == list(titles)  # the table's rows are all items
    assert list(store.strings("item", "title")) == list(titles.values())
    assert store.features("title").dim == 16
    assert "1 item has no pair of train, such as '11': measured apart, as cold" in report.notes
    double = tmp_path / "dat"
    double.mkdir()
    (double / "ratings.dat").write_text("".join(f"{u}::{i}::3::{u}\n" for u in range(9) for i in range(5)))
    films = "".join(f"{i}::Film {i}é::Drama|War\n" for i in range(5))
    (double / "movies.dat").write_bytes(films.encode("latin-1"))
    store, _ = built(double / "ratings.dat", tmp_path / "dat_store")
    assert list(store.strings("item", "genres"))[:1] == ["Drama|War"] and store.num_nodes["item"] == 5
    csv = tmp_path / "csv"
    csv.mkdir()
    rows = "".join(f"{u},{i},4.5,{u}\n" for u in range(9) for i in range(5))
    (csv / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + rows)
    store, _ = built(csv, tmp_path / "csv_store")
    assert store.num_nodes == {"user": 9, "item": 5}


def test_columns_are_found_by_their_names(tmp_path: Path) -> None:
    """The item's column may come first, behind a byte order mark."""
    path = tmp_path / "a.inter"
    rows = "".join(f"i{i}\tu{u}\t{u * i}\n" for u in range(6) for i in range(5))
    path.write_bytes(b"\xef\xbb\xbf" + f"item_id:token\tuser_id:token\ttimestamp:float\n{rows}".encode())
    store, _ = built(path, tmp_path / "store", split="user_time")
    assert list(store.node_ids("user")) == [f"u{u}" for u in range(6)] and store.num_nodes["item"] == 5


def test_numbers_and_times_as_tables_have_them(tmp_path: Path) -> None:
    times = pa.array([1_000_000 * i + 5 for i in range(30)], pa.timestamp("us"))
    table = {"u": [i // 5 for i in range(30)], "i": [i % 5 for i in range(30)], "at": times}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    (tmp_path / "d.yaml").write_text("interactions: {path: p.parquet, user: u, item: i, time: at}")
    store, _ = built(tmp_path / "d.yaml", tmp_path / "store", split="last")
    relation = store.relation(TOOK)
    assert relation.time is not None and sorted(relation.time.tolist())[:4] == [0, 1, 2, 5]
    lines = ["user\titem\trating", *(f"{u}\t{i}\t 3 " for u in range(6) for i in range(5))]
    store, _ = built(made(tmp_path, lines), tmp_path / "other")
    assert set(store.relation(TOOK).numbers["stars"].tolist()) == {3.0}


def test_vectors_are_of_the_items_by_their_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image, audio = rng.normal(size=(12, 3)).astype(np.float16), rng.normal(size=(12, 5)).astype(np.float32)
    np.save(tmp_path / "image_feat.npy", image)
    np.save(tmp_path / "audio_feat.npy", audio)
    rows = [f"{u}\t{i}" for u in range(6) for i in (0, 3, 10)]
    store, _ = built(made(tmp_path, ["userID\titemID", *rows]), tmp_path / "store")
    assert store.num_nodes["item"] == 12 and list(store.node_ids("item"))[10] == "10"
    np.testing.assert_array_equal(store.features("image").gather(np.arange(12)), image)
    np.testing.assert_array_equal(store.features("audio").gather(np.array([10, 3])), audio[[10, 3]])
    begin, heads = store.relation(("image", "image_of", "item")).to_csr()
    np.testing.assert_array_equal(begin, np.arange(13))
    np.testing.assert_array_equal(heads, np.arange(12))


@pytest.mark.parametrize("kind", ["parquet", "npz", "csv"])
def test_a_description_says_where_columns_are(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 9, 80), rng.integers(0, 7, 80)
    columns = {
        "who": users.astype(np.int16),
        "what": items,
        "when": rng.integers(0, 99, 80),
        "is_click": rng.random(80) < 0.7,
    }
    if kind == "npz":
        np.savez(tmp_path / "p.npz", **columns)
    elif kind == "parquet":
        pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    else:
        text = "\n".join(",".join(str(int(v)) for v in row) for row in zip(*columns.values(), strict=True))
        (tmp_path / "p.csv").write_text(",".join(columns) + "\n" + text + "\n")
    described = {"path": f"p.{kind}", "user": "who", "item": "what", "time": "when", "keep": "is_click"}
    source = tmp_path / "d.yaml"
    source.write_text(json.dumps({"interactions": described}))
    assert [name for name in names.DATASETS if names.load(name).reads(source)] == ["interactions"]
    store, _ = built(source, tmp_path / "store", split="user_time")
    expected = {(str(u), str(i)) for u, i, k in zip(users, items, columns["is_click"], strict=True) if k}
    assert edges(store) | held(store, "val") | held(store, "test") == expected


def test_a_source_is_looked_at_before_it_is_built(tmp_path: Path) -> None:
    source = made(tmp_path, rows_of(0)[0])
    facts = look(Interactions().open(source), "interactions")
    assert facts.target == "user" and set(facts.edges) == {"user/took/item", "item/rev_took/user"}


def test_synthetic_pairs_are_a_function_of_scale_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "made.inter"
    num = Interactions().write_synthetic(path, 0.0001, 3)
    store, _ = built(path, tmp_path / "store", split="user_time")
    source = Interactions().synthetic(0.0001, 3, InteractionsConfig(split="user_time"))
    graphstore.build(source, tmp_path / "other", InteractionsConfig(split="user_time"))
    other = graphstore.open(tmp_path / "other")
    assert num == store.num_nodes["user"] and edges(store) == edges(other) and len(edges(store)) > 1000
    assert store.digest != other.digest  # they say what they are of


def bad(folder: Path, case: str) -> tuple[Path, dict[str, object]]:
    """A source with something wrong, and settings."""
    header, rows = "user\titem\trating\ttimestamp", [f"{u}\t{i}\t3\t{u}" for u in range(6) for i in range(5)]
    match case:
        case "unknown item":
            np.save(folder / "image_feat.npy", np.zeros((4, 2), np.float32))
        case "lengths":
            np.save(folder / "image_feat.npy", np.zeros((5, 2), np.float32))
            np.save(folder / "text_feat.npy", np.zeros((6, 2), np.float32))
        case "modality":
            np.save(folder / "id_feat.npy", np.zeros((5, 2), np.float32))
        case "latin header":
            (folder / "a.inter").write_bytes("us\xe9r\titem\n1\t2\n".encode("latin-1"))
            return folder / "a.inter", {}
        case "header alone" | "no byte":
            (folder / "p.csv").write_text("u,i" if case == "header alone" else "")
            (folder / "d.yaml").write_text("interactions: {path: p.csv, user: u, item: i}")
            return folder / "d.yaml", {}
        case "npy for npz" | "no arrays":
            if case == "npy for npz":
                np.save((folder / "p.npz").open("wb"), np.arange(3))
            else:
                with zipfile.ZipFile(folder / "p.npz", "w") as archive:
                    archive.writestr("u", "text")
                    archive.writestr("i", "text")
            (folder / "d.yaml").write_text("interactions: {path: p.npz, user: u, item: i}")
            return folder / "d.yaml", {}
        case "npz":
            (folder / "p.npz").write_bytes(b"PK\x03\x04 cut off")
            (folder / "d.yaml").write_text("interactions: {path: p.npz, user: u, item: i}")
            return folder / "d.yaml", {}
        case "wide ids":
            np.savez(folder / "p.npz", u=np.array([2**63 + 1], np.uint64), i=np.array([1]))
            (folder / "d.yaml").write_text("interactions: {path: p.npz, user: u, item: i}")
            return folder / "d.yaml", {}
        case "none kept":
            np.savez(folder / "p.npz", u=np.arange(3), i=np.arange(3), k=np.zeros(3))
            (folder / "d.yaml").write_text("interactions: {path: p.npz, user: u, item: i, keep: k}")
            return folder / "d.yaml", {}
        case "underscore":
            rows[2] = "0\t2\t1_0\t0"
        case "not finite":
            x = np.zeros((5, 2), np.float32)
            x[3, 1] = np.inf
            np.save(folder / "image_feat.npy", x)
        case "stars":
            (folder / "u.data").write_text("1\t2\t3\t4\n1\t3\t6\t4\n")
            return folder / "u.data", {}
        case "stars text":
            rows[2] = "0\t2\tgood\t0"
        case "no user":
            rows[4] = "\t4\t3\t0"
        case "time":
            rows[3] = "0\t3\t3\t1.5"
        case "two parts" | "part":
            header = "user\titem\tx_label"
            rows = [f"{u}\t{i}\t{i % 3}" for u in range(6) for i in range(5)]
            rows.append("2\t3\t2" if case == "two parts" else "2\t7\t9")
        case "no times":
            header, rows = "user\titem", [row.rsplit("\t", 2)[0] for row in rows]
            return made(folder, [header, *rows]), {"split": "user_time"}
        case "given":
            return made(folder, [header, *rows]), {"split": "given"}
        case "no stars":
            header, rows = "user\titem", [row.rsplit("\t", 2)[0] for row in rows]
            return made(folder, [header, *rows]), {"least_stars": 2.0}
        case "nothing left":
            return made(folder, [header, *rows]), {"core": 9}
        case "columns":
            header = "user"
        case "empty":
            rows = []
        case "twice":
            (folder / "ratings.dat").write_text("1::7::3::4\n")
            (folder / "movies.dat").write_text("7::A::B\n8::C::D\n7::E::F\n")
            return folder / "ratings.dat", {}
    return made(folder, [header, *rows]), {}


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("unknown item", r"a\.inter: record '4': field 'item': found '4', expected an item of .*image_feat"),
        ("lengths", r"text_feat\.npy: found 6 rows, expected 5, as .*image_feat\.npy has items"),
        ("not finite", r"image_feat\.npy: record '3': found a number that is not finite, expected numbers"),
        ("modality", r"a\.inter: id_feat\.npy: found 'id', expected names of letters"),
        ("latin header", r"a\.inter: cannot be read as a header and rows"),
        ("header alone", r"d\.yaml: found no pair, expected at least one"),
        ("no byte", r"p\.csv: found an empty file"),
        ("npy for npz", r"p\.npz: found one array \(npy\), expected npz arrays"),
        ("no arrays", r"p\.npz: field 'u': found "),
        ("npz", r"p\.npz: found .*, expected npz arrays"),
        ("wide ids", r"p\.npz: field 'u': found type uint64, expected texts, or whole numbers below"),
        ("none kept", r"p\.npz: found no pair that is kept, expected some"),
        ("underscore", r"a\.inter: record '2': field 'rating': found '1_0', expected a number"),
        ("stars", r"u\.data: record '1': field 'stars': found 6, expected 1 to 5"),
        ("stars text", r"a\.inter: record '2': field 'rating': found 'good', expected a number"),
        ("no user", r"a\.inter: record '4': field 'user': found nothing, expected a user's id"),
        ("time", r"a\.inter: record '3': field 'timestamp': found 1\.5, expected whole seconds since 1970"),
        (
            "two parts",
            r"a\.inter: record '30': found user '2' with item '3' in test, after it was in train, expected "
            "each pair in one part",
        ),
        ("part", r"a\.inter: record '30': field 'x_label': found '9', expected 0, 1, 2 \(train, valid"),
        ("no times", r"split: found 'user_time', expected one without times: .*a\.inter has none"),
        ("given", r"split: found 'given', expected another: .*a\.inter says no parts"),
        ("no stars", "least_stars: found 2, expected 0 of pairs without stars"),
        ("nothing left", r"a\.inter: found no pair that is left, expected some: least_stars and core"),
        ("columns", r"a\.inter: found the header \['user'\], expected user and item, tabs between"),
        ("empty", r"a\.inter: "),
        ("twice", r"movies\.dat: record '2': field 'movie': found '7', expected each item once"),
    ],
)
def test_bad_sources_are_refused_in_one_line(tmp_path: Path, case: str, words: str) -> None:
    source, settings = bad(tmp_path, case)
    with pytest.raises(StoreError, match=words) as raised:
        built(source, tmp_path / "store", **settings)
    assert "\n" not in str(raised.value) and not (tmp_path / "store").exists()


def test_users_that_cannot_teach_or_be_measured_are_named(tmp_path: Path) -> None:
    header = "user\titem\tx_label"
    rows = [f"full\t{i}\t0" for i in range(4)] + ["new\t1\t2", "a\t0\t0", "a\t2\t1"]
    _, report = built(made(tmp_path, [header, *rows]), tmp_path / "store")
    assert report.notes == [
        "1 user has no pair of train, such as 'new': measured apart, as cold",
        "1 user has all 4 items in train, such as 'full': left out of training, as no item is none of theirs",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("interactions: {path: a.csv, user: u}", r"interactions\.item: found None, expected a text"),
        ("interactions: {path: a.csv, user: u, item: u}", r"expected a column for each of them"),
        (
            "interactions: {path: a.csv, user: u, item: i, tmie: t}",
            r"unknown key interactions\.tmie; did",
        ),
        ("interactions: {path: b.csv, user: u, item: i}", r"interactions\.path: found .*b\.csv', expected a"),
        (
            "interactions: {path: a.csv, user: u, item: i, stars: {column: s, low: 5, high: 1}}",
            r"interactions\.stars: found \[5, 1\], expected low not above high",
        ),
        (
            "interactions: {path: a.csv, user: u, item: i, split: {column: s, parts: [a, b]}}",
            r"interactions\.split\.parts: found \['a', 'b'\], expected values of train, validation and test",
        ),
        (
            "interactions: {path: a.csv, user: u, item: i}\nitems: {key: k}",
            "items: found .*, expected a",
        ),
        (
            "interactions: {path: a.csv, user: u, item: i}\nitems: {path: a.csv, key: i, texts: [item]}",
            "items: found 'item', expected names of letters",
        ),
    ],
)
def test_descriptions_that_say_nothing_sound_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.csv").write_text("u,i\n1,2\n")
    source = tmp_path / "d.yaml"
    source.write_text(text)
    with pytest.raises(StoreError, match=words):
        Interactions().open(source)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratio": "8:1"}, "ratio: found '8:1', expected such as 8:1:1"),
        ({"ratio": "0:1:1"}, "ratio: found '0:1:1', expected such as 8:1:1"),
        ({"split": "time"}, "split: found 'time', expected one of auto, given, random"),
        ({"core": -1}, "core: found -1, expected a whole number from 0"),
        ({"on_error": "skip"}, "on_error: found 'skip', expected fail"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(
    tmp_path: Path, settings: dict[str, object], words: str
) -> None:
    source = made(tmp_path, rows_of(0)[0])
    with pytest.raises(StoreError, match=words):
        Interactions().open(source, InteractionsConfig(**settings))  # type: ignore[arg-type]
