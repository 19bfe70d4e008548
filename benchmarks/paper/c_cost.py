"""(c) Block efficiency against what the training cost, along each algorithm's way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from benchmarks.arms import Snapshot
from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import ALGORITHMS, SD
from benchmarks.paper.rows import Pool, efficiency_ratio, labels, pool, select
from benchmarks.paper.scales import Scale
from benchmarks.paper.verdicts import markdown, times, verdict
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

GKD, F_DISTILL = "on-policy GKD", "f-distill"
EQUAL = "f-distill at GKD's cost"
"""Trained to its own end, with its own cool-down: a draft taken on the way to a later end is none."""


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """Every algorithm of (b) as it was at a quarter, half and all of its steps; f-distill at GKD's cost."""
    found = []
    for task in scale.compared:
        drafters: dict[str, models.Model] = {SD: scale.draft_of(task)}
        for name in ALGORITHMS:
            for label, arm in models.seeds(scale, {name: models.algorithm(scale, task, name)}).items():
                seed = label.partition(", ")[2]
                drafters |= {f"{name} at {step}, {seed}": Snapshot(arm, step) for step in arm.kept}
        like = models.algorithm(scale, task, GKD)
        equal = dataclasses.replace(models.algorithm(scale, task, F_DISTILL), as_long_as=like)
        drafters |= models.seeds(scale, {EQUAL: equal})
        found.append(Measurement("c_cost", task, scale.target_of(task), drafters, scale.prompts))
    return found


def ways(rows: Sequence[ResultRow]) -> dict[str, list[Pool]]:
    """The drafts of each algorithm in one cell, by rising cost; the first is the one that it began with."""
    start = pool(rows, SD)
    found: dict[str, list[Pool]] = {}
    for name in labels(rows):
        pooled = pool(rows, name)
        if pooled is not None and name not in (SD, EQUAL):
            found.setdefault(name.rpartition(" at ")[0], []).append(pooled)
    before = [start] if start else []
    return {name: [*before, *sorted(way, key=_seconds)] for name, way in found.items()}


def _seconds(pooled: Pool) -> float:
    return float(pooled.cost.get("seconds", 0.0))


Cell = tuple[str, dict[str, list[Pool]], Pool | None]
"""Where, the ways there, and f-distill at GKD's cost."""


def _cells(rows: Sequence[ResultRow]) -> Iterator[Cell]:
    for task in dict.fromkeys(row.task for row in rows):
        for t in summary.temperatures(rows):
            of_cell = select(rows, task=task, temperature=t)
            yield f"{task}, T = {t:g}", ways(of_cell), pool(of_cell, EQUAL)


def page(rows: Sequence[ResultRow]) -> Found:
    """GKD against f-distill that cost as much, both at the ends of their schedules; what steps cost."""
    cells, comparisons, lines = list(_cells(rows)), [], []
    dearer = []
    for here, found, equal in cells:
        shown = [(name, pooled) for name, way in found.items() for pooled in way[1:]]
        shown += [(EQUAL, equal)] if equal else []
        for name, pooled in shown:
            cost = pooled.cost
            seconds = f"{cost['seconds']:.0f}"
            lines.append([here, name, f"{cost['steps']:.0f}", seconds, times(pooled.efficiency)])
        if GKD in found and F_DISTILL in found and equal:
            gkd, other = found[GKD], found[F_DISTILL]
            comparisons.append(efficiency_ratio(here, gkd[-1], equal))
            dearer.append(_seconds(other[-1]) / max(_seconds(gkd[-1]), 1e-9))
    unit = next((row.unknown["trained"]["unit"] for row in rows if row.unknown.get("trained")), "s")
    drawn = figure(8.0, 2.6 * max(1, (len(cells) + 1) // 2))
    axes_of = drawn.subplots(max(1, (len(cells) + 1) // 2), 2, squeeze=False).flat
    for axes, (here, found, equal) in zip(axes_of, cells, strict=False):
        for i, (name, way) in enumerate(found.items()):
            y = [one.efficiency.value for one in way]
            axes.plot([_seconds(one) for one in way], y, "o-", ms=3, color=COLOURS[i], label=name)
        if equal:
            axes.plot([_seconds(equal)], [equal.efficiency.value], "k*", label=EQUAL)
        axes.set(title=here, xlabel=f"training, {unit}", ylabel="tokens a call")
        axes.title.set_fontsize(8)
        axes.grid(color="0.9")
    drawn.axes[0].legend(fontsize=6)
    dear = f"{min(dearer):.1f} to {max(dearer):.1f}" if dearer else "–"
    said = verdict(comparisons, what="ratios of GKD over f-distill that cost as much")
    return Found(
        f"f-distill's steps cost {dear} times GKD's. {said} {prompts_said(rows)}.",
        markdown(["", "algorithm", "steps", unit, "tokens a call"], lines),
        drawn,
    )


EXPERIMENT = Experiment(
    "c",
    "Cost: block efficiency against training",
    "The paper claims (Figure 3a, by second-hand texts) that f-distill costs far more to train than GKD, "
    "since the target generates, and that GKD is the best trade of training cost and block efficiency.",
    measure,
    page,
)
