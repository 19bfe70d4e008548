"""The page of `benchmarks.curves`: what each source reached, from which step on, and the curves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.curves_results import ACCEPTANCE, AT_ZERO, Curve
from distillspec_jax.files import write_whole

PANELS: Sequence[tuple[str, str]] = (
    (ACCEPTANCE, "1 − TVD, T = 1"),
    (AT_ZERO, "1 − TVD, T = 0"),
    ("acceptance_own_T1", "on own texts, T = 1"),
    ("target_entropy_own_T1", "target's nats on own texts"),
    ("draft_entropy_own_T1", "draft's nats on own texts"),
)
"""The rows of a figure: an evaluation's value, and what it is."""


def best_of(curves: Iterable[Curve], metric_name: str = ACCEPTANCE) -> Curve | None:
    """Finds the curve that reached most; None of none."""
    return max(curves, key=lambda curve: curve.best(metric_name)[metric_name] or 0.0, default=None)


def chosen(curves: Sequence[Curve], task: str, source: str, metric_name: str = ACCEPTANCE) -> list[Curve]:
    """The seeds of the divergence and rate that reached most with seed 0."""
    own = [curve for curve in curves if (curve.task, curve.source) == (task, source)]
    best = best_of((curve for curve in own if curve.seed == 0), metric_name)
    return [] if best is None else [curve for curve in own if curve.recipe == best.recipe]


def mean_curve(curves: Sequence[Curve], name: str) -> dict[int, float]:
    """Averages a value over seeds, at the steps that all of them reached."""
    found = [curve.values(name) for curve in curves]
    shared = set.intersection(*map(set, found)) if found else set()
    return {step: float(np.mean([values[step] for values in found])) for step in sorted(shared)}


def spread(values: Sequence[float]) -> str:
    """The mean, with the lowest and the highest where there are several."""
    around = f" ({min(values):.3f}–{max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{around}"


def table(curves: Sequence[Curve], task: str) -> str:
    """Every divergence on every source at its best rate, then each source's best over seeds, in Markdown.

    Recipe and step of a row are those that reached most at the row's own temperature.
    """
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
            cells.append("–" if top is None else f"{top.best()[ACCEPTANCE]:.3f} ({top.learning_rate:g})")
        lines.append(f"| {divergence} | " + " | ".join(cells) + " |")
    for metric_name, what in ((ACCEPTANCE, "T = 1"), (AT_ZERO, "T = 0")):
        head = f"source | divergence, rate | seeds | {what} | own texts | at step | at second | of steps"
        lines.append(f"\n| {head} |\n|" + "---|" * len(head.split("|")))
        for source in sources:
            if seeds := chosen(curves, task, source, metric_name):
                lines.append(f"| {source} | {_reached(seeds, metric_name)} |")
    return "\n".join(lines)


def _reached(seeds: Sequence[Curve], metric_name: str) -> str:
    """The cells of a source's row, from the evaluations at which its seeds were best."""
    best = [curve.best(metric_name) for curve in seeds]
    on_own = metric_name.replace("expected", "own")
    own_texts = [one[on_own] for one in best if one.get(on_own) is not None]
    step = np.mean([one["step"] for one in best])
    cells = (
        f"{seeds[0].divergence}, {seeds[0].learning_rate:g}",
        str(len(seeds)),
        spread([one[metric_name] for one in best]),
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


def write(curves: Sequence[Curve], verdicts: Sequence[str], root: Path) -> str:
    """Writes `page.md` and a figure a task, `TASK.svg`, and returns the page."""
    failed = [curve for curve in curves if curve.failed is not None]
    curves = [curve for curve in curves if curve.failed is None]
    parts = ["# Learning curves by data source", *verdicts]
    for task in dict.fromkeys(curve.task for curve in curves):
        drawn = figure(curves, task)
        drawn.savefig(root / f"{task}.svg", metadata={"Date": None, "Creator": None})
        parts += [f"## {task}", f"![acceptance against steps and seconds]({task}.svg)", table(curves, task)]
    if failed:
        parts.append("Failed: " + "; ".join(f"{curve.name} ({curve.failed})" for curve in failed) + ".")
    text = "\n\n".join(parts) + "\n"
    write_whole(root / "page.md", text)
    return text
