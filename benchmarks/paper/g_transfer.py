"""(g) Transfer: a draft on tasks that it never saw, and with a larger target than it was distilled from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.arms import Model
from benchmarks.paper import models
from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import DISTILLSPEC, SD
from benchmarks.paper.rows import (
    Comparison,
    Pool,
    efficiency_ratio,
    geometric_mean,
    pool,
    ratio,
    select,
    speed_ratio,
)
from benchmarks.paper.scales import GSM, WIKI, Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary
from distillspec_jax.showcase.transfer_texts import GENERATORS

UNSEEN = "reasoning_gym"
MEDIUM = "DistillSpec for the medium target"


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """The draft of `gsm_symbolic` on other puzzles; the medium target's draft with the large target."""
    ours = models.algorithm(scale, GSM, DISTILLSPEC)
    kinds = len(GENERATORS)
    puzzles = scale.per_generator * kinds
    timed = min(puzzles, -(-scale.timed // kinds) * kinds)  # as many of each
    shorter = {} if scale.unseen_tokens is None else {"sweep.sweep.max_new_tokens": scale.unseen_tokens}
    larger: dict[str, Model] = {
        SD: scale.draft_of(WIKI),
        MEDIUM: models.draft_of_medium(scale, WIKI),
        DISTILLSPEC: models.algorithm(scale, WIKI, DISTILLSPEC),
    }
    return [
        Measurement(
            "g_transfer",
            UNSEEN,
            scale.target_of(GSM),
            {SD: scale.draft_of(GSM), DISTILLSPEC: ours},
            puzzles,
            timed,
            bindings=shorter,
        ),
        Measurement("g_transfer", WIKI, scale.target_of(WIKI), larger, scale.prompts, scale.timed),
    ]


def of_generators(pooled: Pool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Emitted tokens and target calls of each generator's prompts; the file takes generators in turns."""
    emitted, calls = pooled.counts("emitted"), pooled.counts("target_calls")
    kinds = min(len(GENERATORS), len(emitted))
    return [(emitted[k :: len(GENERATORS)], calls[k :: len(GENERATORS)]) for k in range(kinds)]


def _ratio(
    name: str, ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> Comparison:
    return ratio(name, [ours[0], theirs[1]], [ours[1], theirs[0]])


def page(rows: Sequence[ResultRow]) -> Found:
    """The ratio to SD on all puzzles and of each kind, in tokens a call and in time; the larger target."""
    unseen, larger = select(rows, task=UNSEEN), [row for row in rows if row.task != UNSEEN]
    whole, speeds, other, lines, of_kinds, averages = [], [], [], [], [], []
    answers = ""
    for t in summary.temperatures(unseen):
        of_cell = select(unseen, temperature=t)
        sd, ours = pool(of_cell, SD), pool(of_cell, DISTILLSPEC)
        if sd is None or ours is None:
            continue
        whole.append(efficiency_ratio(f"T = {t:g}", ours, sd))
        if sd.is_timed and ours.is_timed:
            speeds.append(speed_ratio(f"T = {t:g}", ours, sd))
        answers = answers or f"{sd.score.mean():.1f} %"
        cut_off = " and ".join(f"{one.cut_off:.0%}" for one in (sd, ours))
        lines.append([f"T = {t:g}", cut_off, *(times(one.speedup) for one in (sd, ours))])
        columns = [of_generators(one) for one in (ours, sd)]
        if len(columns[0]) == len(GENERATORS):
            ratios = [_ratio(name, a, b) for name, a, b in zip(GENERATORS, *columns, strict=True)]
            of_kinds.append((t, ratios))
            averages.append(geometric_mean(f"T = {t:g}", ratios))
    for t in summary.temperatures(larger):
        of_cell = select(larger, temperature=t)
        sd, ours = pool(of_cell, SD), pool(of_cell, MEDIUM)
        if sd is not None and ours is not None:
            other.append(efficiency_ratio(f"T = {t:g}", ours, sd))
    head = ["puzzles", "texts cut at the longest, SD and DistillSpec", "SD speed-up", "DistillSpec speed-up"]
    head += ["their ratio", "ratio of tokens a call", "geometric mean of its ratios by kind"]
    padded = [_padded(some, len(lines)) for some in (speeds, whole, averages)]
    tables = [markdown(head, [[*line, *more] for line, *more in zip(lines, *padded, strict=True)])]
    tables.append(
        markdown(
            ["larger target", "tokens a call, medium target's draft over SD"],
            [[one.name, text] for one, text in zip(other, marked(other), strict=True)],
        )
    )
    if of_kinds:
        shown = [marked(kinds) for _, kinds in of_kinds]
        table = [[name, *row] for name, *row in zip(GENERATORS, *shown, strict=True)]
        tables.append(markdown(["tokens a call over SD", *(f"T = {t:g}" for t, _ in of_kinds)], table))
    drawn = figure(8.0, 3.0)
    axes = drawn.subplots()
    for i, (t, kinds) in enumerate(of_kinds):
        axes.plot(
            range(len(kinds)),
            [one.interval.value for one in kinds],
            "o",
            color=COLOURS[i],
            label=f"T = {t:g}",
        )
    axes.axhline(1, color="0.3", lw=0.8)
    axes.set_xticks(range(len(GENERATORS)), GENERATORS, rotation=60, ha="right", fontsize=6)
    axes.set_ylabel("tokens a call, over SD")
    axes.legend(fontsize=7)
    tokens = verdict(whole, what="ratios of block efficiency on unseen puzzles")
    mean = verdict(averages, what="geometric means over kinds of puzzle, kinds resampled")
    fast = verdict(speeds, what="ratios of speed-ups there")
    said = verdict(other, what="ratios for the larger target")
    return Found(
        f"In time: {fast} In tokens a call: {tokens} {mean} For a larger target: {said} The target answers "
        f"{answers} of these puzzles, so what is transferred is agreement and no skill. "
        f"{prompts_said(rows)}.",
        "\n\n".join(tables),
        drawn,
    )


def _padded(comparisons: Sequence[Comparison], length: int) -> list[str]:
    return marked(comparisons) if len(comparisons) == length else ["–"] * length


EXPERIMENT = Experiment(
    "g",
    "Transfer: unseen tasks, a larger target",
    "The paper claims (abstract) that a draft distilled on GSM8K speeds 23 unseen BIG-Bench-Hard tasks up by "
    "26 % on average (second-hand numbers, 1.93 to 2.21 at T = 0 and 1.78 to 2.02 at T = 1, are 14 %), and "
    "that it serves a larger target of the family, too.",
    measure,
    page,
)
