"""Reports of runs whose manifests are written here: their figures, their escaping, and how they look."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_run import called

from netgpt import graphstore
from netgpt.cluster.config import load_config
from netgpt.cluster.pipeline.attempts import read_attempts
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.report import write_report
from netgpt.cluster.report.cost import cost_facts
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.files import write_json
from netgpt.trainers.progress import Progress
from netgpt.trainers.stages import folder as stage_folder
from netgpt.trainers.stages.evaluation import INTERVALS
from netgpt.trainers.tasks.evaluate import PREDICTIONS, Judge, Scores

EVIL = "<script>alert(1)</script>&$x^2$"
STAGES = ["stage1", "embeddings", "base", "tokens", "stage2", "stage3", "evaluation"]
HEADINGS = [
    *("Results", "Confusion matrices", "By group and period", "Errors", "Training", "Graph", "Cost"),
    *("Configuration", "Stages and digests"),
]


@pytest.fixture(scope="module")
def evil_store(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which one platform has a name that is a script."""
    root = tmp_path_factory.mktemp("evil")
    largest = max({r["平台"] for r in records.values()}, key=[r["平台"] for r in records.values()].count)
    changed = {k: {**r, "平台": EVIL if r["平台"] == largest else r["平台"]} for k, r in records.items()}
    (root / "records.json").write_text(json.dumps(changed, ensure_ascii=False), encoding="utf-8")
    config = Config(encoder="hash:16", time_dim=8, video_dim=4)
    graphstore.build(root / "records.json", root / "store", config)
    return root / "store"


def make_run(
    store: Path, path: Path, last: str = "evaluation", *, seed: int = 0, overrides: Sequence[str] = ()
) -> Run:
    """A run with made-up scores in which all stages up to `last`, if any, are done; nothing is trained."""
    settings = ["task.val_share=0.3", "graph.epochs=3", f"seed={seed}", *overrides]
    run = Run.start(path, load_config("demo", settings), None, store)
    examples = run.task.examples(run.store)
    judge = Judge(run.store, run.task, examples, run.config.evaluation)
    random = np.random.default_rng(seed)
    levels = np.asarray(run.store.column("video", "label")).astype(np.float64)
    noisy = {name: levels + random.normal(0, scale, len(levels)) for name, scale in NOISE.items()}
    for name in STAGES[: STAGES.index(last) + 1] if last else []:
        folder, inputs = path / name, run.inputs(name)
        stage_folder.prepare(folder, inputs, resumes=False)
        (folder / "made").write_text(name)
        outputs = ["made"]
        metrics = _metrics(name, run, judge.metrics(examples.val, noisy["stage1"][examples.val]))
        if name == "evaluation":
            scores = Scores()
            for key, values in noisy.items():
                scores.add(key, values)
            generated = np.where(np.arange(len(levels)) % 5 == 0, np.nan, np.rint(levels))
            scores.add("stage2_generated", generated, ("val", "test"))
            judge.write_predictions(folder / PREDICTIONS, scores)
            write_json(folder / INTERVALS, judge.intervals(scores))
            outputs += [PREDICTIONS, INTERVALS]
            metrics = {
                "encoder": "RGCN",
                "stages": judge.stage_metrics(scores),
                "baselines": judge.baseline_metrics(),
            }
        stage_folder.finish(folder, inputs, outputs, metrics)
    return run


NOISE = {"stage1": 0.9, "stage2": 1.4, "stage2_mean": 1.6, "stage3": 0.7}


def _metrics(name: str, run: Run, found: dict[str, Any]) -> dict[str, Any]:
    """What a stage leaves. found: metrics of the validation split."""
    platforms = list(run.store.category("video", "platform")[1])
    if name == "stage1":
        one = {f"val_{key}": value for key, value in found.items() if key != "num"}
        history = [{"epoch": e, "loss": 1 / (e + 1), **one} for e in range(3)]
        return {"best": history[-1], "epochs": 3, "history": history}
    if name in ("stage2", "stage3"):
        rates = {p: {"train_acc": 0.5, "train_mse": 2.0 - i / 9, "num": 4} for i, p in enumerate(platforms)}
        curve = [
            {"step": s, "lr": 0.1, "loss": 2 / s, **({"platform": rates} if name == "stage3" else {})}
            for s in range(10, 60, 10)
        ]
        history = [{"epoch": 0, "step": 50, "loss": 0.1234, "val_acc": 0.5, "val_mse": 1.0, "val_mae": 0.7}]
        parts = {"markers": 256, "projector": 24832}
        return {"history": history, "curve": curve, "trained_parameters": parts, "steps": 50}
    return {}


@pytest.fixture(scope="module")
def run(evil_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(evil_store, tmp_path_factory.mktemp("report") / "whole")


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return write_report(run).read_text(encoding="utf-8")


@dataclass
class Page(HTMLParser):
    """The parts of a page that tests look at: rows of its tables by section, tags, attributes, texts."""

    rows: list[tuple[str, list[str]]] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    open_tags: list[str] = field(default_factory=list)
    section: str = ""
    cell: list[str] | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        found = dict(attrs)
        self.ids += [found["id"]] if found.get("id") else []
        if tag == "section":
            self.section = found["id"] or ""
        elif tag == "tr":
            self.rows.append((self.section, []))
        elif tag in ("td", "th"):
            self.cell = []
        if tag not in ("meta", "col", "br"):
            self.open_tags.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open_tags.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag
        if tag in ("td", "th") and self.cell is not None:
            self.rows[-1][1].append(" ".join("".join(self.cell).split()))
            self.cell = None

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell.append(data)

    def row(self, section: str, first: str) -> list[str]:
        """Cells of a section's first row that starts so."""
        return next(cells for name, cells in self.rows if name == section and cells and cells[0] == first)


def read(text: str) -> Page:
    parser = Page()
    parser.feed(text)
    parser.close()
    assert parser.open_tags == []
    return parser


def test_figures_are_those_of_the_evaluation(run: Run, page: str) -> None:
    metrics = run.metrics()
    found = read(page)
    titles = {"stage3": "NetGPT", "stage1": "RGCN", "stage2": "stage 2, likeliest level"}
    for key, title in titles.items():
        test = metrics["stages"][key]["test"]
        apart = [metrics["stages"][key][part]["mae"] for part in ("test_age_zero", "test_rest")]
        expected = ["–" if v is None else f"{v:.4f}" for v in (test["acc"], test["mse"], test["mae"], *apart)]
        for i, metric in enumerate(("acc", "mse", "mae")):
            low, high = run.intervals()[key][metric]
            expected[i] += f"{low:.4f}…{high:.4f}"
        assert found.row("results", title)[1:] == expected
        values = [
            metrics["stages"][key][p][m] for p in ("train", "val", "test") for m in ("acc", "mse", "mae")
        ]
        assert [title, *(f"{v:.4f}" for v in values)] in [cells for _, cells in found.rows]
    lookup = metrics["baselines"]["lookup"]["test"]
    shown = found.row("results", "lookup")[1:4]
    assert [text[:6] for text in shown] == [f"{lookup[m]:.4f}" for m in ("acc", "mse", "mae")]
    assert found.row("results", "RGCN graph")[1:4] == ["0.6313", "0.7801", "0.5844"]
    assert found.row("results", "NetGPT graph, text")[1:4] == ["0.6777", "0.7169", "0.5457"]
    test = metrics["stages"]["stage2_generated"]["test"]
    assert f"{test['unparsed']:,} of {test['num']:,} texts state no level" in page
    for name, period in metrics["stages"]["stage3"]["test"]["period"].items():
        assert found.row("groups", name)[1:5] == [
            str(period["num"]),
            *(f"{period[m]:.4f}" for m in ("acc", "mse", "mae")),
        ]
    platform = metrics["stages"]["stage3"]["test"]["platform"][EVIL]
    assert found.row("groups", EVIL)[1:3] == [str(platform["num"]), f"{platform['acc']:.4f}"]


@pytest.mark.parametrize(("key", "place"), [("stage3", 0), ("stage1", 1), ("stage2", 2)])
def test_confusion_matrices_count_the_predictions(run: Run, page: str, key: str, place: int) -> None:
    table = pq.read_table(run.path / "evaluation" / PREDICTIONS).to_pylist()
    counts = [[0] * 10 for _ in range(10)]
    for row in table:
        if row["split"] == "test":
            counts[row["level"]][row[f"{key}_level"]] += 1
    rows = [cells for section, cells in read(page).rows if section == "confusion" and len(cells) == 13]
    assert len(rows) == 30
    for level, cells in enumerate(rows[10 * place : 10 * place + 10]):
        num, right = sum(counts[level]), counts[level][level]
        share = f"{100 * right / num:.0f}%" if num else "–"
        assert cells == [str(level), *map(str, counts[level]), str(num), share]


def test_the_graph_s_tables_are_the_store_s(run: Run, page: str) -> None:
    found, store = read(page), run.store
    for edge in store.edge_types:
        layout = store.relation(edge).layout
        assert [*edge, f"{store.num_edges[edge]:,}", layout] in [cells for _, cells in found.rows]
    for name in store.node_types:
        assert [name, f"{store.num_nodes[name]:,}"] in [cells[:2] for _, cells in found.rows]
    for name, nodes in run.task.examples(store).named().items():
        title = {"val": "validation"}.get(name, name)
        assert found.row("graph", title)[1] == f"{len(nodes):,}"
    assert store.digest in page and store.attributes["source_digest"] in page
    assert all(str(value) in page for value in store.attributes["encoders"].values())
    for name in STAGES:
        assert stage_folder.stage_digest(run.path / name) in page
    assert found.row("configuration", "val_share") == ["val_share", "0.3"]
    assert found.row("training", "Stage 3: rating")[1:3] == ["50 steps, 1 epoch", "0.1234"]


def test_names_of_the_data_are_text(page: str) -> None:
    assert EVIL not in page and "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;$x^2$" in page
    found = read(page)
    assert "script" not in found.tags and "x^2" in " ".join(cells[0] for _, cells in found.rows if cells)
    assert any(EVIL in value for _, name, value in found.attributes if name == "aria-label")  # a chart's
    assert not [name for _, name, _ in found.attributes if name.startswith("on")]


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    own = re.sub(r"<dd>https://video\.example/\d+</dd>", "", page)  # addresses in the data, as text
    for outside in ("http://", "https://", "src=", "@import", "<link", "<base", "url(http", "//cdn"):
        assert outside not in own, outside
    found = read(page)
    assert len(found.ids) == len(set(found.ids))
    references = re.findall(r"""(?:href="|url\()([^")]*)""", unescape(page))
    assert references and all(ref.startswith("#") and ref[1:] in found.ids for ref in references)


def test_the_worst_answers_and_what_was_told_against_what_came(run: Run, page: str) -> None:
    table = pq.read_table(run.path / "evaluation" / PREDICTIONS, filters=[("split", "==", "test")])
    rows = table.to_pylist()
    rows.sort(key=lambda row: -abs(row["stage3_score"] - row["level"]))
    found = re.findall(r"<h4>(\d+): level (\d+), answered level (\d+), score ([-.\d]+)</h4>", page)
    expected = [(str(r["id"]), str(r["level"]), str(r["stage3_level"])) for r in rows[:5]]
    assert [one[:3] for one in found] == expected
    titles = {"stage3": "NetGPT", "stage1": "RGCN", "stage2": "stage 2, likeliest level"}
    for key, title in titles.items():
        told, came = (np.array([r[name] for r in rows], np.float64) for name in (f"{key}_score", "level"))
        order = sorted(
            range(len(rows)), key=lambda i: (told[i], table["id"].to_pylist().index(rows[i]["id"]))
        )
        parts = np.array_split(np.array(order), 10)
        gap = sum(len(p) * abs(told[p].mean() - came[p].mean()) for p in parts) / len(rows)
        assert f"{title} {gap:.4f}" in page
    assert "The data are synthetic" in page  # the records are made ones
    assert "No reasons: " in page  # nothing was trained


def test_the_page_is_good_html(page: str) -> None:
    found = read(page)
    assert page.startswith("<!DOCTYPE html>") and page.count("<h1") == 1
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", page) == HEADINGS
    scopes = [tag for tag, name, _ in found.attributes if name == "scope"]
    assert scopes.count("th") == found.tags.count("th")
    charts = page.count('<svg class="chart"')
    assert charts >= 3 + 2 + 4 + 1 and page.count('role="img" aria-label="') == charts


def test_the_same_run_gives_the_same_bytes(run: Run, page: str, tmp_path: Path) -> None:
    assert write_report(Run.open_(run.path), tmp_path / "again.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("last", [None, "stage1", "stage3"])
def test_an_unfinished_run_says_what_is_missing(evil_store: Path, tmp_path: Path, last: str | None) -> None:
    if last is None:
        run = Run.start(tmp_path / "run", load_config("demo"), None, evil_store)
        (tmp_path / "run" / "stage1").mkdir()
        Progress(tmp_path / "run" / "stage1").update(7, 90, "step")
    else:
        run = make_run(evil_store, tmp_path / "run", last)
    text = write_report(run).read_text(encoding="utf-8")
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", text) == HEADINGS
    assert "Evaluation is not started." in text
    assert read(text).row("graph", "total")
    charts = {None: 1, "stage1": 1 + 1 + 2, "stage3": 1 + 3 + 4}[last]
    assert text.count('<svg class="chart"') == charts
    # Of the first stage that is not done its own command; the others would refuse to start
    own = {None: "pretrain", "stage1": "embed", "stage3": "evaluate"}[last]
    commands = set(re.findall("<code>netgpt (\\w+)", text))
    assert commands == ({"evaluate"} if own == "evaluate" else {"run", own} - {"embed"})
    assert not text.count("<code>netgpt run ") or "netgpt run --config RUN/config.yaml --out RUN" in text
    assert ("Stage 1: pretraining is unfinished (7 of 90 steps)." in text) == (last is None)


def test_results_of_other_inputs_are_not_shown(evil_store: Path, tmp_path: Path) -> None:
    run = make_run(evil_store, tmp_path / "run")
    (run.path / "stage3" / "made").write_text("something else")
    text = write_report(Run.open_(run.path)).read_text(encoding="utf-8")
    assert "Stage 3: rating is out of date" in text and "Evaluation is out of date" in text
    assert 'class="headline"' not in text and 'class="matrix"' not in text


def event(kind: str, name: str, attempt: str, time: float, **values: object) -> str:
    return json.dumps({"event": kind, "stage": name, "attempt": attempt, "time": time, **values})


def test_cost_is_summed_over_attempts(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(run.path, path)
    gpu = {"workers": 8, "device": "cuda", "threads": 4}
    cpu = {"workers": 2, "device": "cpu", "threads": 3}
    lines = [
        event("start", "stage1", "a", 1000.0, **cpu),
        event("end", "stage1", "a", 1100.5, outcome="failed", restarts=2, peak_bytes=None),
        event("start", "stage1", "b", 2000, **cpu),
        event("end", "stage1", "b", 2300, outcome="done", restarts=1, peak_bytes=1_500_000_000),
        event("start", "stage3", "c", 3000, **gpu),
        event("start", "stage3", "d", 4000, **gpu),
        event("end", "stage3", "d", 7600, outcome="done", restarts=0, peak_bytes=2_000_000_000),
        "not json",
        '["a list"]',
        event("start", "stage2", "e", float("nan"), **cpu),
        '{"event": "end", "stage": "sta',
    ]
    (path / "attempts.jsonl").write_text("\n".join(lines), encoding="utf-8")
    text = write_report(Run.open_(path)).read_text(encoding="utf-8")
    found = read(text)
    # stage, attempts, time, workers, worker-seconds, CPU hours, GPU hours, restarts, peak memory
    assert found.row("cost", "stage 1: pretraining")[:9] == [
        *("stage 1: pretraining", "2", "6 min 40 s", "2", "801", "0.667", "–", "3", "1.5 GB")
    ]
    assert found.row("cost", "stage 1: pretraining")[-1] == "1 failed"
    assert found.row("cost", "stage 3: rating")[:9] == [
        *("stage 3: rating", "2", "1 h 00 min", "8", "28,800", "–", "8.000", "0", "2.0 GB")
    ]
    assert found.row("cost", "stage 3: rating")[-1] == "1 without an end"
    assert found.row("cost", "stage 2: alignment")[1:8] == ["–"] * 7
    assert found.row("cost", "total")[1:9] == [
        *("4", "1 h 06 min", "–", "29,601", "0.667", "8.000", "3", "2.0 GB")
    ]


def test_a_run_without_attempts_says_so(page: str, run: Run) -> None:
    assert "Time and workers are not recorded" in page
    assert read_attempts(run.path) == []
    assert cost_facts([], [("stage1", "stage 1", 5), ("stage2", "stage 2", None)], 10).total.disk_bytes == 15
    size = sum(p.stat().st_size for p in (run.path / "stage1").rglob("*") if p.is_file())
    assert read(page).row("cost", "stage 1: pretraining")[-1] == f"{size / 1000:.1f} kB"


def test_the_command(run: Run, page: str, tmp_path: Path) -> None:
    done = called("report", run.path, "--out", tmp_path / "sub" / "page.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sub" / "page.html").read_text(encoding="utf-8") == page
    assert done.stdout == "" and "page.html: written" in done.stderr
    for folder in (tmp_path, tmp_path / "nowhere"):
        done = called("report", folder)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and "found no run" in line
    assert not (tmp_path / "nowhere").exists() and not (tmp_path / "report.html").exists()
    done = called("report", run.path, "--out", tmp_path)
    assert done.returncode == 2 and "found a folder" in done.stderr


# What a reader sees: a frame of the wanted width inside a page that measures it
FRAME = Path(__file__).with_name("report_frame.html")


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, int, bool], dict[str, Any]]:
    """Measures a page in a frame of a width and height, in light or dark."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium or google-chrome is installed")

    def measure(text: str, width: int, height: int, dark: bool) -> dict[str, Any]:
        root = tmp_path_factory.mktemp("browser")
        assert "</script" not in text
        # A frame, since a window of a headless browser is no narrower than some 500 px
        wrapper = FRAME.read_text(encoding="utf-8").replace("WIDTH", str(width))
        wrapper = wrapper.replace("HEIGHT", str(height)).replace("PAGE", text)
        (root / "wrapper.html").write_text(wrapper, encoding="utf-8")
        done = subprocess.run(
            [
                *(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                *(f"--user-data-dir={root / 'profile'}", f"--window-size={max(width, 600)},{height + 100}"),
                *("--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
                (root / "wrapper.html").as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)
        assert found, done.stderr[-2000:]
        measured: dict[str, Any] = json.loads(unescape(found[1]))
        measured["console"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return measured

    return measure


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1440, 900)])
def test_nothing_overflows_in_a_browser(
    chromium: Callable[[str, int, int, bool], dict[str, Any]], page: str, width: int, height: int, dark: bool
) -> None:
    found = chromium(page, width, height, dark)
    assert found["width"] == width and found["dark"] == dark
    assert found["scroll"] <= found["client"] and found["outside"] == []
    assert found["errors"] == [] and found["console"] == []
    assert found["headings"] == HEADINGS
    assert found["font"] >= 16 and found["small"] == []
    assert all(overflow == "auto" for *_, overflow in found["boxes"])
    assert any(inner > outer for inner, outer, _ in found["boxes"]) or width > 400
    lightness = [sum(map(int, re.findall(r"\d+", found[key])[:3])) for key in ("background", "ink")]
    assert (
        (lightness[0] < 150 and lightness[1] > 600) if dark else (lightness[0] > 700 and lightness[1] < 150)
    )
    for drawn, stroke in found["charts"]:
        assert 250 < drawn <= width
        assert stroke.startswith("rgb") and stroke != "rgb(0, 0, 0)"


def test_the_browser_sees_what_overflows(
    chromium: Callable[[str, int, int, bool], dict[str, Any]], page: str
) -> None:
    wide = page.replace("<h2", '<p class="odd" style="width:500px;max-width:none">wide</p><h2', 1)
    found = chromium(wide, 390, 844, False)
    assert found["scroll"] > found["client"] and 'class="odd"' in found["outside"][0]


def test_an_unfinished_report_fits_a_phone(
    chromium: Callable[[str, int, int, bool], dict[str, Any]], evil_store: Path, tmp_path: Path
) -> None:
    run = Run.start(tmp_path / ("a-long-name-" * 10), load_config("demo"), None, evil_store)
    found = chromium(write_report(run).read_text(encoding="utf-8"), 390, 844, False)
    assert found["width"] == 390 and found["scroll"] <= found["client"] and found["outside"] == []
    assert found["headings"] == HEADINGS and found["console"] == []
