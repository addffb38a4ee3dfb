"""Charts as SVG inside the page, drawn by matplotlib.

They hold no colours and no fonts of their own: what is drawn in a marker colour is given a variable of the
page's style, so that one chart is readable in light, in dark and on paper. Legends are HTML beside the chart:
the texts in an SVG are numbers and our own words alone, whatever the data calls its platforms.
"""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from netgpt.cluster.report.facts import Chart, Series

SIZE_INCHES = (4.9, 3.1)
"""One chart is a phone wide (353 units), so that its texts are never scaled down much."""
# Any colours that nothing else uses: they stand for variables of the page
INK, GRID = "#0a0b0c", "#0d0e0f"
STYLES = (
    ("#a00001", "-", "o"),
    ("#a00002", (0, (5, 2)), "s"),
    ("#a00003", (0, (1, 1.5)), "^"),
    ("#a00004", (0, (6, 2, 1, 2)), "D"),
    ("#a00005", (0, (3, 1.5)), "v"),
    ("#a00006", (0, (8, 2, 1, 2, 1, 2)), "X"),
)
"""Colour, dashes and marker of a line: any two differ in all three, for those who see no colours."""
NUM_STYLES = len(STYLES)
"""Lines that a reader can tell apart."""
VARIABLES = {INK: "--muted", GRID: "--grid", **{c: f"--c{i + 1}" for i, (c, *_) in enumerate(STYLES)}}
FEW_POINTS = 30
"""Lines of up to so many points have markers."""
_SETTINGS: Any = {  # the stubs want a dictionary of these keys alone
    "text.parse_math": False,
    "svg.fonttype": "none",  # texts stay texts: the page's font, and readable by search
    "font.size": 12.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.9,
    "hatch.linewidth": 1.2,
}


def draw(chart: Chart, key: str) -> Markup:
    """The chart as an svg element. key: unlike that of any other chart of the page."""
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": key}):
        figure = Figure(figsize=SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
        for place, series in enumerate(chart.series):
            (_columns if chart.bars else _line)(axes, series, place, len(chart.series))
        axes.set(xlabel=chart.xlabel, ylabel=chart.ylabel)
        highest = max((y for series in chart.series for y in series.ys), default=0.0)
        # A little above what is there: markers on the upper edge are whole
        axes.set_ylim(0, (chart.top or highest or 1.0) * 1.05)
        if chart.ticks:
            axes.set_xticks(range(len(chart.ticks)), chart.ticks)
            axes.set_xlim(-0.6, len(chart.ticks) - 0.4)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        if chart.bars:
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}%"))
        text = StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    return _inline(text.getvalue(), _label(chart), key)


_NO_METADATA: Any = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _line(axes: Any, series: Series, place: int, num: int) -> None:
    colour, dashes, marker = STYLES[series.style]
    few = len(series.xs) <= FEW_POINTS
    # Earlier lines wider: one that lies exactly below another still shows at its sides
    width = 1.7 + 0.8 * (num - 1 - place)
    axes.plot(
        series.xs,
        series.ys,
        color=colour,
        linestyle=dashes,
        linewidth=min(width, 4.0),
        marker=marker if few else None,
        markersize=4 + min(width, 4.0),
        clip_on=not few,
    )


def _columns(axes: Any, series: Series, place: int, num: int) -> None:
    colour, *_ = STYLES[series.style]
    width = 0.8 / num
    xs = [x + width * (place - (num - 1) / 2) for x in series.xs]
    filled = (
        {"color": colour} if place % 2 == 0 else {"facecolor": "none", "edgecolor": colour, "hatch": "////"}
    )
    axes.bar(xs, series.ys, width=width * 0.92, linewidth=1.2, **filled)


def _label(chart: Chart) -> str:
    """What a screen reader says of the chart: what it shows, and where each line ends."""
    said = [f"{chart.title}. {chart.ylabel} by {chart.xlabel}."]
    if chart.bars:
        return said[0]
    for series in chart.series:
        if series.xs:
            said.append(f"{series.name}: from {series.ys[0]:.3g} to {series.ys[-1]:.3g}.")
    return " ".join(said)


_ID, _REFERENCE = re.compile(r' id="([^"]*)"'), re.compile(r'((?:xlink:)?href=")#|(url\()#')


def _inline(text: str, label: str, key: str) -> Markup:
    """matplotlib's file as a part of a page: no document around it, no names of other charts."""
    inner = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    box = re.search(r'viewBox="([\d. -]+)"', text)
    assert box is not None
    for noise in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style.*?</style>"):
        inner = re.sub(noise, "", inner, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", inner))
    inner = _ID.sub(lambda m: f' id="{key}-{m[1]}"' if m[1] in used else "", inner)
    inner = _REFERENCE.sub(lambda m: f"{(m[1] or m[2]).replace('xlink:', '')}#{key}-", inner)
    inner = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", inner)
    for colour, variable in VARIABLES.items():
        inner = inner.replace(colour, f"var({variable})")
    inner = re.sub(r"\n\s*", "\n", inner).strip()
    # Markup.format escapes what it is given; the drawing itself is matplotlib's, which escapes its texts
    opening = Markup('<svg class="chart" role="img" aria-label="{}" viewBox="{}">').format(label, box[1])
    return opening + Markup(inner) + Markup("</svg>")


def swatch(style: int, *, bars: bool) -> Markup:
    """The sample of a line or column for a legend."""
    _, dashes, _ = STYLES[style]
    colour = f"var(--c{style + 1})"
    if bars:
        fill = colour if style % 2 == 0 else "none"
        inner = (
            f'<rect x="1" y="1" width="20" height="10" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>'
        )
        if fill == "none":
            inner += f'<path d="M4 11 10 1M10 11 16 1M16 11 21 3" stroke="{colour}" stroke-width="1.2"/>'
    else:
        pattern = "" if isinstance(dashes, str) else " ".join(f"{2 * d:g}" for d in dashes[1])
        inner = f'<path d="M0 6H34" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{pattern}"/>'
        inner += _mark(style, colour)
    return Markup(f'<svg class="swatch" viewBox="0 0 34 12" aria-hidden="true">{inner}</svg>')


def _mark(style: int, colour: str) -> str:
    shapes = (
        '<circle cx="17" cy="6" r="3.6" {}/>',
        '<path d="M13.5 2.5h7v7h-7z" {}/>',
        '<path d="M17 1.6 21 9.4H13z" {}/>',
        '<path d="M17 1.5 21.5 6 17 10.5 12.5 6z" {}/>',
        '<path d="M17 10.4 13 2.6h8z" {}/>',
        '<path d="M14 2 20 10M20 2 14 10" stroke-width="2.6" stroke="{0}" {{}}/>'.replace("{0}", colour),
    )
    return shapes[style].format(f'fill="{colour}"')
