"""(b) Six algorithms of distillation, by the block efficiency that they reach in equal steps."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.paper import models
from benchmarks.paper.experiment import Experiment, Found, Measurement, prompts_said, ratios_figure
from benchmarks.paper.models import ALGORITHMS, SD
from benchmarks.paper.rows import Comparison, efficiency_ratio, labels, pools, select
from benchmarks.paper.scales import Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """The compared tasks: the supervised draft and what each algorithm makes of it."""
    return [
        Measurement(
            "b_algorithms",
            task,
            scale.target_of(task),
            {
                SD: scale.draft_of(task),
                **models.seeds(scale, {name: models.algorithm(scale, task, name) for name in ALGORITHMS}),
            },
            scale.prompts,
        )
        for task in scale.compared
    ]


def page(rows: Sequence[ResultRow]) -> Found:
    """Each algorithm over the supervised draft; those that see distributions over SeqKD."""
    over_sd: list[list[Comparison]] = []
    over_hard: list[Comparison] = []
    lines, names = [], [name for name in labels(rows) if name != SD]
    for task in dict.fromkeys(row.task for row in rows):
        for t in summary.temperatures(rows):
            of_cell = select(rows, task=task, temperature=t)
            found = pools(of_cell, [SD, *names])
            if not found:
                continue
            sd = found.pop(SD)
            here = f"{task}, T = {t:g}"
            over_sd.append([efficiency_ratio(name, pooled, sd) for name, pooled in found.items()])
            lines.append([here, times(sd.efficiency)])
            if "SeqKD" in found:
                over_hard += [
                    efficiency_ratio(f"{name} over SeqKD, {here}", pooled, found["SeqKD"])
                    for name, pooled in found.items()
                    if name != "SeqKD"
                ]
    shown = iter(marked([one for line in over_sd for one in line]))
    table = markdown(["", "SD emits", *names], [[*line, *(next(shown) for _ in names)] for line in lines])
    cells = [line[0] for line in lines]
    drawn = ratios_figure(cells, [[one.interval for one in line] for line in over_sd], names, "SD")
    said = verdict(over_hard, what="ratios of an algorithm with distributions over SeqKD")
    return Found(f"{said} {prompts_said(rows)}.", table, drawn)


EXPERIMENT = Experiment(
    "b",
    "Algorithms: SeqKD to DistillSpec",
    "The paper claims (Figure 2, by second-hand texts) that algorithms which see the target's distributions, "
    "f-distill and GKD among them, clearly beat SeqKD's hard labels in block efficiency.",
    measure,
    page,
)
