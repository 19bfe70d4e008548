"""Plots of a group's rows by block size and by draft, and of training runs by step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import Measure, ResultRow
from distillspec_jax.reports import summary
from distillspec_jax.reports.canvas import (
    DASHED,
    FOREGROUND,
    MARKERS,
    MUTED,
    SERIES,
    in_legend,
    legend,
    short,
    svg,
)
from distillspec_jax.reports.series import ends, series_of

_MOST_DOTS = 1_000
"""Prompts of a scatter plot: a page of all of many would be too large."""
_CLOSE = 0.05
"""The band around a prediction."""
_IN_WORDS = {"block_efficiency": "tokens per target call", "speedup": "speed-up over no draft"}
_TITLES = {"block_efficiency": "Block efficiency", "speedup": "Measured speed-up"}


def block_efficiency(rows: Sequence[ResultRow], temperature: float, block_size: int) -> str | None:
    """Plots block efficiency by block size with its interval; dashed, what the acceptance predicts.

    None where no drafter was measured. Here and below, `block_size` is the page's (`series_of`).
    """
    if not any(row.is_drafted and row.temperature == temperature for row in rows):
        return None

    def draw(axes: Axes) -> None:
        sizes = summary.block_sizes(rows)
        for label, i in series_of(rows, block_size).items():
            found = [row for size in sizes if (row := summary.find(rows, label, temperature, size))]
            x = [row.block_size for row in found]
            axes.plot(x, [row.block_efficiency for row in found], **_style(label, i))
            low, high = ([ends(row, "block_efficiency")[end] for row in found] for end in (0, 1))
            axes.fill_between(x, low, high, color=SERIES[i], alpha=0.18, lw=0)
            expected = np.array(
                [summary.if_independent(row) for row in found], float
            )  # None is NaN: no point
            axes.plot(x, expected, color=SERIES[i], ls=DASHED, lw=1.1)
        axes.plot([], [], color=MUTED, ls=DASHED, lw=1.1, label="if independent")
        axes.set(xlabel="block size γ", ylabel=_IN_WORDS["block_efficiency"], xticks=sizes)
        axes.set_ylim(_shared_limits(rows, "block_efficiency", lowest=1.0))
        legend(axes)

    return svg(draw, f"Block efficiency by block size at temperature {temperature:g}")


def speedup(rows: Sequence[ResultRow], temperature: float, block_size: int) -> str | None:
    """Plots the speed-up over decoding without a draft, by block size; None if nothing was timed."""
    here = [row for row in rows if row.is_drafted and row.temperature == temperature]
    timed = [row for row in here if row.speedup is not None]
    colors = series_of(rows, block_size)
    labels = [label for label in results.drafters(timed) if label in colors]
    if not labels:
        return None
    at = {
        size: [label for label in labels if summary.find(timed, label, temperature, size)]
        for size in summary.block_sizes(timed)
    }

    def draw(axes: Axes) -> None:
        sizes, width = list(at), 0.8 / max(map(len, at.values()))
        for label in labels:
            own = [row for row in timed if row.drafter == label]
            x = [
                sizes.index(row.block_size)
                + (at[row.block_size].index(label) - (len(at[row.block_size]) - 1) / 2) * width
                for row in own
            ]
            axes.bar(
                x,
                [row.interval("speedup").value for row in own],
                0.9 * width,
                color=SERIES[colors[label]],
                label=in_legend(label),
            )
            low, high = ([ends(row, "speedup")[end] for row in own] for end in (0, 1))
            axes.vlines(x, low, high, color=FOREGROUND, lw=1.2)
        axes.axhline(1.0, color=FOREGROUND, lw=1.2)
        axes.set(xlabel="block size γ", ylabel=_IN_WORDS["speedup"], xticks=range(len(sizes)))
        axes.set_xticklabels(map(str, sizes))
        axes.grid(visible=False, axis="x")
        top = _shared_limits(rows, "speedup", lowest=0.0)[1]
        axes.set_ylim(0, top)
        legend(axes)

    return svg(draw, f"Measured speed-up by block size at temperature {temperature:g}")


def by_draft(
    rows: Sequence[ResultRow], temperature: float, block_size: int, measure: Measure = "block_efficiency"
) -> str | None:
    """Plots one number of every draft with its interval, a line each, the best on top.

    None where there are no two drafts that have it.
    """
    found = [
        row
        for label in results.drafters(rows)
        if (row := summary.find(rows, label, temperature, block_size)) and getattr(row, measure) is not None
    ]
    if len(found) < 2:
        return None
    found.sort(key=lambda row: row.interval(measure).value)
    colors, pair = series_of(rows, block_size), summary.main_pair(rows)

    def draw(axes: Axes) -> None:
        for place, row in enumerate(found):
            i = colors.get(row.drafter)
            style: dict[str, Any] = {"color": MUTED if i is None else SERIES[i]}
            axes.hlines(place, *ends(row, measure), lw=1.8, **style)
            axes.plot(row.interval(measure).value, place, marker=MARKERS[i or 0], ms=5.5, **style)
            if pair and row.drafter == pair.against:
                axes.axvline(row.interval(measure).value, color=MUTED, ls=DASHED, lw=1.1)
        if measure == "speedup":
            axes.axvline(1.0, color=FOREGROUND, lw=1.2)
        axes.set(xlabel=_IN_WORDS[measure], yticks=range(len(found)), ylim=(-0.7, len(found) - 0.3))
        axes.set_yticklabels([short(row.drafter) for row in found], fontsize=8)
        axes.grid(visible=False, axis="y")

    title = f"{_TITLES[measure]} of every draft at temperature {temperature:g}, block size {block_size}"
    return svg(draw, title, height=max(1.6, 0.8 + 0.19 * len(found)))


def prediction(rows: Sequence[ResultRow], temperature: float, block_size: int) -> str | None:
    """Plots block efficiency as measured against (1 - a^(G+1)) / (1 - a), a cell each.

    None where fewer than two cells have both.
    """
    found = [
        (row.drafter, expected, row.block_efficiency)
        for row in rows
        if row.is_drafted and row.temperature == temperature and (expected := summary.if_independent(row))
    ]
    if len(found) < 2:
        return None
    colors = series_of(rows, block_size)

    def draw(axes: Axes) -> None:
        numbers = [number for _, *both in found for number in both]
        line = np.array([0.96 * min(numbers), 1.04 * max(numbers)])
        axes.fill_between(line, line * (1 - _CLOSE), line * (1 + _CLOSE), color=MUTED, alpha=0.15, lw=0)
        axes.plot(line, line, color=MUTED, lw=1.0)
        for label in sorted({name for name, *_ in found}, key=lambda name: colors.get(name, -1)):
            points = [pair for name, *pair in found if name == label]
            i = colors.get(label)
            x, y = zip(*points, strict=True)
            style = {"color": MUTED, "marker": "."} if i is None else _style(label, i)
            axes.plot(x, y, ls="", ms=5, alpha=0.8, **style)
        axes.set(xlabel="predicted tokens per target call", ylabel="measured")
        close = sum(abs(measured / expected - 1) <= _CLOSE for _, expected, measured in found)
        said = f"within {_CLOSE:.0%} in {close} of {len(found)} cells"
        axes.set_title(said, fontsize=9, color=MUTED, loc="left")
        legend(axes)

    return svg(draw, f"Block efficiency predicted and measured at temperature {temperature:g}")


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
        color, top = SERIES[series_of(rows, block_size)[pair.drafter]], max(*before, *after) * 1.05
        better, worse = (
            sum(sign * (a - b) > 0 for a, b in zip(after, before, strict=True)) for sign in (1, -1)
        )
        axes.plot([1, top], [1, top], color=MUTED, lw=1.0)
        axes.scatter(before[:_MOST_DOTS], after[:_MOST_DOTS], s=18, color=color, alpha=0.6, linewidths=0)
        axes.set(xlabel=short(pair.against), ylabel=short(pair.drafter))
        said = f"better on {better}, worse on {worse} of {len(after)}"
        said += f"; the first {_MOST_DOTS:,} are drawn" if len(after) > _MOST_DOTS else ""
        axes.set_title(said, fontsize=9, color=MUTED, loc="left")

    names = f"{pair.drafter} against {pair.against}"
    return svg(draw, f"Block efficiency prompt by prompt, {names}, at temperature {temperature:g}")


def by_position(rows: Sequence[ResultRow], temperature: float, block_size: int) -> str | None:
    """Plots the share of target calls that accepted each draft position, at the largest block size there.

    None where blocks have a single position.
    """
    sizes = summary.block_sizes([row for row in rows if row.temperature == temperature])
    largest = max(sizes, default=0)
    drawn = {
        label: i
        for label, i in series_of(rows, block_size).items()
        if summary.find(rows, label, temperature, largest)
    }
    if not drawn or largest < 2:
        return None

    def draw(axes: Axes) -> None:
        for label, i in drawn.items():
            row = summary.find(rows, label, temperature, sizes[-1])
            if row is not None:
                place = range(1, 1 + len(row.acceptance_joint))
                axes.plot(place, np.array(row.acceptance_joint, float), **_style(label, i))
        axes.set(xlabel="draft position", ylabel="share of calls accepting it", ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(16, integer=True, steps=[1, 2, 5, 10]))
        legend(axes)

    return svg(draw, f"Acceptance by draft position at temperature {temperature:g}, block size {sizes[-1]}")


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
    free = [i for i in range(len(SERIES)) if i not in taken.values()] or [0]
    for n, label in enumerate(label for label in found if label not in taken):
        taken[label] = free[n % len(free)]

    def draw(axes: Axes) -> None:
        for label, points in found.items():
            style = _style(label, taken[label]) | ({} if len(points) < 20 else {"marker": None})
            axes.plot(*zip(*points, strict=True), **style)
        axes.set(xlabel="training step", ylabel=what)
        legend(axes)

    return svg(draw, f"{what} by training step")


def _style(label: str, i: int) -> dict[str, Any]:
    """Colour, marker and legend of a drafter's line."""
    return {"color": SERIES[i], "marker": MARKERS[i], "label": in_legend(label)}


def _shared_limits(rows: Sequence[ResultRow], measure: Measure, lowest: float) -> tuple[float, float]:
    """Sets one scale for the plots of all temperatures, so that they can be compared by eye."""
    known = [row for row in rows if np.isfinite(row.interval(measure).value)]
    highest = max(ends(row, measure)[1] for row in known)
    return lowest, lowest + 1.05 * (max(highest, 1.0) - lowest)
