"""How single rounds and single requests came out, where other plots show sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from distillspec_jax.evaluation.result_row import NO_DRAFTER, ResultRow
from distillspec_jax.reports import summary
from distillspec_jax.reports.canvas import FOREGROUND, SERIES, in_legend, legend, svg
from distillspec_jax.reports.series import series_of

MIN_REQUESTS = 8
"""Fewer make no histogram."""


def accepted_lengths(rows: Sequence[ResultRow], temperature: float, block_size: int) -> str | None:
    """Plots the share of rounds that accepted 0, 1, .. G drafts; None where no row tells."""
    colors = series_of(rows, block_size)
    found = {
        label: np.array(histogram, float) / sum(histogram)
        for label in colors
        if (row := summary.find(rows, label, temperature, block_size))
        and (histogram := row.record.histogram)
        and sum(histogram)
    }
    if not found:
        return None

    def draw(axes: Axes) -> None:
        width = 0.84 / len(found)
        for n, (label, shares) in enumerate(found.items()):
            x = np.arange(len(shares)) + (n - (len(found) - 1) / 2) * width
            axes.bar(x, shares, 0.92 * width, color=SERIES[colors[label]], label=in_legend(label))
        axes.set(xlabel="accepted drafts in a round", ylabel="share of rounds")
        axes.xaxis.set_major_locator(MaxNLocator(17, integer=True))
        axes.grid(visible=False, axis="x")
        legend(axes)

    return svg(draw, f"Accepted drafts a round at temperature {temperature:g}, block size {block_size}")


def latency(rows: Sequence[ResultRow], temperature: float, block_size: int) -> str | None:
    """Plots the seconds of each timed request, without a draft and with those the results are about.

    Without a draft, they are those timed in turns with the first draft: the baseline's own row is timed once,
    while every repeat of a draft's is another chance to be fast. None where requests were not timed one by
    one, or fewer than `MIN_REQUESTS`.
    """
    pair = summary.main_pair(rows)
    series = series_of(rows, block_size)
    timed = [
        (label, row.timing.baseline_seconds, row.pace.latency_N)
        for label in pair or series
        if (row := summary.find(rows, label, temperature, block_size))
        and row.timing
        and row.pace
        and row.pace.latency_N
        and len(row.pace.latency_N) >= MIN_REQUESTS
    ]
    if not timed:
        return None
    found = {NO_DRAFTER: np.array(timed[0][1])} | {label: np.array(own) for label, _, own in timed}
    colors = {NO_DRAFTER: FOREGROUND, **{label: SERIES[i] for label, i in series.items()}}

    def draw(axes: Axes) -> None:
        everything = np.concatenate(list(found.values()))
        unit, name = (1e3, "ms") if everything.max() < 1 else (1.0, "seconds")
        edges = np.linspace(everything.min() * unit, max(everything.max() * unit, 1e-9), 10)
        said = [
            f"{'no draft' if label == NO_DRAFTER else in_legend(label)}: "
            + ", ".join(f"p{share} {np.quantile(seconds * unit, share / 100):.3g}" for share in (50, 95))
            for label, seconds in found.items()
        ]
        drawn = [colors[label] for label in found]
        axes.hist([seconds * unit for seconds in found.values()], list(edges), color=drawn, label=said)
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=f"{name} a request", ylabel=f"requests of {len(next(iter(found.values())))}")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        legend(axes)

    return svg(draw, f"Latency of requests at temperature {temperature:g}, block size {block_size}")
