"""The page of `benchmarks.curves`: what each source reached, from which step on, and the curves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from distillspec_jax.distillation.expected_acceptance import GREEDY, SAMPLED, metric
from distillspec_jax.files import write_whole

ACCEPTANCE, AT_ZERO = metric(SAMPLED), metric(GREEDY)
PANELS: Sequence[tuple[str, str]] = (
    (ACCEPTANCE, "1 − TVD, T = 1"),
    (AT_ZERO, "1 − TVD, T = 0"),
    ("acceptance_own_T1", "on own texts, T = 1"),
    ("target_entropy_own_T1", "target's nats on own texts"),
    ("draft_entropy_own_T1", "draft's nats on own texts"),
)
"""The rows of a figure: an evaluation's value, and what it is."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A finished cell, a line of `curves.jsonl`.

    Attributes:
      task, source, divergence, learning_rate, seed: which cell it is.
      seconds_a_step: on an idle machine; what else it did while the cell was trained does not count.
      evaluations: `step` and the values of `expected_acceptance`, in order.
    """

    task: str
    source: str
    divergence: str
    learning_rate: float
    seed: int
    seconds_a_step: float
    evaluations: Sequence[Mapping[str, Any]]

    @property
    def cell(self) -> tuple[str, str, str, float, int]:
        """The five that tell it from others."""
        return self.task, self.source, self.divergence, self.learning_rate, self.seed

    @property
    def recipe(self) -> tuple[str, float]:
        """The two that are chosen on validation prompts."""
        return self.divergence, self.learning_rate

    @property
    def steps(self) -> int:
        """Steps in all."""
        return int(self.evaluations[-1]["step"])

    @property
    def best(self) -> Mapping[str, Any]:
        """The evaluation of the highest acceptance at temperature 1, the first of equal ones."""
        known = [one for one in self.evaluations if one[ACCEPTANCE] is not None]
        return max(known or self.evaluations, key=lambda one: one[ACCEPTANCE] or 0.0)

    def values(self, name: str) -> dict[int, float]:
        """One number of every evaluation that has it, by step."""
        return {int(one["step"]): one[name] for one in self.evaluations if one.get(name) is not None}


def best_of(curves: Iterable[Curve]) -> Curve | None:
    """Finds the curve that reached most; None of none."""
    return max(curves, key=lambda curve: curve.best[ACCEPTANCE] or 0.0, default=None)


def chosen(curves: Sequence[Curve], task: str, source: str) -> list[Curve]:
    """The seeds of the divergence and rate that reached most with seed 0."""
    own = [curve for curve in curves if (curve.task, curve.source) == (task, source)]
    best = best_of(curve for curve in own if curve.seed == 0)
    return [] if best is None else [curve for curve in own if curve.recipe == best.recipe]


def mean_curve(curves: Sequence[Curve], name: str) -> dict[int, float]:
    """Averages a value over seeds, at the steps that all of them reached."""
    found = [curve.values(name) for curve in curves]
    shared = set.intersection(*map(set, found)) if found else set()
    return {step: float(np.mean([values[step] for values in found])) for step in sorted(shared)}


def best_so_far(curve: Mapping[int, float], scale: float = 1.0) -> dict[float, float]:
    """The value of the draft that would be kept at each place, a step times `scale`."""
    reached = np.maximum.accumulate([curve[step] for step in sorted(curve)])
    return {scale * step: float(value) for step, value in zip(sorted(curve), reached, strict=True)}


def overtakes(ours: Mapping[float, float], theirs: Mapping[float, float]) -> float | None:
    """Finds from where on one curve is never below another; None: at the end it is.

    Args:
      ours, theirs: place (a step, a second) to value. Between two places a curve is a line, behind its last
        one it stays as it is: it was ended because it rose no more.
    """
    if not ours or not theirs:
        return None
    places = sorted({*ours, *theirs})
    lines = (np.interp(places, sorted(one), [one[x] for x in sorted(one)]) for one in (ours, theirs))
    below = np.flatnonzero(np.less(*lines))
    if not len(below):
        return places[0]
    return None if below[-1] == len(places) - 1 else places[below[-1] + 1]


def verdict(curves: Sequence[Curve], task: str) -> str:
    """One sentence: are own samples, alone or mixed, as good as references, and from which budget on?"""
    fixed, own = chosen(curves, task, "fixed"), best_of_sources(curves, task, ("on_policy", "mix"))
    if not fixed or not own:
        return f"{task}: not yet known; references or own samples are missing."
    ours, theirs = ([curve.best[ACCEPTANCE] for curve in of] for of in (own, fixed))
    better = np.mean(ours) >= np.mean(theirs)
    meet = ", but their ranges meet" if min(ours) <= max(theirs) and min(theirs) <= max(ours) else ""
    text = (
        f"{task}: at T = 1, `{own[0].source}` reaches {spread(ours)} and `fixed` {spread(theirs)} "
        f"({len(ours)} and {len(theirs)} seeds): the paper's order {'holds' if better else 'does not hold'}"
        f"{meet}"
    )
    told = []
    for unit in ("steps", "seconds"):
        place = overtakes(
            *(
                best_so_far(mean_curve(of, ACCEPTANCE), of[0].seconds_a_step if unit == "seconds" else 1.0)
                for of in (own, fixed)
            )
        )
        told.append(
            f"in {unit} behind to the end" if place is None else f"never behind from {place:,.0f} {unit} on"
        )
    return f"{text}; {', '.join(told)}."


def best_of_sources(curves: Sequence[Curve], task: str, sources: Iterable[str]) -> list[Curve]:
    """The seeds of the source that reaches most on average."""
    found = [seeds for source in sources if (seeds := chosen(curves, task, source))]
    return max(found, key=lambda seeds: np.mean([curve.best[ACCEPTANCE] for curve in seeds]), default=[])


def spread(values: Sequence[float]) -> str:
    """The mean, with the lowest and the highest where there are several."""
    around = f" ({min(values):.3f}–{max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{around}"


def table(curves: Sequence[Curve], task: str) -> str:
    """Every divergence on every source at its best rate, then each source's best over seeds, in Markdown."""
    own = [curve for curve in curves if curve.task == task]
    sources = list(dict.fromkeys(curve.source for curve in own))
    divergences = list(dict.fromkeys(curve.divergence for curve in own))
    lines = [
        f"Highest held-out 1 − TVD at T = 1, seed 0, at the best rate (in brackets); {len(own)} curves.\n",
        "| | " + " | ".join(sources) + " |\n|---|" + "---|" * len(sources),
    ]
    for divergence in divergences:
        cells = []
        for source in sources:
            top = best_of(c for c in own if (c.source, c.divergence, c.seed) == (source, divergence, 0))
            cells.append("–" if top is None else f"{top.best[ACCEPTANCE]:.3f} ({top.learning_rate:g})")
        lines.append(f"| {divergence} | " + " | ".join(cells) + " |")
    head = "source | divergence, rate | seeds | T = 1 | T = 0 | own texts | at step | at second | of steps"
    lines.append(f"\n| {head} |\n|" + "---|" * len(head.split("|")))
    for source in sources:
        lines += [f"| {source} | {_reached(seeds)} |" for seeds in [chosen(curves, task, source)] if seeds]
    return "\n".join(lines)


def _reached(seeds: Sequence[Curve]) -> str:
    """The cells of a source's row, from the evaluations at which its seeds were best."""
    best = [curve.best for curve in seeds]
    own_texts = [one["acceptance_own_T1"] for one in best if one.get("acceptance_own_T1") is not None]
    step = np.mean([one["step"] for one in best])
    cells = (
        f"{seeds[0].divergence}, {seeds[0].learning_rate:g}",
        str(len(seeds)),
        spread([one[ACCEPTANCE] for one in best]),
        spread([one[AT_ZERO] for one in best]),
        spread(own_texts) if own_texts else "–",
        f"{step:,.0f}",
        f"{step * seeds[0].seconds_a_step:,.0f}",
        f"{np.mean([curve.steps for curve in seeds]):,.0f}",
    )
    return " | ".join(cells)


def figure(curves: Sequence[Curve], task: str) -> Figure:
    """Draws the best of each source, seeds thin and their mean thick, against steps and against seconds."""
    sources = list(dict.fromkeys(curve.source for curve in curves if curve.task == task))
    panels = [(name, what) for name, what in PANELS if any(c.values(name) for c in curves if c.task == task)]
    drawn = Figure(figsize=(9.0, 2.4 * len(panels)), layout="constrained")
    rows = drawn.subplots(len(panels), 2, sharey="row", squeeze=False)
    for row, (name, what) in zip(rows, panels, strict=True):
        for axes, unit in zip(row, ("steps", "seconds"), strict=True):
            for i, source in enumerate(sources):
                seeds = chosen(curves, task, source)
                lines = [(curve.values(name), 0.7, None) for curve in seeds] if len(seeds) > 1 else []
                for values, width, label in [*lines, (mean_curve(seeds, name), 1.8, source)]:
                    scale = seeds[0].seconds_a_step if seeds and unit == "seconds" else 1.0
                    places = [scale * step for step in values]
                    alpha = 0.4 if label is None else 1.0
                    axes.plot(places, [*values.values()], color=f"C{i}", lw=width, alpha=alpha, label=label)
            axes.set(xlabel=unit, ylabel=what)
            axes.grid(color="0.9")
    drawn.axes[0].legend(fontsize=8)
    return drawn


def write(curves: Sequence[Curve], root: Path) -> str:
    """Writes `page.md` and a figure a task, `TASK.svg`, and returns the page."""
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    parts = ["# Learning curves by data source", " ".join(verdict(curves, task) for task in tasks)]
    for task in tasks:
        drawn = figure(curves, task)
        drawn.savefig(root / f"{task}.svg", metadata={"Date": None, "Creator": None})
        parts += [f"## {task}", f"![acceptance against steps and seconds]({task}.svg)", table(curves, task)]
    text = "\n\n".join(parts) + "\n"
    write_whole(root / "page.md", text)
    return text
