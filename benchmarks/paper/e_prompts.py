"""(e) Which prompts gain, and whether independent acceptance predicts the measured block efficiency."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import DISTILLSPEC, SD
from benchmarks.paper.rows import BLOCK_SIZE, Pool, pool, select, share_above
from benchmarks.paper.scales import Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.acceptance import Record, expected_block_efficiency
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

CLOSE = 0.05
"""How near theory and measurement are called close."""


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """Nothing: the rows are those of (a)."""
    return []


def theory(pooled: Pool) -> Interval:
    """(1 - α^(γ+1)) / (1 - α) over the measured block efficiency; α is accepted over tested drafts."""

    def ratio(s: np.ndarray) -> np.ndarray:
        rate = paired.divide(s[..., 0], s[..., 1])
        told = sum(rate**i for i in range(BLOCK_SIZE + 1))
        return told / paired.divide(s[..., 2], s[..., 3])

    names = ("accepted", "tested", "emitted", "target_calls")
    return paired.interval([pooled.counts(name) for name in names], ratio)


def by_position(pooled: Pool) -> float:
    """1 + Σ_i Π_{j ≤ i} β_j over measured, β_j the share of position j's tested drafts that passed."""
    record = Record.total([row.record for row in pooled.rows])
    told = 1 + sum(record.acceptance_joint or ())
    return float(told / pooled.efficiency.value)


def page(rows: Sequence[ResultRow]) -> Found:
    """The share of prompts that gain; the prediction beside the measurement of every cell."""
    shares, lines, points, gains = [], [], [], []
    for task in dict.fromkeys(row.task for row in rows):
        for t in summary.temperatures(rows):
            of_cell = select(rows, task=task, temperature=t)
            sd, ours = pool(of_cell, SD), pool(of_cell, DISTILLSPEC)
            if sd is None or ours is None:
                continue
            here = f"{task}, T = {t:g}"
            shares.append(share_above(here, ours, sd))
            gains.append((here, sd, ours))
            for name, pooled in ((SD, sd), (DISTILLSPEC, ours)):
                found = theory(pooled)
                measured = pooled.efficiency
                rate = pooled.counts("accepted").sum() / max(1, pooled.counts("tested").sum())
                told = expected_block_efficiency(float(rate), BLOCK_SIZE)
                points.append((found, measured.value, told))
                beside = f"{by_position(pooled):.3f}"
                lines.append(
                    [here, name, f"{rate:.3f}", f"{told:.2f}", times(measured), times(found, 3), beside]
                )
    drawn = figure()
    left, right = drawn.subplots(1, 2)
    for i, (here, sd, ours) in enumerate(gains):
        x, y = (one.counts("emitted") / one.counts("target_calls") for one in (sd, ours))
        left.plot(x, y, ".", ms=4, alpha=0.6, color=COLOURS[i % len(COLOURS)], label=here)
    right.plot([m for _, m, _ in points], [told for *_, told in points], "o", ms=4, color=COLOURS[0])
    for axes, x, y in ((left, SD, DISTILLSPEC), (right, "measured", "(1 − α^(γ+1)) / (1 − α)")):
        axes.axline((1, 1), slope=1, color="0.5", lw=0.8)
        axes.set(xlabel=f"tokens a call, {x}", ylabel=y)
    left.legend(fontsize=6)
    near = sum(abs(found.value - 1) <= CLOSE for found, *_ in points)
    of_shares = [[one.name, text] for one, text in zip(shares, marked(shares), strict=True)]
    head = ["", "draft", "α", "theory", "measured", "theory / measured", "by position / measured"]
    tables = [markdown(["", "share of changed prompts that gain"], of_shares), markdown(head, lines)]
    said = verdict(shares, what="shares of prompts that gain")
    return Found(
        f"Gains: {said} Theory: within {CLOSE:.0%} of the measured block efficiency in {near} of "
        f"{len(points)} cells; what remains is that acceptance depends on the position in the block, as the "
        f"last column shows (what it differs from 1 by are texts' ends). {prompts_said(rows)}.",
        "\n\n".join(tables),
        drawn,
    )


EXPERIMENT = Experiment(
    "e",
    "Prompts: who gains, and theory",
    "The paper claims (Figures 3b and 3c, by second-hand texts) that most sequences gain and not a few, and "
    "that (1 − α^(γ+1)) / (1 − α) agrees closely with the measured block efficiency.",
    measure,
    page,
    rows_of="a",
)
