"""(j) Beyond the paper: acceptance-native losses and token selection against forward KL at equal compute."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.arms import Arm
from benchmarks.paper import models
from benchmarks.paper.experiment import Experiment, Found, Measurement, prompts_said, ratios_figure
from benchmarks.paper.models import SD
from benchmarks.paper.rows import efficiency_ratio, labels, pools, select
from benchmarks.paper.scales import BASE, SUCCESSORS, Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.evaluation import power
from distillspec_jax.evaluation.power import Pilot
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

_FIXED = {"SOURCE": "@sources.Fixed()"}
_REFERENCE_SEED = 1000
"""Added to a seed: AdaSPEC's reference draft sees other batches than the draft that it judges."""


def arms(scale: Scale, task: str, seed: int) -> dict[str, Arm]:
    """Every loss on the references, at the cost of forward KL; AdaSPEC's includes its reference draft.

    All take the learning rate of forward KL, but the divergences for which (d) has chosen one.
    """
    base = models.cell(scale, task, "FKL", "fixed", seed)
    rate, half = scale.rate_of(task, "FKL", "fixed"), max(1, scale.steps // 2)
    reference = models.distilled(
        scale, task, "reference draft", "supervised_kd", seed + _REFERENCE_SEED, rate=rate, steps=half
    )
    files: dict[str, tuple[str, dict[str, Any]]] = {
        "LK hybrid": ("lk_hybrid", _FIXED),
        "AdaSPEC": ("adaspec", {"REFERENCE": reference}),
        "block efficiency": ("block_efficiency", _FIXED),
    }
    made = {BASE: base}
    for loss in scale.losses:
        if loss in files:
            file, more = files[loss]
            arm = models.distilled(scale, task, loss, file, seed, rate=rate, more=more)
        elif (task, loss, "fixed") in scale.chosen:
            arm = models.cell(scale, task, loss, "fixed", seed)
        else:
            arm = models.cell(scale, task, loss, "fixed", seed, rate=rate)
        made[loss] = dataclasses.replace(arm, as_long_as=base)
    return made


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """The compared tasks, every loss and seed."""
    found = []
    for task in scale.compared:
        drafters: dict[str, models.Model] = {SD: scale.draft_of(task)}
        for seed in range(scale.seeds):
            drafters |= {f"{name}, seed {seed}": arm for name, arm in arms(scale, task, seed).items()}
        found.append(Measurement("j_successors", task, scale.target_of(task), drafters, scale.prompts))
    return found


def page(rows: Sequence[ResultRow]) -> Found:
    """Every loss over forward KL, with what they cost and what this many prompts could show."""
    names = [name for name in labels(rows) if name not in (SD, BASE)]
    found, heads, visible = [], [], []
    costs: dict[str, list[str]] = {}
    for task in dict.fromkeys(row.task for row in rows):
        for t in summary.temperatures(rows):
            of_cell = select(rows, task=task, temperature=t)
            others = pools(of_cell, [BASE, *names])
            if not others:
                continue
            costs[task] = [_cost(others[name].cost) for name in (BASE, *names)]
            base = others.pop(BASE)
            heads.append([f"{task}, T = {t:g}", times(base.efficiency)])
            found.append(
                [efficiency_ratio(f"{name}, {task}, T = {t:g}", others[name], base) for name in names]
            )
            for name in SUCCESSORS:
                if name in others:
                    one = others[name]
                    pilot = Pilot.of(
                        [one.counts("emitted"), base.counts("target_calls")],
                        [one.counts("target_calls"), base.counts("emitted")],
                    )
                    visible.append(power.visible_change(pilot.spread, pilot.units))
    flat = [one for line in found for one in line]
    shown = iter(marked(flat))
    cells = [line[0] for line in heads]
    drawn = ratios_figure(cells, [[one.interval for one in line] for line in found], names, "forward KL")
    own = [one for one in flat if one.name.startswith(SUCCESSORS)]
    said = verdict(own, what="ratios of a successor over forward KL", among=flat)
    seen = f"{min(visible):.0%} to {max(visible):.0%}" if visible else "–"
    head = ["", "forward KL, tokens a call", *names]
    tables = [
        markdown(head, [[*line, *(next(shown) for _ in names)] for line in heads]),
        markdown(["training", BASE, *names], [[task, *line] for task, line in costs.items()]),
    ]
    return Found(
        f"{said} With 80 % power these prompts show changes of {seen}. {prompts_said(rows)}.",
        "\n\n".join(tables),
        drawn,
    )


def _cost(cost: Mapping[str, Any]) -> str:
    return f"{cost['steps']:.0f} steps, {cost['seconds']:.0f} {cost['unit']}"


EXPERIMENT = Experiment(
    "j",
    "Successors: acceptance-native losses and token selection",
    "Later papers claim that their losses beat forward KL in acceptance: the LK hybrid (arXiv 2602.23881), "
    "AdaSPEC (arXiv 2510.19779), and an expected block efficiency that is differentiated (arXiv 2605.18810).",
    measure,
    page,
)
