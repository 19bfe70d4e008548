"""Drafts whose labels cross two things, `DIVERGENCE, SOURCE`, as a map of their block efficiencies."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgba

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import power, results
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.power import Pilot
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary
from distillspec_jax.reports.canvas import FOREGROUND, SERIES, short, svg

_MOST = 12
"""Columns, and more than twice as many lines, that are legible."""
_ROOM_FOR_INTERVALS = 5
"""Columns."""
_DEEPEST = 0.5
"""The opacity of the strongest colour; text lies on it."""


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Drafters named by two things each.

    Attributes:
      lines, columns: the two, in order of appearance.
      labels: of the drafter that is at each place; some places may be empty.
      against: the drafter, outside the crossing, that all are compared with; None if there is none.
    """

    lines: Sequence[str]
    columns: Sequence[str]
    labels: Mapping[tuple[str, str], str]
    against: str | None


def crossing(rows: Sequence[ResultRow]) -> Crossing | None:
    """Finds the crossing in the drafters' labels; None where at least half of its places are not filled."""
    labels = results.drafters(rows)
    parts = {label: tuple(label.rsplit(", ", 1)) for label in labels if ", " in label}
    found = {(part[0], part[1]): label for label, part in parts.items()}
    lines, columns = (list(dict.fromkeys(place[axis] for place in found)) for axis in (0, 1))
    legible = len(columns) <= _MOST and len(lines) <= 2 * _MOST
    if min(len(lines), len(columns)) < 2 or 2 * len(found) <= len(lines) * len(columns) or not legible:
        return None
    outside = [label for label in labels if label not in parts]
    return Crossing(lines, columns, found, outside[0] if outside else None)


def heat_map(rows: Sequence[ResultRow], temperature: float, block_size: int) -> tuple[str, str] | None:
    """Draws block efficiency over that of the draft all are compared with, or itself where there is none.

    Returns:
      The drawing, and how many of its comparisons may be chance, in words; None where nothing is crossed.
    """
    cross = crossing(rows)
    if cross is None:
        return None
    base = summary.find(rows, cross.against, temperature, block_size) if cross.against else None
    cells = {
        place: row
        for place, label in cross.labels.items()
        if (row := summary.find(rows, label, temperature, block_size))
    }
    values = {
        place: row.interval("block_efficiency") if base is None else summary.block_efficiency_ratio(row, base)
        for place, row in cells.items()
    }
    if not values:
        return None
    what = f"over {cross.against}" if base else "itself"
    title = f"Block efficiency {what}, by {len(cross.lines)} × {len(cross.columns)} drafts, "
    title += f"at temperature {temperature:g}, block size {block_size}"
    drawn = svg(lambda axes: _draw(axes, cross, values, base is not None), title, _height(cross))
    return drawn, "" if base is None else _by_chance(list(cells.values()), base)


def _height(cross: Crossing) -> float:
    return 0.6 + 0.36 * len(cross.lines)


def _draw(axes: Axes, cross: Crossing, values: Mapping[tuple[str, str], Interval], is_ratio: bool) -> None:
    shape = len(cross.lines), len(cross.columns)
    table = np.full(shape, np.nan)
    for (line, column), interval in values.items():
        table[cross.lines.index(line), cross.columns.index(column)] = interval.value
    if is_ratio:  # white is 1, and equal factors up and down are equally deep
        table = np.log(table)
        most = np.nanmax(np.abs(table)) or 1.0
        axes.pcolormesh(table, cmap=_diverging(), vmin=-most, vmax=most)
    else:
        least, most = np.nanmin(table), np.nanmax(table)
        axes.pcolormesh(table, cmap=_rising(), vmin=least, vmax=most if most > least else least + 1)
    for (line, column), interval in values.items():
        x, y = cross.columns.index(column) + 0.5, cross.lines.index(line) + 0.5
        clear = is_ratio and summary.outcome(interval) in (summary.WIN, summary.LOSS)
        weight = "bold" if clear else "normal"
        roomy = interval.ends is not None and shape[1] <= _ROOM_FOR_INTERVALS
        shift = 0.14 if roomy else 0.0
        place: dict[str, Any] = {"ha": "center", "va": "center", "color": FOREGROUND}
        axes.text(x, y - shift, f"{interval.value:.2f}", fontsize=9, weight=weight, **place)
        if roomy:
            axes.text(x, y + 0.24, f"{interval.low:.2f}–{interval.high:.2f}", fontsize=6.5, **place)
    axes.set_xticks(np.arange(shape[1]) + 0.5, [short(name) for name in cross.columns], fontsize=8)
    axes.set_yticks(np.arange(shape[0]) + 0.5, [short(name) for name in cross.lines], fontsize=8)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.invert_yaxis()
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _diverging() -> LinearSegmentedColormap:
    """Orange below 1, nothing at 1, blue above."""
    below, above = to_rgba(SERIES[1]), to_rgba(SERIES[0])
    stops = [(*below[:3], _DEEPEST), (*below[:3], 0.0), (*above[:3], 0.0), (*above[:3], _DEEPEST)]
    return LinearSegmentedColormap.from_list("ratio", list(zip((0, 0.5, 0.5, 1), stops, strict=True)))


def _rising() -> LinearSegmentedColormap:
    color = to_rgba(SERIES[0])[:3]
    return LinearSegmentedColormap.from_list("level", [(*color, 0.06), (*color, _DEEPEST)])


def _by_chance(rows: Sequence[ResultRow], base: ResultRow) -> str:
    """Says how many of a map's comparisons would be chance; empty where no test can be made."""
    p_values = []
    for row in rows:
        ours, theirs = row.per_prompt, base.per_prompt
        try:
            columns = [ours.emitted, theirs.target_calls], [ours.target_calls, theirs.emitted]
            pilot = Pilot.of(*columns, ours.cluster)
        except UsageError:  # too few prompts, or nothing decoded
            return ""
        p_values.append(pilot.p_value)
    return power.findings(p_values).sentence
