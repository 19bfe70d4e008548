"""The verdicts of a watch as one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillspec_jax import files
from distillspec_jax.evaluation.reference import ALL
from distillspec_jax.evaluation.verdicts import Verdict
from distillspec_jax.evaluation.watch_state import Point
from distillspec_jax.evaluation.watching import Watch
from distillspec_jax.reports.templates import template

_TEMPLATE = "watch.html.j2"
_SIGNATURE = '<meta name="generator" content="distillspec_jax watch">'
_WIDTH, _HEIGHT = 640.0, 160.0


def write(path: str, found: Sequence[Verdict], watch: Watch) -> None:
    """Writes the page, whole or not at all; it needs nothing beside itself.

    Raises:
      UsageError: the place cannot be written, or holds a file of others.
    """
    panels = [_panel(one) for one in found]
    page = template(_TEMPLATE)
    text = page.render(panels=panels, watch=watch, all=ALL, width=_WIDTH, height=_HEIGHT)
    files.write_whole(path, text, is_ours)


def is_ours(path: Path) -> bool:
    """Whether a file is such a page."""
    with path.open(encoding="utf-8") as file:
        return _SIGNATURE in file.read(4096)


def _panel(one: Verdict) -> dict[str, Any]:
    """Collects what the page shows of a stream."""
    known = one.segments[0].threshold
    rates = [(point.units, point.top / point.bottom) for point in one.stream.history if point.bottom]
    marks = [] if known is None else [("alarm below", known.shown)]
    if known is not None and known.estimate is not None:
        marks.append(("reference", known.estimate * known.scale))
    return {
        "verdict": one,
        "rates": _curve(rates, [value for _, value in marks]),
        "marks": [(name, value, _place(value, rates, marks)) for name, value in marks],
        "evidence": _curve(_logarithms(one.stream.history), [0.0, math.log10(one.segments[0].level)]),
        "level": _place(
            math.log10(one.segments[0].level),
            _logarithms(one.stream.history),
            [("", 0.0), ("", math.log10(one.segments[0].level))],
        ),
        "units": rates[-1][0] if rates else 0,
    }


def _logarithms(history: Sequence[Point]) -> list[tuple[int, float]]:
    return [(point.units, math.log10(max(point.evidence, 1e-3))) for point in history]


def _curve(points: Sequence[tuple[int, float]], others: Sequence[float]) -> str:
    """Makes the corners of a line in the picture: `x,y x,y`."""
    if not points:
        return ""
    marks = [("", value) for value in others]
    last = max(points[-1][0], 1)
    corners = [(_WIDTH * units / last, _place(value, points, marks)) for units, value in points]
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)


def _place(value: float, points: Sequence[tuple[int, float]], marks: Sequence[tuple[str, float]]) -> float:
    """Finds how far down the picture a value is."""
    values = [value, *(one for _, one in points), *(one for _, one in marks)]
    low, high = min(values), max(values)
    return _HEIGHT * (0.95 - 0.9 * (value - low) / ((high - low) or 1.0))
