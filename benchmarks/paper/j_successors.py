"""(j) Beyond the paper: acceptance-native losses and token selection against forward KL at equal compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.arms import Arm
from benchmarks.paper import models
from benchmarks.paper.experiment import Experiment, Found, Measurement, prompts_said, ratios_figure
from benchmarks.paper.models import SD
from benchmarks.paper.rows import efficiency_ratio, label, labels, pools, select
from benchmarks.paper.scales import Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.evaluation import power
from distillspec_jax.evaluation.power import Pilot
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

BASE = "forward KL"
SUCCESSORS = ("LK hybrid", "AdaSPEC", "block efficiency")
_FIXED = {"SOURCE": "@sources.Fixed()"}


def arms(scale: Scale, task: str, seed: int) -> Mapping[str, Arm]:
    """Every loss on the references; AdaSPEC shares its steps with the reference draft that it needs."""
    half = max(1, scale.steps // 2)
    reference = models.distilled(scale, task, "reference draft", "supervised_kd", seed, steps=half)
    return {
        BASE: models.cell(scale, task, "FKL", "fixed", scale.rate, seed),
        "JSD 0.5": models.cell(scale, task, "JSD 0.5", "fixed", scale.rate, seed),
        "-log α": models.cell(scale, task, "-log α", "fixed", scale.rate, seed),
        "LK hybrid": models.distilled(scale, task, "LK hybrid", "lk_hybrid", seed, more=_FIXED),
        "AdaSPEC": models.distilled(
            scale, task, "AdaSPEC", "adaspec", seed, steps=half, more={"REFERENCE": reference}
        ),
        "block efficiency": models.distilled(
            scale, task, "block efficiency", "block_efficiency", seed, more=_FIXED
        ),
    }


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
    for task in dict.fromkeys(row.task for row in rows):
        for t in summary.temperatures(rows):
            of_cell = select(rows, task=task, temperature=t)
            others = pools(of_cell, [BASE, *names])
            if not others:
                continue
            base = others.pop(BASE)
            heads.append([f"{task}, T = {t:g}", f"{base.cost['seconds']:.0f} s", times(base.efficiency)])
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
    cost = {label(row): row.unknown["trained"]["seconds"] for row in rows if row.unknown.get("trained")}
    head = [
        "",
        "forward KL: training",
        "tokens a call",
        *(f"{name} ({cost.get(name, 0):.0f} s)" for name in names),
    ]
    cells = [line[0] for line in heads]
    drawn = ratios_figure(cells, [[one.interval for one in line] for line in found], names, "forward KL")
    own = [one for one in flat if one.name.startswith(SUCCESSORS)]
    said = verdict(own, what="ratios of a successor over forward KL")
    seen = f"{min(visible):.0%} to {max(visible):.0%}" if visible else "–"
    return Found(
        f"{said} With 80 % power these prompts show changes of {seen}. {prompts_said(rows)}.",
        markdown(head, [[*line, *(next(shown) for _ in names)] for line in heads]),
        drawn,
    )


EXPERIMENT = Experiment(
    "j",
    "Successors: acceptance-native losses and token selection",
    "Later papers claim that their losses beat forward KL in acceptance: the LK hybrid (arXiv 2602.23881), "
    "AdaSPEC (arXiv 2510.19779), and an expected block efficiency that is differentiated (arXiv 2605.18810).",
    measure,
    page,
)
