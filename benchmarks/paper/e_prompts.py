"""(e) Which prompts gain, and whether independent acceptance predicts the measured block efficiency."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.polynomial import Polynomial
from scipy import stats

from benchmarks.paper.experiment import COLOURS, Experiment, Found, Measurement, figure, prompts_said
from benchmarks.paper.models import DISTILLSPEC, SD
from benchmarks.paper.rows import BLOCK_SIZE, LEVEL, Pool, pool, select, share_above
from benchmarks.paper.scales import Scale
from benchmarks.paper.verdicts import markdown, marked, times, verdict
from distillspec_jax.acceptance import Record
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.reports import summary

CLOSE = 0.05
"""How near theory and measurement are called close."""


def measure(scale: Scale, rows: Sequence[ResultRow] | None) -> list[Measurement]:
    """Nothing: the rows are those of (a)."""
    return []


@dataclasses.dataclass(frozen=True)
class Gap:
    """Why independent acceptance at one rate misses the measured block efficiency, in tokens a call.

    Attributes:
      told: (1 - α^(γ+1)) / (1 - α); α is accepted over tested drafts.
      ratio: told over measured.
      prompts: what a rate of its own for every prompt adds: their predictions' harmonic mean, weighted by
        emitted tokens, of which no draft decides.
      position: what rates by position in the block add to that, texts without ends.
      ends: what is lost where texts end within a block.
      conditional: β_j, the share of position j's tested drafts that passed, `[γ]`.
      flat: p-value of equal β_j (chi-squared, each test taken as independent).
    """

    told: float
    ratio: Interval
    prompts: Interval
    position: float
    ends: float
    conditional: list[float]
    flat: float

    @property
    def parts(self) -> dict[str, float]:
        """The three, which add up to what was measured less what was told."""
        return {"prompts": self.prompts.value, "position": self.position, "ends": self.ends}


def gap(pooled: Pool) -> Gap:
    """Splits the difference; each part is what one more thing adds to the prediction."""
    names = ("accepted", "tested", "emitted", "target_calls")
    sums = [pooled.counts(name) for name in names]
    ratio = paired.interval(sums, lambda s: _told(s) / paired.divide(s[..., 2], s[..., 3]))
    columns = [*sums[:3], np.sum([_calls_told(row) for row in pooled.rows], axis=0)]
    prompts = paired.interval(columns, lambda s: paired.divide(s[..., 2], s[..., 3]) - _told(s))
    record = Record.total([row.record for row in pooled.rows])
    endless = 1 + sum(record.reach or ())
    told = float(_told(np.array([one.sum() for one in sums])))
    position = endless - told - prompts.value
    ends = pooled.efficiency.value - endless
    return Gap(told, ratio, prompts, position, ends, record.acceptance_conditional or [], flatness(record))


def _told(sums: np.ndarray) -> np.ndarray:
    """Block efficiency of independent acceptance; the first two sums are accepted and tested drafts."""
    return expected(paired.divide(sums[..., 0], sums[..., 1]))


def expected(rate: np.ndarray) -> np.ndarray:
    """Block efficiency of independent acceptance at rates."""
    return np.sum([rate**i for i in range(BLOCK_SIZE + 1)], axis=0)


def _calls_told(row: ResultRow) -> np.ndarray:
    """Target calls that each prompt's own rate predicts for its text, `[N]`.

    A rate from few tests is noisy, and so much higher is the mean of a convex function of it: that is taken
    off, to the second order.
    """
    emitted, accepted, tested = (
        np.array(getattr(row.per_prompt, name), np.float64) for name in ("emitted", "accepted", "tested")
    )
    rate = np.divide(accepted, tested, out=np.zeros_like(accepted), where=tested > 0)
    told = Polynomial(np.ones(BLOCK_SIZE + 1))
    value, slope, bend = told(rate), told.deriv()(rate), told.deriv(2)(rate)
    noise = (2 * slope**2 / value**3 - bend / value**2) / 2 * rate * (1 - rate) / np.maximum(tested - 1, 1)
    return np.asarray(emitted * (1 / value - noise))


def flatness(record: Record) -> float:
    """P-value of the hypothesis that drafts at all positions are accepted alike; 1 if nothing can differ."""
    pairs = zip(record.accepted_at or (), record.tested_at or (), strict=True)
    table = np.array([(a, t - a) for a, t in pairs if t], np.float64)
    if len(table) < 2 or not table.sum(0).all():
        return 1.0
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def page(rows: Sequence[ResultRow]) -> Found:
    """The share of prompts that gain; the prediction beside the measurement of every cell, and their gap."""
    shares, lines, points, gains, gaps, betas = [], [], [], [], [], []
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
                found, measured = gap(pooled), pooled.efficiency
                gaps.append(found)
                points.append((measured.value, found.told))
                rate = pooled.counts("accepted").sum() / max(1, pooled.counts("tested").sum())
                theory = [f"{found.told:.2f}", times(measured), times(found.ratio, 3)]
                split = [times(found.prompts), f"{found.position:+.2f}", f"{found.ends:+.2f}"]
                lines.append([here, name, f"{rate:.3f}", *theory, *split])
                betas.append([here, name, *(_share(beta) for beta in found.conditional)])
    drawn = figure()
    left, right = drawn.subplots(1, 2)
    for i, (here, sd, ours) in enumerate(gains):
        x, y = (one.counts("emitted") / one.counts("target_calls") for one in (sd, ours))
        left.plot(x, y, ".", ms=4, alpha=0.6, color=COLOURS[i % len(COLOURS)], label=here)
    right.plot([m for m, _ in points], [told for _, told in points], "o", ms=4, color=COLOURS[0])
    for axes, x, y in ((left, SD, DISTILLSPEC), (right, "measured", "(1 − α^(γ+1)) / (1 − α)")):
        axes.axline((1, 1), slope=1, color="0.5", lw=0.8)
        axes.set(xlabel=f"tokens a call, {x}", ylabel=y)
    left.legend(fontsize=6)
    of_shares = [[one.name, text] for one, text in zip(shares, marked(shares), strict=True)]
    head = ["", "draft", "α", "theory", "measured", "theory / measured"]
    head += ["gap: prompts", "gap: position", "gap: ends"]
    flat = stats.false_discovery_control([one.flat for one in gaps]) if gaps else np.array([])
    places = ["", "draft", *(f"β{j}" for j in range(1, BLOCK_SIZE + 1)), "p of equal β"]
    by_place = [[*line, f"{p:.2g}"] for line, p in zip(betas, flat, strict=True)]
    tables = [
        markdown(["", "share of changed prompts that gain"], of_shares),
        markdown(head, lines),
        markdown(places, by_place),
        "Gap: tokens a call that are measured beyond the theory, and what adds them, one after the other: "
        "every prompt its own α; every position its own β; texts that end within a block. β: accepted over "
        "tested drafts of a position, which is tested only where all before it were accepted; p: adjusted "
        "by Benjamini–Hochberg, tests taken as independent. Prompts of different α alone make β rise.",
    ]
    said = verdict(shares, what="shares of prompts that gain")
    return Found(
        f"Gains: {said} Theory: {_theory_said(gaps, flat)} {prompts_said(rows)}.",
        "\n\n".join(tables),
        drawn,
    )


def _share(beta: float) -> str:
    return "–" if math.isnan(beta) else f"{beta:.2f}"


def _theory_said(gaps: Sequence[Gap], flat: np.ndarray) -> str:
    if not gaps:
        return "cannot be told."
    near = sum(abs(one.ratio.value - 1) <= CLOSE for one in gaps)
    largest = Counter(max(one.parts, key=lambda part: abs(one.parts[part])) for one in gaps)
    ranges = [
        f"{part} {min(values):+.2f} to {max(values):+.2f}"
        for part in gaps[0].parts
        for values in [[one.parts[part] for one in gaps]]
    ]
    first, count = largest.most_common(1)[0]
    return (
        f"within {CLOSE:.0%} of the measured block efficiency in {near} of {len(gaps)} cells. The gap in "
        f"tokens a call: {', '.join(ranges)}; the largest part is {first} in {count} of {len(gaps)} cells. "
        f"Acceptance differs between positions in {int((flat < LEVEL).sum())} of them."
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
