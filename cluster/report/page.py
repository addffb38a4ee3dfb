"""The page itself: facts through a template, with every text escaped and every number formatted."""

from __future__ import annotations

from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from netgpt.cluster.report.charts import draw, swatch
from netgpt.cluster.report.facts import Chart, ChartGroup, Confusion, Metrics, Report, Result, Results
from netgpt.cluster.report.results import UNFAIR, best_of, figure
from netgpt.trainers.tasks.evaluate import interval_text

NONE = "–"
STATE_SIGNS = {"done": "✓", "out of date": "!", "unfinished": "…", "not started": "○"}


def render(report: Report) -> str:
    """The page as text. The same report gives the same text."""
    environment = Environment(
        loader=PackageLoader("netgpt.cluster", "report/templates"),
        autoescape=True,  # whatever the data calls its groups and settings
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": figure,
        "interval": interval_text,
        "count": count,
        "size": size,
        "duration": duration,
        "number": number,
        "hours": hours,
    }
    style = (resources.files("netgpt.cluster") / "report" / "templates" / "report.css").read_text(
        encoding="utf-8"
    )
    return environment.get_template("report.html").render(
        report=report,
        style=Markup(style),
        sections=_sections(report),
        signs=STATE_SIGNS,
        best=_best(report.results),
        charts=_Charts(),
        groups=chart_groups,
        shades=shades,
        test_parts=test_parts,
        compared=compared,
        groupings=groupings,
        digits=lambda matrix: max(2, len(str(max(max(row) for row in matrix.counts)))),
    )


def _sections(report: Report) -> list[tuple[str, str]]:
    """Anchors and headings, in the order of the page."""
    return [
        ("results", "Results"),
        ("confusion", "Confusion matrices"),
        ("groups", "By group and period"),
        ("errors", "Errors"),
        ("training", "Training"),
        ("graph", "Graph"),
        ("cost", "Cost"),
        ("configuration", "Configuration"),
        ("digests", "Stages and digests"),
    ]


class _Charts:
    """Draws charts, each with a key of its own on the page, and their legends."""

    def __init__(self) -> None:
        self._num = 0

    def draw(self, chart: Chart) -> Markup:
        self._num += 1
        return draw(chart, f"chart{self._num}")

    def legend(self, charts: tuple[Chart, ...]) -> list[tuple[Markup, str]]:
        """Samples and names of the lines of some charts, without those of one line alone."""
        names = {s.style: s.name for chart in charts for s in chart.series}
        if len(names) < 2:
            return []
        bars = any(chart.bars for chart in charts)
        return [(swatch(style, bars=bars), names[style]) for style in sorted(names)]


def _best(results: Results | None) -> dict[str, set[str]]:
    """By metric the keys of the best fair results of the test split: all that show the same figure."""
    if results is None:
        return {}
    fair = [r for r in (*results.baselines, *results.stages) if r.key not in UNFAIR]
    bests = {metric.name: best_of(fair, metric) for metric in results.metrics}
    return {
        name: {r.key for r in fair if figure(r.test.values[name]) == figure(best.test.values[name])}
        for name, best in bests.items()
        if best is not None
    }


def chart_groups(groups: tuple[ChartGroup, ...]) -> list[ChartGroup]:
    """Those that have something to show or to say."""
    return [group for group in groups if group.charts or group.missing]


def compared(results: Results) -> list[Result]:
    """What tables by group and period have columns for."""
    return [r for key in results.compared for r in results.stages if r.key == key]


def groupings(results: Results) -> list[str]:
    """Titles of what the results are told apart by."""
    return list(dict.fromkeys(title for r in results.stages for title in r.groups))


def test_parts(results: Results, grouping: str) -> list[tuple[str, int, list[Metrics | None]]]:
    """Rows of a table by group or by period: name, number of examples, and metrics of what is compared.

    grouping: the title of one; empty: periods.
    """
    parts: list[dict[str, Metrics]] = [
        r.groups.get(grouping, {}) if grouping else r.periods for r in compared(results)
    ]
    names = list(dict.fromkeys(name for part in parts for name in part))
    rows = [
        (name, max(part[name].num for part in parts if name in part), [part.get(name) for part in parts])
        for name in names
    ]
    return sorted(rows, key=lambda row: -row[1]) if grouping else rows


def shades(confusion: Confusion) -> list[tuple[int, int, float | None, list[tuple[int, int, int]]]]:
    """Rows of a matrix: true choice, number of examples, share of right ones, and by given choice its number
    of examples and percentage of the row."""
    rows = []
    for choice, counts in enumerate(confusion.counts):
        num = sum(counts)
        right = counts[choice] / num if num else None
        cells = [(given, n, round(100 * n / num) if num else 0) for given, n in enumerate(counts)]
        rows.append((choice, num, right, cells))
    return rows


def count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def size(value: int | None) -> str:
    """Bytes in powers of 1000."""
    if value is None:
        return NONE
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.{1 if value < 100 * scale else 0}f} {unit}"
    return f"{value} B"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def number(value: float | None) -> str:
    """One decimal, or none from 100."""
    if value is None:
        return NONE
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def hours(value: float | None) -> str:
    return NONE if value is None else f"{value:,.3f}" if value < 10 else f"{value:,.1f}"
