"""(a) Speed-up of standard speculative decoding and of DistillSpec, by task and temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import CONTROL, DISTILLSPEC, SD
from benchmarks.paper.rows import efficiency_ratio, pools, select, speed_ratio
from benchmarks.paper.scales import Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary
from distillspec_jax.showcase.recipes import RECIPES

_COLOURS = {SD: COLOURS[0], DISTILLSPEC: COLOURS[1], CONTROL: COLOURS[-1]}


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """Every task: the supervised draft, DistillSpec, and as costly more supervised training."""
    return [
        Measurement(
            "a_speedup",
            task,
            scale.target_of(task),
            {
                SD: scale.draft_of(task),
                **models.seeds(
                    scale, {CONTROL: models.control(scale, task)} if task in scale.controlled else {}
                ),
                **models.seeds(scale, {DISTILLSPEC: models.algorithm(scale, task, DISTILLSPEC)}),
            },
            scale.prompts,
            scale.timed,
        )
        for task in RECIPES
    ]


def page(rows: Sequence[ResultRow]) -> Found:
    """The ratios of DistillSpec over SD, and over the control where there is one."""
    cells = [(task, t) for task in dict.fromkeys(r.task for r in rows) for t in summary.temperatures(rows)]
    found = {}
    for task, t in cells:
        of_task = select(rows, task=task)
        if both := pools(of_task, (SD, DISTILLSPEC), temperature=t):
            found[f"{task}, T = {t:g}"] = both | pools(of_task, (CONTROL,), temperature=t)
    speeds = [speed_ratio(name, of[DISTILLSPEC], of[SD]) for name, of in found.items()]
    gains = [efficiency_ratio(name, of[DISTILLSPEC], of[SD]) for name, of in found.items()]
    controlled = {name: of for name, of in found.items() if CONTROL in of}
    controls = [efficiency_ratio(name, of[CONTROL], of[SD]) for name, of in controlled.items()]
    over = [efficiency_ratio(name, of[DISTILLSPEC], of[CONTROL]) for name, of in controlled.items()]
    beside = {name: both for name, *both in zip(controlled, marked(controls), marked(over), strict=True)}
    columns = zip(found.items(), marked(speeds), marked(gains), strict=True)
    lines = [
        [
            name,
            *(times(of[one].speedup) for one in (SD, DISTILLSPEC)),
            speed,
            times(of[SD].efficiency),
            gain,
            *beside.get(name, ["–", "–"]),
        ]
        for (name, of), speed, gain in columns
    ]
    head = ["task", "SD speed-up", "DistillSpec speed-up", "their ratio", "SD tokens a call"]
    head += ["DistillSpec's ratio to it", "control's ratio to it", "DistillSpec over the control"]
    drawn = figure()
    left, right = drawn.subplots(1, 2)
    place = np.arange(len(found))
    for i, name in enumerate((SD, DISTILLSPEC)):
        intervals = [of[name].speedup for of in found.values()]
        _bars(left, place + 0.4 * i, intervals, 0.4, _COLOURS[name], name)
    for i, (name, ratios) in enumerate(((CONTROL, controls), (DISTILLSPEC, gains))):
        at = [k for k, cell in enumerate(found) if name != CONTROL or cell in controlled]
        _bars(right, place[at] + 0.4 * i, [one.interval for one in ratios], 0.4, _COLOURS[name], name)
    for axes, what in ((left, "measured speed-up"), (right, "tokens a call, over SD")):
        axes.axhline(1, color="0.3", lw=0.8)
        axes.set_xticks(place + 0.2, [name.replace(", ", "\n") for name in found], fontsize=6, rotation=45)
        axes.set_ylabel(what)
        axes.legend(fontsize=7)
    said = verdict(speeds, what="ratios of measured speed-ups")
    tokens = verdict(gains, what="ratios of block efficiency")
    more = verdict(over, what="ratios of block efficiency to the control's, which cost as much")
    return Found(
        f"In time: {said} In tokens a target call: {tokens} Over more supervised training: {more} "
        f"{prompts_said(rows)}.",
        markdown(head, lines),
        drawn,
    )


def _bars(axes, place, intervals, width, colour, label) -> None:  # type: ignore[no-untyped-def]
    values = np.array([one.value for one in intervals])
    ends = np.nan_to_num([[v - i.low, i.high - v] for v, i in zip(values, intervals, strict=True)]).T
    axes.bar(place, values, width, color=colour, label=label)
    if len(values):
        axes.errorbar(place, values, np.maximum(ends, 0), fmt="none", ecolor="0.2", lw=1)


EXPERIMENT = Experiment(
    "a",
    "Speed-up: SD and DistillSpec by task",
    "The paper claims (abstract and Figure 1) that DistillSpec is 10 to 45 % faster than standard "
    "speculative decoding, greedy and sampled; the numbers are the abstract's, the figure's bars we "
    "have not seen.",
    measure,
    page,
)
