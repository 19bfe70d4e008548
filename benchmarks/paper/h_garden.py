"""(h) Model garden: a smaller target distilled from the large one, then its draft; latency and quality."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.arms import Model
from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, InTurns, Measurement, figure, prompts_said
from benchmarks.paper.in_turns import PART, is_in_turns
from benchmarks.paper.models import DISTILLSPEC, SD
from benchmarks.paper.rows import LEVEL, Comparison, Pool, label, pace_ratio, pool, score_difference, select
from benchmarks.paper.scales import (
    LARGE,
    MEDIUM,
    MEDIUM_SUPERVISED,
    SMALL_DISTILLED,
    SMALL_SUPERVISED,
    WIKI,
    Scale,
)
from benchmarks.paper.verdicts import markdown, times
from distillspec_jax.evaluation.result_row import NO_DRAFTER, ResultRow
from distillspec_jax.reports import summary

CLAIMED, BAR = 6.0, 4.0
"""Times less latency: the paper's lower end, and what is asked of this garden."""
MARGIN = 1.0
"""Points of the score that a pair may surely lose at most to be about as good as the large target."""


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement | InTurns]:
    """The targets alone and with every smaller draft that was made for them or before them."""
    task = WIKI
    sd = scale.draft_of(task)
    medium = models.medium(scale, task)
    small = models.algorithm(scale, task, "Supervised KD")
    for_large: dict[str, Model] = {SD: sd, DISTILLSPEC: models.algorithm(scale, task, DISTILLSPEC)}
    for_large["medium as a draft"] = medium
    of_targets: dict[str, tuple[Model, dict[str, Model]]] = {
        LARGE: (scale.target_of(task), for_large),
        MEDIUM_SUPERVISED: (models.medium_supervised(scale, task), {SD: sd}),
        MEDIUM: (medium, {SD: sd, DISTILLSPEC: models.draft_of_medium(scale, task)}),
        SMALL_SUPERVISED: (sd, {"lookup": "lookup"}),
        SMALL_DISTILLED: (small, {"lookup": "lookup"}),
    }
    warmth = tuple(scale.garden_warmth)
    more = {"TEMPERATURES": str(warmth)}
    return [
        InTurns(task, {name: of_targets[name][0] for name in scale.garden}, warmth, scale.timed),
        *(
            Measurement(
                "h_garden", task, *of_targets[name], scale.prompts, scale.timed, part=name, bindings=more
            )
            for name in scale.garden
        ),
    ]


def page(rows: Sequence[ResultRow]) -> Found:
    """Seconds a token, seconds a prompt and score of every pair beside the large target alone."""
    lines, best, metric = [], [], next((row.primary_metric for row in rows if row.primary_metric), "score")
    warmth = summary.temperatures(rows)
    drawn = figure(8.0, 3.4)
    axes_of = drawn.subplots(1, max(1, len(warmth)), squeeze=False).flat
    timed = [row for row in rows if is_in_turns(row)]
    rows = [row for row in rows if not is_in_turns(row)]
    targets = list(dict.fromkeys(row.unknown["part"] for row in rows))
    for t, axes in zip(warmth, axes_of, strict=False):
        of_cell = select(rows, temperature=t)
        alone = pool(select(of_cell, part=LARGE), NO_DRAFTER, block_size=0)
        if alone is None:
            continue
        pairs = _pairs(targets, of_cell, select(timed, temperature=t))
        level = LEVEL / max(1, len(pairs))  # each of the pairs may be the one that is chosen
        found = []
        for target, name, own, in_turns in pairs:
            pace = pace_ratio(name, own, in_turns, level=level)
            prompt = pace_ratio(name, own, in_turns, a_token=False, level=level)
            one = own if own is not in_turns else pool(select(of_cell, part=target), NO_DRAFTER, block_size=0)
            assert one is not None
            score = score_difference(name, one, alone, level)
            found.append((pace, prompt, score))
            shown = [times(pace.interval), times(prompt.interval), f"{one.score.mean():.1f}"]
            lines.append([f"T = {t:g}", name, *shown, times(score.interval, 1)])
            axes.plot(
                [pace.interval.value],
                [one.score.mean()],
                "s" if own is in_turns else "o",
                color=COLOURS[targets.index(target)],
                label=target if own is in_turns else None,
            )
        as_good = [one for one in found if one[2].interval.low >= -MARGIN]
        best.append((t, len(found), max(as_good, key=lambda one: one[0].interval.value, default=None)))
        axes.set(title=f"T = {t:g}", xlabel="times faster than the large target alone", ylabel=metric)
        axes.set_xscale("log", base=2)
        axes.legend(fontsize=6)
    head = ["", "target, draft", "times faster a token", "times faster a prompt", metric]
    head.append(f"{metric} − large alone")
    return Found(f"{said(best, metric)} {prompts_said(rows)}.", markdown(head, lines), drawn)


def _pairs(
    targets: Sequence[str], of_cell: Sequence[ResultRow], timed: Sequence[ResultRow]
) -> list[tuple[str, str, Pool, Pool]]:
    """Every target without a draft and with each: target, name, its rows, and the target's in turns."""
    found = []
    for target in targets:
        of_target = select(of_cell, part=target)
        in_turns = pool(select(timed, part=f"{PART}{target}"), NO_DRAFTER, block_size=0)
        if in_turns is None:
            continue
        for drafter, size in dict.fromkeys((label(row), row.block_size) for row in of_target):
            one = in_turns if drafter == NO_DRAFTER else pool(of_target, drafter, block_size=size)
            assert one is not None
            drafted = "no draft" if drafter == NO_DRAFTER else f"{drafter}, γ = {size}"
            found.append((target, f"{target}, {drafted}", one, in_turns))
    return found


Chosen = tuple[Comparison, Comparison, Comparison]
"""Of a pair: times faster a token, a prompt, and its score's difference."""


def said(best: Sequence[tuple[float, int, Chosen | None]], metric: str) -> str:
    """The fastest pair that is as good as the large target within the margin, at each temperature."""
    parts = []
    for t, pairs, chosen in best:
        if chosen is None:
            parts.append(
                f"It did not hold at T = {t:g}: of {pairs} pairs none is as good as the large target alone "
                f"within {MARGIN:g} point of {metric}."
            )
            continue
        pace, prompt, score = chosen
        low, high = pace.interval.low, pace.interval.high
        word = "It held" if low >= CLAIMED else "It did not hold" if high < CLAIMED else "Null"
        if pace.interval.ends is None:
            word = "Cannot be told"
        bar = "above" if low >= BAR else "below" if high < BAR else "neither surely above nor below"
        parts.append(
            f"{word} at T = {t:g}: of {pairs} pairs, the fastest whose {metric} is surely at most "
            f"{MARGIN:g} point below the large target's is {pace.name}, {times(pace.interval)} times a token "
            f"and {times(prompt.interval)} a prompt, {metric} {times(score.interval, 1)} apart; that is "
            f"{bar} {BAR:g} times. These intervals hold for all {pairs} pairs together (Bonferroni)."
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
