"""Files of SMPD, TPIC2017 and of runs of pids: what does not fit is refused by file and row, in one line."""

from __future__ import annotations

import csv
import gzip
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netgpt import graphstore
from netgpt.graphstore import StoreError
from netgpt.graphstore.dataset import ReadReport
from netgpt.graphstore.datasets.smpd import Smpd, choice, files, proxy, tpic, twin
from tests.smpd import SCALE, built, named, plain_posts, settings_of

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "smpd" / "smpd_train_real.csv.gz"
OLD = {names[0]: names[1] for names in files.NAMES.values() if len(names) > 1}
"""Names of 2019 and 2020 by those of later."""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("smpd") / "data"
    Smpd().write_synthetic(path, SCALE, 3)
    return path


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    shutil.copytree(source, tmp_path / "data")
    return tmp_path / "data"


def test_names_of_both_generations_make_one_store(folder: Path, tmp_path: Path) -> None:
    one = built(folder, tmp_path / "one")
    for new, old in OLD.items():
        (folder / new).rename(folder / old)
    other = built(folder, tmp_path / "other")
    assert one.seal.files == other.seal.files and len(OLD) == 5
    shutil.copy(folder / "train_tags.json", folder / "train_text.json")
    with pytest.raises(StoreError, match=r"found both train_text.json and train_tags.json, expected one"):
        Smpd().open(folder, settings_of())
    (folder / "train_text.json").unlink()
    (folder / "train_tags.json").unlink()
    with pytest.raises(StoreError, match=r"found no train_text.json or train_tags.json, expected one"):
        Smpd().open(folder, settings_of())


def test_columns_of_users_are_read_as_rows_are(folder: Path, tmp_path: Path) -> None:
    """As pandas writes them, which some releases have."""
    one = built(folder, tmp_path / "one")
    path = folder / "train_user_data.json"
    rows, keys = json.loads(path.read_text()), json.loads((folder / "train_category.json").read_text())
    rows = [{"Uid": k["Uid"], "Pid": str(k["Pid"]), **row} for k, row in zip(keys, rows, strict=True)]
    columns = {name: {str(i): row[name] for i, row in enumerate(rows)} for name in rows[0]}
    path.write_text(json.dumps(columns))
    other = built(folder, tmp_path / "other")
    assert {n for n in one.seal.files if one.seal.files[n] != other.seal.files[n]} == {"zarr.json"}
    columns["Pid"]["4"], columns["Pid"]["5"] = columns["Pid"]["5"], columns["Pid"]["4"]
    path.write_text(json.dumps(columns))
    with pytest.raises(StoreError, match=r"train_user_data.json: record '4': found Uid"):
        built(folder, tmp_path / "again")
    del columns["ispro"]["7"]
    path.write_text(json.dumps(columns))
    with pytest.raises(StoreError, match="record '7': field 'ispro': found row '8', expected rows from 0"):
        built(folder, tmp_path / "again")


KEYED = ("category", "text", "place", "additional", "image")


@pytest.mark.parametrize("how", ["swapped", "missing", "missing at the end", "twice", "more at the end"])
@pytest.mark.parametrize("kind", list(files.NAMES))
def test_rows_that_do_not_fit_are_refused_by_file_and_row(
    kind: str, how: str, folder: Path, tmp_path: Path
) -> None:
    path = folder / files.NAMES[kind][0]
    text = path.read_text()
    rows: list[Any] = json.loads(text) if path.suffix == ".json" else text.splitlines()
    num = len(rows)
    if how == "swapped":
        if kind not in KEYED:
            return  # nothing in the file says it
        rows[6], rows[9] = rows[9], rows[6]
    elif how == "missing":
        del rows[6]
    elif how == "missing at the end":
        del rows[-1]
    elif how == "twice":
        rows.insert(6, rows[5])
    else:
        rows.append(rows[-1])
    path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(rows) + "\n")
    row = {"missing at the end": num - 1, "more at the end": num}.get(how, 6)
    if kind not in KEYED:  # seen when it ends
        row = num - 1 if how.startswith("missing") else num
    with pytest.raises(StoreError) as caught:
        built(folder, tmp_path / "store")
    message = str(caught.value)
    assert message.startswith(f"{path}: record '{row}': found ") and "\n" not in message
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("train_label.txt", None, "high", r"record '2': field 'score': found 'high', expected a number"),
        ("train_label.txt", None, "nan", r"record '2': field 'score': found 'nan', expected a number"),
        ("train_label.txt", None, "", r"record '2': field 'score': found '', expected a number"),
        ("train_text.json", '"Title"', '"Heading"', "record '0': field 'Title': found no such field"),
        ("train_category.json", '"Concept"', '"Idea"', "record '0': field 'Concept': found no such field"),
        (
            "train_category.json",
            '"Uid": "',
            '"Uid": ["',
            "train_category.json: record '0': found what cannot",
        ),
        (
            "train_temporalspatial_information.json",
            '"Postdate": "1',
            '"Postdate": "-1',
            "field 'Postdate': found '-1",
        ),
        ("train_user_data.json", '"ispro": "', '"ispro": "x', "field 'ispro': found 'x"),
        (
            "train_temporalspatial_information.json",
            '"Latitude": ',
            f'"Latitude": 1{"0" * 400}, "x": ',
            "field 'Latitude': found 1000",
        ),
        ("train_text.json", '"Title": "', '"Title": "\\ud800', "field 'Title': found"),
        (
            "train_text.json",
            '"Title"',
            '"x": ' + "[" * 30_000 + "]" * 30_000 + ', "Title"',
            "train_text.json: record '0': found what cannot be read .values nested too deep",
        ),
        (
            "train_user_data.json",
            '"ispro"',
            '"unread": 1180591620717411303424, "ispro": "x", "p"',
            "'ispro': found 'x",
        ),
        ("train_user_data.json", "[", "{", "train_user_data.json: record '0': found what cannot be read"),
        ("train_user_data.json", "[", '"', "train_user_data.json: found what begins with"),
    ],
)
def test_bad_values_are_one_line(
    name: str, old: str | None, new: str, message: str, folder: Path, tmp_path: Path
) -> None:
    text = (folder / name).read_text()
    if old is None:
        lines = text.splitlines()
        text = "\n".join([*lines[:2], new, *lines[3:]]) + "\n"
    else:
        text = text.replace(old, new, 1)
    (folder / name).write_text(text)
    with pytest.raises(StoreError, match=message) as caught:
        built(folder, tmp_path / "store")
    assert "\n" not in str(caught.value) and str(folder / name) in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_bad_records_are_left_out_and_counted(folder: Path) -> None:
    lines = (folder / "train_label.txt").read_text().splitlines()
    lines[2] = "high"
    (folder / "train_label.txt").write_text("\n".join(lines) + "\n")
    for kind in KEYED:  # a post twice in all files
        path = folder / files.NAMES[kind][0]
        text = path.read_text()
        rows = json.loads(text) if path.suffix == ".json" else text.splitlines()
        rows[8] = rows[7]
        path.write_text(json.dumps(rows) if path.suffix == ".json" else "\n".join(rows) + "\n")
    with pytest.raises(StoreError, match="record '2': field 'score'"):
        files.read_posts(folder, ReadReport())
    report = ReadReport()
    posts = files.read_posts(folder, report, skips=True)
    assert report.skipped == {"score": 1, "Pid": 1} and len(posts) == len(lines) - 2
    path = folder / "train_text.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))
    with pytest.raises(StoreError, match=r"train_text.json"):  # files that do not fit are never skipped
        files.read_posts(folder, ReadReport(), skips=True)


def test_values_are_read_as_the_release_says_them(folder: Path) -> None:
    def change(kind: str, row: int, **values: Any) -> None:
        path = folder / files.NAMES[kind][0]
        rows = json.loads(path.read_text())
        rows[row] = {key: value for key, value in {**rows[row], **values}.items() if value != "gone"}
        path.write_text(json.dumps(rows))

    before = files.read_posts(folder, ReadReport())
    pid = before.pids[0]
    change("category", 0, Pid=pid, Subcategory="Good,Morning", Category="Whether&Season", Concept="None")
    change("text", 0, Pid=int(pid), Title="gone", Tile="A title", Alltags="one two  three")
    change("text", 1, Title="None", Alltags="None", Mediatype=None)
    change("place", 0, Postdate=1426982400, Latitude=12, Longitude="", Geoaccuracy="None")
    change("user", 0, ispro=True, canbuypro=None, timezone_offset="-03:30", photo_count=7)
    posts = files.read_posts(folder, ReadReport())
    texts, numbers = posts.texts, posts.numbers
    said = ("Good,Morning", "Whether&Season", "")
    assert tuple(texts[name][0] for name in ("subcategory", "category", "concept")) == said
    assert (posts.pids[0], texts["title"][0], texts["title"][1], texts["media"][1]) == (
        pid,
        "A title",
        "",
        "",
    )
    assert numbers["tags"][:2].tolist() == [3, 0] and numbers["title_length"][:2].tolist() == [7, 0]
    assert posts.time[0] == 1426982400 and numbers["latitude"][0] == 12
    assert np.isnan([numbers[name][0] for name in ("longitude", "accuracy", "can_buy_pro")]).all()
    assert [numbers[name][0] for name in ("is_pro", "timezone", "photo_count")] == [1, -3.5, 7]
    assert np.isnan(numbers["shown_tags"]).all()


def test_tpic_is_a_set_of_four_posts_without_views(folder: Path, tmp_path: Path) -> None:
    rows = {
        kind: [line.split("\t") for line in (folder / "tpic" / names[0]).read_text().splitlines()[1:]]
        for kind, names in tpic.NAMES.items()
    }
    store = built(folder, tmp_path / "store", tpic="tpic", captions=twin.CAPTIONS)
    chosen = [v for v, name in enumerate(named(store, "set")) if name == "tpic"]
    counts = Counter(row[1] for row in rows["meta"])
    users = named(store, "user")
    assert {users[v] for v in chosen} == {user for user, num in counts.items() if num >= 4}
    assert len(chosen) == 4 * len({users[v] for v in chosen}) > 0
    by_pid = {kind: {row[0]: row for row in own} for kind, own in rows.items()}
    pids = store.strings("post", "pid")
    for v in chosen:
        pid = pids[v]
        _, _, year, month, day, hour = by_pid["time"][pid]
        assert store.strings("post", "date")[v] == f"{int(year)}-{int(month)}-{int(day)}"
        at = np.datetime64(f"{year}-{month:0>2}-{day:0>2}T{2 + 4 * int(hour):02}:00:00")
        assert store.column("post", "time")[v] == at.astype("datetime64[s]").astype(np.int64)
        assert store.column("post", "score")[v] == np.float32(by_pid["label"][pid][2])
        assert store.column("post", "shown_tags")[v] == float(by_pid["meta"][pid][6])
        assert store.column("post", "shown_title_length")[v] == float(by_pid["meta"][pid][4])
        assert store.strings("post", "title")[v] == ""
    # The archives' names and another order of rows make the same; what came later is in no column
    for kind, names in tpic.NAMES.items():
        path = folder / "tpic" / names[0]
        header, *lines = path.read_text().splitlines()
        if kind == "meta":
            lines = [
                "\t".join([*(c := line.split("\t"))[:2], "77", *c[3:7], "8.5", *c[8:]]) for line in lines
            ]
        else:
            lines = lines[::-1]
        path.unlink()
        (folder / "tpic" / names[1]).write_text("\n".join([header, *lines]) + "\n")
    other = built(folder, tmp_path / "other", tpic="tpic", captions=twin.CAPTIONS)
    assert {n for n in store.seal.files if store.seal.files[n] != other.seal.files[n]} == {"zarr.json"}


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("label", "logview", "views", "LABEL.txt: field 'logview': found the header pid uid views"),
        (
            "label",
            "\n2",
            "\n1",
            "LABEL.txt: record '0': field 'pid': found '1.*expected a post of USER_META.txt",
        ),
        ("label", None, "", "LABEL.txt: field 'pid': found no '.*expected it, as in row"),
        ("time", None, "twice", "TIME_FLAG.txt: record '.*': field 'pid': found '.*once more"),
        ("time", None, "2012\t13\t1\t2", "TIME_FLAG.txt: record '.*': field 'day': found '2012-13-1'"),
        ("time", None, "2012\t12\t1\t6", "field 'hour_index': found '6', expected a whole number from 0"),
        ("meta", None, "cut", r"USER_META.txt: record '\d+': found 2 cells, expected 10"),
    ],
)
def test_bad_files_of_tpic_are_one_line(
    kind: str, old: str | None, new: str, message: str, folder: Path, tmp_path: Path
) -> None:
    path = folder / "tpic" / tpic.NAMES[kind][0]
    text = path.read_text()
    if old is not None:
        text = text.replace(old, new, 1)
    else:
        *lines, last = text.splitlines()
        key = "\t".join(last.split("\t")[:2])
        changed = {"": [], "twice": [last, last], "cut": [key]}.get(new, [f"{key}\t{new}"])
        text = "\n".join([*lines, *changed]) + "\n"
    path.write_text(text)
    with pytest.raises(StoreError, match=message) as caught:
        built(folder, tmp_path / "store", tpic="tpic")
    assert "\n" not in str(caught.value)


def test_ids_that_both_have_are_told_apart(folder: Path, tmp_path: Path) -> None:
    user, own = max(plain_posts(folder).items(), key=lambda one: len(one[1]))
    lines = (folder / "tpic" / tpic.NAMES["meta"][0]).read_text().splitlines()[1:]
    keys = [line.split("\t")[:2] for line in lines]
    other = next(name for name, num in Counter(name for _, name in keys).items() if num >= 4)
    pid = own[-1]["Pid"]
    for names in tpic.NAMES.values():
        path = folder / "tpic" / names[0]
        path.write_text(path.read_text().replace(other, user))
    config = settings_of(users=0, tpic="tpic")
    report = graphstore.build(folder, tmp_path / "store", config)
    store = graphstore.open(tmp_path / "store")
    sets, names = named(store, "set"), named(store, "user")
    assert {one for one, name in zip(sets, names, strict=True) if name == user} == {"main"}
    assert {one for one, name in zip(sets, names, strict=True) if name == f"tpic-{user}"} == {"tpic"}
    assert report.notes == ["4 posts of TPIC2017 have a user of SMPD's: now tpic-…"]
    theirs = next(p for p, one in zip(store.strings("post", "pid"), sets, strict=True) if one == "tpic")
    for names in tpic.NAMES.values():
        path = folder / "tpic" / names[0]
        path.write_text(path.read_text().replace(f"{theirs}\t", f"{pid}\t"))
    report = graphstore.build(folder, tmp_path / "again", config)
    assert f"tpic-{pid}" in list(graphstore.open(tmp_path / "again").strings("post", "pid"))
    assert report.notes[0] == "1 posts of TPIC2017 have a pid of SMPD's: now tpic-…"


def test_runs_of_real_labels_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    if not DATA.is_file():
        pytest.skip("SMPD's labels are not beside this checkout (../shared/data/smpd)")
    with gzip.open(DATA, "rt") as file:
        rows = list(csv.DictReader(file))
    runs: list[list[dict[str, str]]] = []
    for row in rows:
        if runs and int(row["pid"]) == int(runs[-1][-1]["pid"]) + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    runs = [run for run in runs if 5 <= len(run) <= 30]
    posts = proxy.read_runs(DATA, ReadReport())
    assert list(posts.pids) == [row["pid"] for run in runs for row in run] and len(runs) == 9984
    assert list(posts.users) == [f"run-{run[0]['pid']}" for run in runs for _ in run]
    assert posts.score.tolist() == [float(row["label"]) for run in runs for row in run]
    assert posts.time.tolist() == [int(row["time_rank"]) for run in runs for row in run]
    # The card's figures: what the mean of the first posts is worth, and a constant
    latest = choice.latest(posts, choice.candidates(posts.users, 5), 5).values()
    truth = np.array([posts.score[own[4]] for own in latest])
    three, four = (np.array([posts.score[own[:n]].mean() for own in latest]) for n in (3, 4))
    errors = [np.abs(truth - guess).mean() for guess in (three, four, np.median(truth))]
    assert [round(float(error), 2) for error in errors] == [1.97, 1.84, 2.05]
    store = built(DATA, tmp_path / "store", users=200)
    assert store.num_nodes["post"] == 4000 and store.attributes["smpd"]["candidates"] == 9984
    assert set(store.strings("post", "title")) == {""}


LINES = ["pid,label,n_tags,category,subcategory,time_rank,postdate,concept,other"]
LINES += [
    f"{pid},{pid % 7 + 1}.25,3,Food,Tea,{1000 - pid},,,x" for pid in (*range(10, 16), *range(20, 25), 40)
]


def test_runs_go_by_pid_and_posts_by_time(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(LINES) + "\n")
    store = built(path, tmp_path / "store", users=0, shots=1)
    assert sorted(set(named(store, "user"))) == ["run-10", "run-20"]
    pids = list(store.strings("post", "pid"))
    own = [pid for pid, user in zip(pids, named(store, "user"), strict=True) if user == "run-20"]
    assert own == ["24", "23", "22", "21", "20"]  # time_rank falls here
    (document,) = store.schema.documents
    assert document.fields[1].newest is not None
    phrases = {field.name: field.phrase for field in document.fields[1].newest.fields}
    assert phrases["category"].endswith(" | The category of post {pid} is {}")
    for number, line, message in (
        (2, "9,1.5,3,a,b,5,,,x", "record '1': field 'pid': found 9, expected one above 10: pids rise"),
        (2, "x,1.5,3,a,b,5,,,x", "record '1': field 'pid': found 'x', expected a number"),
        (2, "11,1.5,3", "record '1': found 3 cells, expected 9, as in the header"),
        (2, "11,,3,a,b,5,,,x", "record '1': field 'label': found '', expected a number"),
    ):
        path.write_text("\n".join([*LINES[:number], line, *LINES[number + 1 :]]) + "\n")
        with pytest.raises(StoreError, match=message):
            built(path, tmp_path / "again", users=0)
    report = ReadReport()
    posts = proxy.read_runs(path, report, skips=True)  # the run goes on over what is left out
    assert report.skipped == {"label": 1} and Counter(posts.users) == {"run-10": 5, "run-20": 5}
    (tmp_path / "labels.csv.gz").write_bytes(gzip.compress("\n".join(LINES).encode())[:-20])
    with pytest.raises(StoreError, match=r"labels.csv.gz: found what cannot be read"):
        built(tmp_path / "labels.csv.gz", tmp_path / "again", users=0)
