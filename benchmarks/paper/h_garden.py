"""(h) Model garden: a smaller target distilled from the large one, then its draft; latency and quality."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.arms import Model
from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, InTurns, Measurement, figure, prompts_said
from benchmarks.paper.in_turns import PART
from benchmarks.paper.models import DISTILLSPEC, SD
from benchmarks.paper.rows import Comparison, Pool, label, pace_ratio, pool, score_difference, select
from benchmarks.paper.scales import WIKI, Scale
from benchmarks.paper.verdicts import markdown, times
from distillspec_jax.evaluation.result_row import NO_DRAFTER, ResultRow
from distillspec_jax.reports import summary

LARGE = "large"
WARMTH = (0.0, 1.0)
CLAIMED, BAR = 6.0, 4.0
"""Times less latency: the paper's lower end, and what is asked of this garden."""


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement | InTurns]:
    """Every target alone and with every smaller draft that was made for it or before it."""
    task = WIKI
    sd = scale.draft_of(task)
    medium = models.medium(scale, task)
    small = models.algorithm(scale, task, "Supervised KD")
    of_targets: list[tuple[str, Model, dict[str, Model]]] = [
        (
            LARGE,
            scale.target_of(task),
            {SD: sd, DISTILLSPEC: models.algorithm(scale, task, DISTILLSPEC), "medium as a draft": medium},
        ),
        ("medium, supervised", models.medium_supervised(scale, task), {SD: sd}),
        ("medium, distilled", medium, {SD: sd, DISTILLSPEC: models.draft_of_medium(scale, task)}),
        ("small, supervised", sd, {"lookup": "lookup"}),
        ("small, distilled", small, {"lookup": "lookup"}),
    ]
    alone = {name: target for name, target, _ in of_targets}
    return [
        InTurns(task, alone, WARMTH, scale.timed),
        *(
            Measurement("h_garden", task, target, drafters, scale.prompts, scale.timed, part=name)
            for name, target, drafters in of_targets
        ),
    ]


def page(rows: Sequence[ResultRow]) -> Found:
    """Seconds a token and score of every pair beside the large target alone."""
    lines, best, metric = [], [], next((row.primary_metric for row in rows if row.primary_metric), "score")
    warmth = summary.temperatures(rows)
    drawn = figure(8.0, 3.4)
    axes_of = drawn.subplots(1, max(1, len(warmth)), squeeze=False).flat
    timed = [row for row in rows if row.unknown["part"].startswith(PART)]
    rows = [row for row in rows if not row.unknown["part"].startswith(PART)]
    targets = list(dict.fromkeys(row.unknown["part"] for row in rows))
    for t, axes in zip(warmth, axes_of, strict=False):
        of_cell = select(rows, temperature=t)
        alone = pool(select(of_cell, part=LARGE), NO_DRAFTER, block_size=0)
        if alone is None:
            continue
        found = []
        for i, target in enumerate(targets):
            of_target = select(of_cell, part=target)
            in_turns = pool(select(timed, temperature=t, part=f"{PART}{target}"), NO_DRAFTER, block_size=0)
            if in_turns is None:
                continue
            for drafter, size in dict.fromkeys((label(row), row.block_size) for row in of_target):
                one = pool(of_target, drafter, block_size=size)
                assert one is not None
                name = f"{target}, {'no draft' if drafter == NO_DRAFTER else f'{drafter}, γ = {size}'}"
                own = in_turns if drafter == NO_DRAFTER else one
                pace, score = pace_ratio(name, own, in_turns), score_difference(name, one, alone)
                found.append((pace, score))
                lines.append([f"T = {t:g}", name, *_shown(pace, score, one)])
                axes.plot(
                    [pace.interval.value],
                    [one.score.mean()],
                    "s" if drafter == NO_DRAFTER else "o",
                    color=COLOURS[i],
                    label=target if drafter == NO_DRAFTER else None,
                )
        no_worse = [pair for pair in found if pair[1].side >= 0]
        if no_worse:
            best.append((t, len(no_worse), *max(no_worse, key=lambda pair: pair[0].interval.value)))
        axes.set(title=f"T = {t:g}", xlabel="times faster than the large target alone", ylabel=metric)
        axes.set_xscale("log", base=2)
        axes.legend(fontsize=6)
    head = ["", "target, draft", "times faster", metric, f"{metric} − large alone"]
    return Found(f"{said(best, metric)} {prompts_said(rows)}.", markdown(head, lines), drawn)


def _shown(pace: Comparison, score: Comparison, one: Pool) -> list[str]:
    return [times(pace.interval), f"{one.score.mean():.1f}", times(score.interval, 1)]


def said(best: Sequence[tuple[float, int, Comparison, Comparison]], metric: str) -> str:
    """The fastest pair whose score is not seen to be worse than the large target's, at each temperature."""
    parts = []
    for t, pairs, pace, score in best:
        low, high = pace.interval.low, pace.interval.high
        word = "It held" if low >= CLAIMED else "It did not hold" if high < CLAIMED else "Null"
        if pace.interval.ends is None:
            word = "Cannot be told"
        bar = "above" if low >= BAR else "below" if high < BAR else "neither surely above nor below"
        parts.append(
            f"{word} at T = {t:g}: of the {pairs} pairs whose {metric} is not seen to be worse than the "
            f"large target's the fastest is {pace.name}, {times(pace.interval)} times, "
            f"{metric} {times(score.interval, 1)} apart (the interval of the difference); "
            f"that is {bar} {BAR:g} times."
        )
    return " ".join(parts) or "Cannot be told: no pairs."


EXPERIMENT = Experiment(
    "h",
    "Garden: a smaller target and its draft",
    "The paper claims (abstract; Figure 6) that distilling a smaller target first and then its draft cuts "
    "latency 6 to 10 times against the large target without distillation, at about its quality.",
    measure,
    page,
)
