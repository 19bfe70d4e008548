"""Rows of results as the experiments read them: seeds added up, prompts paired, differences judged.

A published row is a row of a sweep with two more fields: `trained`, what its draft is and what it cost, and
`part`, where an experiment has several. Nothing else is needed for a page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.power import Pilot
from distillspec_jax.evaluation.result_row import ResultRow

LEVEL = 0.05
BLOCK_SIZE = 7
"""The paper's."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """The rows of one drafter in one cell, one a seed, all on the same prompts.

    Counts and seconds of a prompt are added up over seeds; prompts are what intervals resample.
    """

    rows: Sequence[ResultRow]

    @property
    def prompts(self) -> int:
        return self.rows[0].prompts

    def counts(self, field: str) -> np.ndarray:
        """A column of `per_prompt`, `[N]`."""
        return np.sum([getattr(row.per_prompt, field) for row in self.rows], axis=0)

    def timed(self, field: str) -> np.ndarray:
        """A column of `timing`, of the timed batches."""
        return np.sum([getattr(row.timing, field) for row in self.rows], axis=0)

    @property
    def is_timed(self) -> bool:
        return all(row.timing is not None for row in self.rows)

    @property
    def efficiency(self) -> Interval:
        """Block efficiency."""
        return paired.ratio(self.counts("emitted"), self.counts("target_calls"))

    @property
    def speedup(self) -> Interval:
        """Measured, over decoding without a draft."""
        names = ("baseline_seconds", "baseline_emitted", "seconds", "emitted")
        return paired.ratio_of_ratios(*map(self.timed, names))

    @property
    def score(self) -> np.ndarray:
        """The task's score of each prompt, averaged over seeds, `[N]`."""
        return np.mean([np.asarray(row.per_prompt.score, np.float64) for row in self.rows], axis=0)

    @property
    def cost(self) -> dict[str, Any]:
        """`trained` of the first seed, with the means of steps and seconds; empty without training."""
        found = [trained for row in self.rows if (trained := row.unknown.get("trained"))]
        if not found:
            return {}
        means = {name: float(np.mean([one[name] for one in found])) for name in ("steps", "seconds")}
        return {**found[0], **means}

    @property
    def cut_off(self) -> float:
        """The share of texts that ended at the length limit."""
        reasons = [reason for row in self.rows for reason in row.per_prompt.finish_reason or ()]
        return reasons.count("length") / len(reasons) if reasons else float("nan")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A number beside the value that it has if there is no difference.

    Attributes:
      name: what is compared with what, and where.
      interval: of 95 %.
      p_value: two-sided.
      null: 1 of a ratio, 0 of a difference.
    """

    name: str
    interval: Interval
    p_value: float
    null: float = 1.0

    @property
    def side(self) -> int:
        """1 where the whole interval lies above, -1 where it lies below, 0 where it includes the null."""
        if not np.isfinite([self.interval.low, self.interval.high]).all():
            return 0
        return int(self.interval.low > self.null) - int(self.interval.high < self.null)


def select(rows: Iterable[ResultRow], **fields: Any) -> list[ResultRow]:
    """Keeps the rows whose fields are these; `seed` is of the training, `part` as published."""
    return [row for row in rows if all(_field(row, name) == value for name, value in fields.items())]


def _field(row: ResultRow, name: str) -> Any:
    return row.unknown.get(name) if name == "part" else getattr(row, name)


def label(row: ResultRow) -> str:
    """The drafter without its seed."""
    return row.drafter.partition(", seed ")[0]


def labels(rows: Iterable[ResultRow]) -> list[str]:
    """The drafters, without seeds, in the order of their rows."""
    return list(dict.fromkeys(label(row) for row in rows if row.is_drafted))


def pool(rows: Iterable[ResultRow], drafter: str, **fields: Any) -> Pool | None:
    """Finds the rows of a drafter in a cell (block size 7 unless another is named), latest of each seed."""
    fields = {"block_size": BLOCK_SIZE, **fields}
    found = {row.drafter: row for row in select(rows, **fields) if label(row) == drafter}
    if len({row.prompts_digest for row in found.values()}) > 1:
        raise UsageError(f"{drafter} was measured on different prompts: its seeds cannot be added up")
    return Pool(list(found.values())) if found else None


def pools(rows: Sequence[ResultRow], drafters: Iterable[str], **fields: Any) -> dict[str, Pool]:
    """Finds the rows of several drafters in a cell; nothing unless all of them are there."""
    found = {name: one for name in drafters if (one := pool(rows, name, **fields)) is not None}
    return found if set(found) == set(drafters) else {}


def efficiency_ratio(name: str, ours: Pool, theirs: Pool) -> Comparison:
    """Compares block efficiencies, paired by prompt."""
    over = [ours.counts("emitted"), theirs.counts("target_calls")]
    under = [ours.counts("target_calls"), theirs.counts("emitted")]
    return ratio(name, over, under)


def speed_ratio(name: str, ours: Pool, theirs: Pool) -> Comparison:
    """Compares speed-ups, each over its own baseline, paired by timed batch."""
    over = [ours.timed("baseline_seconds"), ours.timed("emitted")]
    over += [theirs.timed("seconds"), theirs.timed("baseline_emitted")]
    under = [ours.timed("seconds"), ours.timed("baseline_emitted")]
    under += [theirs.timed("baseline_seconds"), theirs.timed("emitted")]
    return ratio(name, over, under)


def pace_ratio(
    name: str, ours: Pool, alone: Pool, *, a_token: bool = True, level: float = LEVEL
) -> Comparison:
    """Compares the time of a pair with that of the large target without a draft.

    Args:
      ours: timed in turns with its own target.
      alone: that target, timed in turns with the large one (`in_turns`); `ours` itself: nothing to add.
      a_token: seconds a token; False: seconds a prompt, whose texts may be longer or shorter.
      level: of the interval, what it may miss.
    """
    over, under = [], []
    for one in (alone,) if ours is alone else (alone, ours):
        over += [one.timed("baseline_seconds"), *([one.timed("emitted")] if a_token else [])]
        under += [*([one.timed("baseline_emitted")] if a_token else []), one.timed("seconds")]
    return ratio(name, over, under, level)


def score_difference(name: str, ours: Pool, theirs: Pool, level: float = LEVEL) -> Comparison:
    """Compares task scores, paired by prompt; `level` is what the interval may miss."""
    gap = ours.score - theirs.score
    flat = float(np.ptp(gap)) == 0
    p_value = float(not gap.any()) if flat else float(stats.ttest_1samp(gap, 0.0).pvalue)
    interval = paired.difference_of_means(ours.score, theirs.score, level=1 - level)
    return Comparison(name, interval, p_value, null=0.0)


def geometric_mean(name: str, ratios: Sequence[Comparison]) -> Comparison:
    """The geometric mean of ratios, one a unit: what another unit would have on average."""
    logs = np.log([one.interval.value for one in ratios])
    interval = paired.interval([logs, np.ones(len(logs))], lambda s: np.exp(s[..., 0] / s[..., 1]))
    varies = len(logs) > 1 and float(np.ptp(logs)) > 0
    return Comparison(name, interval, float(stats.ttest_1samp(logs, 0.0).pvalue) if varies else 1.0)


def share_above(name: str, ours: Pool, theirs: Pool) -> Comparison:
    """The share of prompts that gain, of those whose block efficiency changes; half of them by chance."""
    gain = ours.counts("emitted") * theirs.counts("target_calls")
    gain = gain - theirs.counts("emitted") * ours.counts("target_calls")
    changed = gain != 0
    up = (gain > 0).astype(float)
    interval = paired.interval([up, changed.astype(float)], lambda s: paired.divide(s[..., 0], s[..., 1]))
    test = stats.binomtest(int(up.sum()), max(1, int(changed.sum())))
    return Comparison(name, interval, float(test.pvalue), null=0.5)


def ratio(
    name: str, over: Sequence[np.ndarray], under: Sequence[np.ndarray], level: float = LEVEL
) -> Comparison:
    """Compares products of sums over units, all columns on the same ones."""
    columns = [*over, *under]
    statistic = _quotient(len(over))
    try:
        p_value = Pilot.of(over, under).p_value
    except UsageError:  # too few prompts
        p_value = 1.0
    return Comparison(name, paired.interval(columns, statistic, level=1 - level), p_value)


def _quotient(tops: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda s: paired.divide(s[..., :tops].prod(-1), s[..., tops:].prod(-1))


def survivors(comparisons: Sequence[Comparison]) -> list[int]:
    """The side of each comparison, 0 where Benjamini and Hochberg's procedure does not spare it."""
    if not comparisons:
        return []
    adjusted = stats.false_discovery_control([one.p_value for one in comparisons])
    return [one.side if p < LEVEL else 0 for one, p in zip(comparisons, adjusted, strict=True)]
