"""Quality against speed, where they are at odds: rules that change the distribution, or several targets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from distillspec_jax.decoding.rules import RULES
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports.canvas import FOREGROUND, MARKERS, SERIES, in_legend, legend, svg

_COMPARABLE = (
    *("task", "split", "prompts_digest", "top_k", "top_p", "max_new_tokens", "dtype"),
    *("device", "batch_size", "primary_metric"),
)


@dataclasses.dataclass(frozen=True)
class Point:
    """A row as speed and quality.

    Attributes:
      series: the rule, or the target, that it belongs to.
      name: which cell it is, in words.
      speed, quality: with intervals where they have any.
    """

    series: str
    name: str
    speed: Interval
    quality: Interval


@dataclasses.dataclass(frozen=True)
class Front:
    """The rows of one task at one temperature, whose speed and quality compare.

    Attributes:
      points: all of them.
      best: those that no other beats in both; the slowest first.
      axes_names: what speed and quality are.
    """

    task: str
    temperature: float
    points: Sequence[Point]
    best: Sequence[Point]
    axes_names: tuple[str, str]

    @property
    def sentence(self) -> str:
        """The points on the front, in words."""
        said = (f"{one.name} ({one.speed.value:.3g}; {one.quality.value:.1f})" for one in self.best)
        return f"On the front (speed; quality): {', '.join(said)}."


def fronts(groups: Sequence[Sequence[ResultRow]]) -> list[Front]:
    """Finds the fronts of some groups' rows.

    A lossless rule leaves quality to chance: where one target is decoded by such rules alone there is none.
    """
    found: dict[tuple[object, ...], list[ResultRow]] = {}
    for row in (row for group in groups for row in group):
        if row.primary_metric is not None:
            key = (*(getattr(row, field) for field in _COMPARABLE), row.temperature)
            found.setdefault(key, []).append(row)
    made = (_front(rows) for rows in found.values())
    return [front for front in made if front is not None]


def draw(front: Front) -> str:
    """Plots every point, and a line through the front."""

    def plot(axes: Axes) -> None:
        names = list(dict.fromkeys(point.series for point in front.points))
        for i, name in enumerate(names):
            own = [point for point in front.points if point.series == name]
            color, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
            x, y = ([getattr(point, of).value for point in own] for of in ("speed", "quality"))
            axes.plot(x, y, ls="", marker=marker, color=color, label=in_legend(name))
            for point in own:
                if point in front.best and point.speed.ends:
                    axes.hlines(point.quality.value, *point.speed.ends, color=color, lw=0.9)
                if point in front.best and point.quality.ends:
                    axes.vlines(point.speed.value, *point.quality.ends, color=color, lw=0.9)
        x, y = ([getattr(point, of).value for point in front.best] for of in ("speed", "quality"))
        axes.plot(x, y, color=FOREGROUND, lw=1.1, drawstyle="steps-pre")
        axes.set(xlabel=front.axes_names[0], ylabel=front.axes_names[1])
        legend(axes)

    title = f"Quality against speed on {front.task} at temperature {front.temperature:g}"
    return svg(plot, title)


def _front(rows: Sequence[ResultRow]) -> Front | None:
    targets = list(dict.fromkeys(row.target for row in rows))
    rules = list(dict.fromkeys(row.verifier or "token" for row in rows))
    if len(targets) == 1 and not any(_is_lossy(rule) for rule in rules):
        return None
    axis = _speed_axis(rows, len(targets))
    if axis is None:
        return None
    scored = all(row.per_prompt.score for row in rows)
    points: dict[str, Point] = {}
    for row in rows:
        name, speed = _named(row, len(targets) > 1), _speed(row, axis)
        if speed is not None and name not in points:  # without a draft the rule does not matter: one point
            series = row.target if len(targets) > 1 else row.verifier or "token"
            points[name] = Point(series, name, speed, _quality(row, scored))
    if len(points) < 3:
        return None
    metric = f"{rows[0].primary_metric}{', mean over prompts' if scored else ''}"
    found = list(points.values())
    return Front(rows[0].task, rows[0].temperature, found, _best(found), (axis, metric))


def _best(points: Sequence[Point]) -> list[Point]:
    """Keeps what no faster point equals in quality; the slowest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda one: (one.speed.value, one.quality.value), reverse=True):
        if not best or point.quality.value > best[-1].quality.value:
            best.append(point)
    return best[::-1]


_SPEEDUP, _PACE, _TOKENS = "speed-up over no draft", "tokens a second", "tokens per target call"


def _speed_axis(rows: Sequence[ResultRow], targets: int) -> str | None:
    """Chooses what can be compared across the rows: a speed-up is relative to its own target."""
    if all(row.timing for row in rows):
        return _SPEEDUP if targets == 1 else _PACE
    return _TOKENS if targets == 1 else None


def _speed(row: ResultRow, axis: str) -> Interval | None:
    if axis == _SPEEDUP:
        return None if row.speedup is None else row.interval("speedup")
    if axis == _TOKENS:
        return row.interval("block_efficiency")
    if row.timing is None:
        return None
    return paired.ratio(row.timing.emitted, row.timing.seconds, clusters=row.timed_clusters)


def _quality(row: ResultRow, scored: bool) -> Interval:
    if scored and row.per_prompt.score:
        return paired.ratio(row.per_prompt.score, np.ones(row.prompts), clusters=row.per_prompt.cluster)
    value = row.quality.get(row.primary_metric or "", np.nan)
    return Interval(value, np.nan, np.nan)


def _is_lossy(rule: str) -> bool:
    name, _, epsilon = rule.partition(":")
    return name in RULES and not RULES[name].exact and float(epsilon or 1) != 1


def _named(row: ResultRow, with_target: bool) -> str:
    parts = [row.target] if with_target else []
    if not row.is_drafted:
        return ", ".join([*parts, "no draft"])
    if row.verifier not in (None, "token"):
        parts.append(str(row.verifier))
    return ", ".join([*parts, f"{row.drafter}, γ = {row.block_size}"])
