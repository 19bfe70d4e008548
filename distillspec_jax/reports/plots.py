"""The report's plots, as inline SVG that takes its colours from the page.

matplotlib draws with placeholder colours, which are exchanged for CSS variables: one drawing serves light and
dark pages. Text stays text, so that it is sharp, selectable and read aloud. Every plot is small enough to be
legible at the width of a phone.
"""

from __future__ import annotations

import hashlib
import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import Measure, ResultRow
from distillspec_jax.reports import summary
from distillspec_jax.terminal import shown

# A placeholder stands for the CSS variable of the same place in `VARIABLES`.
_FOREGROUND, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = ("#040404", "#050505", "#060606", "#070707", "#080808", "#090909")
_VARIABLES = {
    _FOREGROUND: "var(--text)",
    _MUTED: "var(--muted)",
    _GRID: "var(--rule)",
    **{color: f"var(--series-{i})" for i, color in enumerate(_SERIES)},
}
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHED = (0, (4, 3))
_SIZE = (4.6, 3.1)
_LONGEST_NAME = 40
"""Characters of a name that is drawn."""
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a label may hold dollars
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _FOREGROUND,
    "axes.labelcolor": _FOREGROUND,
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def series_of(rows: Sequence[ResultRow]) -> dict[str, int]:
    """Numbers the colour and marker of each drafter, throughout a report."""
    return {label: i % len(_SERIES) for i, label in enumerate(results.drafters(rows))}


def block_efficiency(rows: Sequence[ResultRow], temperature: float) -> str:
    """Plots block efficiency by block size with its interval; dashed, what the acceptance predicts."""

    def draw(axes: Axes) -> None:
        sizes = summary.block_sizes(rows)
        for label, i in series_of(rows).items():
            found = [row for size in sizes if (row := summary.find(rows, label, temperature, size))]
            x = [row.block_size for row in found]
            style: dict[str, Any] = {"color": _SERIES[i], "marker": _MARKERS[i], "label": _label(label)}
            axes.plot(x, [row.block_efficiency for row in found], **style)
            low, high = ([_ends(row, "block_efficiency")[end] for row in found] for end in (0, 1))
            axes.fill_between(x, low, high, color=_SERIES[i], alpha=0.18, lw=0)
            expected = np.array(
                [summary.if_independent(row) for row in found], float
            )  # None is NaN: no point
            axes.plot(x, expected, color=_SERIES[i], ls=_DASHED, lw=1.1)
        axes.plot([], [], color=_MUTED, ls=_DASHED, lw=1.1, label="if independent")
        axes.set(xlabel="block size γ", ylabel="tokens per target call", xticks=sizes)
        axes.set_ylim(_shared_limits(rows, "block_efficiency", lowest=1.0))
        axes.legend(loc="upper left")

    return _svg(draw, f"Block efficiency by block size at temperature {temperature:g}")


def speedup(rows: Sequence[ResultRow], temperature: float) -> str | None:
    """Plots the speed-up over decoding without a draft, by block size; None if nothing was timed."""
    timed = [row for row in rows if row.temperature == temperature and row.speedup is not None]
    labels = results.drafters(timed)
    if not labels:
        return None

    def draw(axes: Axes) -> None:
        sizes, width = summary.block_sizes(timed), 0.8 / len(labels)
        for n, label in enumerate(labels):
            own = [row for row in timed if row.drafter == label]
            x = [sizes.index(row.block_size) + (n - (len(labels) - 1) / 2) * width for row in own]
            color = _SERIES[series_of(rows)[label]]
            axes.bar(
                x,
                [row.interval("speedup").value for row in own],
                0.9 * width,
                color=color,
                label=_label(label),
            )
            low, high = ([_ends(row, "speedup")[end] for row in own] for end in (0, 1))
            axes.vlines(x, low, high, color=_FOREGROUND, lw=1.2)
        axes.axhline(1.0, color=_FOREGROUND, lw=1.2)
        axes.set(xlabel="block size γ", ylabel="speed-up over no draft", xticks=range(len(sizes)))
        axes.set_xticklabels(map(str, sizes))
        axes.grid(visible=False, axis="x")
        top = _shared_limits(rows, "speedup", lowest=0.0)[1]
        axes.set_ylim(0, top * 1.2)  # room for the legend
        axes.legend(loc="upper left", ncols=min(len(labels), 3), columnspacing=1.0, handlelength=1.0)

    return _svg(draw, f"Measured speed-up by block size at temperature {temperature:g}")


def per_prompt(rows: Sequence[ResultRow], temperature: float, block_size: int) -> str | None:
    """Plots each prompt's block efficiency under two drafters: is the gain broad, or that of a few prompts?

    None where there are no two drafters to compare.
    """
    pair = summary.main_pair(rows)
    if pair is None:
        return None
    ours, theirs = (summary.find(rows, label, temperature, block_size) for label in pair)
    if ours is None or theirs is None:
        return None

    def draw(axes: Axes) -> None:
        before, after = (
            np.nan_to_num([record.value("block_efficiency") for record in row.per_prompt.records])
            for row in (theirs, ours)
        )
        color, top = _SERIES[series_of(rows)[pair.drafter]], max(*before, *after) * 1.05
        better, worse = (
            sum(sign * (a - b) > 0 for a, b in zip(after, before, strict=True)) for sign in (1, -1)
        )
        axes.plot([1, top], [1, top], color=_MUTED, lw=1.0)
        axes.scatter(before, after, s=18, color=color, alpha=0.6, linewidths=0)
        axes.set(
            xlabel=f"{_named(pair.against)}: tokens per call",
            ylabel=f"{_named(pair.drafter)}: tokens per call",
        )
        said = f"better on {better}, worse on {worse} of {len(after)}"
        axes.set_title(said, fontsize=9, color=_MUTED, loc="left")

    names = f"{pair.drafter} against {pair.against}"
    return _svg(draw, f"Block efficiency prompt by prompt, {names}, at temperature {temperature:g}")


def by_position(rows: Sequence[ResultRow], temperature: float) -> str | None:
    """Plots the share of target calls that accepted each draft position, at the largest block size."""
    sizes = summary.block_sizes(rows)
    if not sizes:
        return None

    def draw(axes: Axes) -> None:
        for label, i in series_of(rows).items():
            row = summary.find(rows, label, temperature, sizes[-1])
            if row is not None:
                place = range(1, 1 + len(row.acceptance_joint))
                style: dict[str, Any] = {"color": _SERIES[i], "marker": _MARKERS[i], "label": _label(label)}
                axes.plot(place, np.array(row.acceptance_joint, float), **style)
        axes.set(xlabel="draft position", ylabel="share of calls accepting it", ylim=(0, 1.02))
        axes.set_xticks(range(1, sizes[-1] + 1))
        axes.legend(loc="upper right")

    return _svg(draw, f"Acceptance by draft position at temperature {temperature:g}, block size {sizes[-1]}")


def training(
    curves: Mapping[str, Sequence[Mapping[str, Any]]],
    split: str,
    field: str,
    what: str,
    series: Mapping[str, int] | None = None,
) -> str | None:
    """Plots one metric of some training runs, from their `metrics.jsonl`; None where no run has it.

    Args:
      curves: label to the lines of the file.
      split, field: which lines and which number of them.
      what: the axis label.
      series: colours of drafters (`series_of`); other labels get what is left.
    """
    found = {
        label: [
            (line["step"], math.nan if line[field] is None else line[field])
            for line in lines
            if line.get("split") == split and field in line
        ]
        for label, lines in curves.items()
    }
    found = {label: points for label, points in found.items() if points}
    if not found:
        return None
    taken = dict(series or {})
    free = [i for i in range(len(_SERIES)) if i not in taken.values()] or [0]
    for n, label in enumerate(label for label in found if label not in taken):
        taken[label] = free[n % len(free)]

    def draw(axes: Axes) -> None:
        for label, points in found.items():
            marker = _MARKERS[taken[label]] if len(points) < 20 else None
            axes.plot(
                *zip(*points, strict=True), color=_SERIES[taken[label]], marker=marker, label=_label(label)
            )
        axes.set(xlabel="training step", ylabel=what)
        axes.legend(loc="best")

    return _svg(draw, f"{what} by training step")


def _label(name: str) -> str:
    """A drafter's name in a legend, which would leave out one that begins with a line below."""
    return f" {_named(name)}" if name.startswith("_") else _named(name)


def _named(name: str) -> str:
    """A name as it is drawn; of a long one the middle is left out, or no room were left for the plot."""
    text = shown(name)
    half = _LONGEST_NAME // 2
    return text if len(text) <= _LONGEST_NAME else f"{text[:half]}…{text[-half:]}"


def _ends(row: ResultRow, measure: Measure) -> Sequence[float]:
    """The ends of a number's interval, without width where it has none."""
    found = row.interval(measure)
    return found.ends or (found.value, found.value)


def _shared_limits(rows: Sequence[ResultRow], measure: Measure, lowest: float) -> tuple[float, float]:
    """Sets one scale for the plots of all temperatures, so that they can be compared by eye."""
    known = [row for row in rows if np.isfinite(row.interval(measure).value)]
    highest = max(_ends(row, measure)[1] for row in known)
    return lowest, lowest + 1.05 * (max(highest, 1.0) - lowest)


def _svg(draw: Callable[[Axes], None], title: str) -> str:
    """Draws one pair of axes as an `<svg>` element that says what it shows."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        draw(figure.subplots())
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # Several drawings share one page: their ids must not meet.
    name = f"p{hashlib.sha256(svg.encode()).hexdigest()[:8]}-"
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}", svg)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, variable)
    svg = re.sub(r"font(-family)?: ([^;\"]*?)'?(DejaVu Sans|sans-serif)[^;\"]*", _page_font, svg)
    label = html.escape(shown(title), quote=True)
    head = f'<svg role="img" aria-label="{label}"'
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"| (width|height)="[\d.]+pt"', "", svg, count=4)  # HTML implies them
    return svg.replace("<svg", head, 1)


def _page_font(match: re.Match[str]) -> str:
    return "font-family: inherit" if match[1] else f"font: {match[2].strip()} var(--font)"
