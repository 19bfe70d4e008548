"""The power of paired comparisons: the changes that a number of prompts can show, and false discoveries.

A comparison tests a ratio of sums over units (prompts, or timed batches). Its logarithm is close to normal,
with the variance of a mean of the units' influences (the delta method), and is tested with Student's t.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special, stats

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import MIN_PROMPTS, Clusters, Columns, summed

MOST_UNITS = 10**9
"""The largest number of prompts to recommend."""


@dataclasses.dataclass(frozen=True)
class Pilot:
    """A ratio of sums over a pilot's units.

    Attributes:
      log_ratio: its logarithm.
      influence_N: each unit's influence on the logarithm, times the number of units; mean 0.
    """

    log_ratio: float
    influence_N: np.ndarray

    @classmethod
    def of(cls, over: Sequence[Columns], under: Sequence[Columns], clusters: Clusters = None) -> Pilot:
        """Makes the pilot of prod(sum over) / prod(sum under), all columns on the same units.

        Args:
          over, under: the columns.
          clusters: of their entries; each cluster is one unit.

        Raises:
          UsageError: there are too few units for an interval, or a sum is 0.
        """
        over_CN, under_CN = (np.stack([summed(one, clusters) for one in part]) for part in (over, under))
        if (units := over_CN.shape[1]) < MIN_PROMPTS:
            raise UsageError(f"{units} prompts tell no spread: at least {MIN_PROMPTS} are needed")
        if not (over_CN.sum(1) > 0).all() or not (under_CN.sum(1) > 0).all():
            raise UsageError("nothing was decoded, so that there is no ratio")
        log_ratio = float(np.log(over_CN.sum(1)).sum() - np.log(under_CN.sum(1)).sum())
        # d log(sum x) / d x, times the number of units
        of_over, of_under = (x / x.mean(1, keepdims=True) for x in (over_CN, under_CN))
        influence_N = of_over.sum(0) - of_under.sum(0)
        return cls(log_ratio, influence_N - influence_N.mean())

    @property
    def units(self) -> int:
        return len(self.influence_N)

    @property
    def spread(self) -> float:
        """Standard deviation of one unit's influence, relative: 0.3 is 30 % of the ratio."""
        return float(self.influence_N.std(ddof=1))

    @property
    def largest_spread(self) -> float:
        """The upper end of the 90 % bootstrap interval of `spread`."""
        squares_N = self.influence_N**2
        found = paired.ratio(squares_N, np.full(self.units, 1 - 1 / self.units), level=0.9)
        return max(self.spread, math.sqrt(found.high))

    @property
    def p_value(self) -> float:
        """Two-sided p-value of the hypothesis that the ratio is 1; 1 if nothing varies and the ratio is 1."""
        if self.spread == 0:
            return float(abs(self.log_ratio) < 1e-12)
        t = abs(self.log_ratio) * math.sqrt(self.units) / self.spread
        return float(2 * stats.t.sf(t, self.units - 1))


def power(change: float, spread: float, units: int, level: float = 0.05) -> float:
    """Computes the power of a two-sided t-test to detect a change, with the noncentral t distribution.

    Args:
      change: of the ratio, above -1; 0.05 is 5 % more.
      spread: of `Pilot`.
      units: prompts, at least 2.
      level: significance level, the probability of detecting a change when there is none.
    """
    if spread == 0:
        return 1.0
    freedom, shift = units - 1, abs(math.log1p(change)) * math.sqrt(units) / spread
    edge = stats.t.isf(level / 2, freedom)
    return float(1 - special.nctdtr(freedom, shift, edge) + special.nctdtr(freedom, shift, -edge))


def units_needed(change: float, spread: float, *, wanted: float = 0.8, level: float = 0.05) -> int:
    """Finds the smallest number of units, at least `MIN_PROMPTS`, that detects a change with power `wanted`.

    Raises:
      UsageError: it is more than `MOST_UNITS`.
    """
    normal = max(0.0, stats.norm.isf(level / 2) + stats.norm.ppf(wanted))  # below 0, no unit is needed
    about = (normal * spread / math.log1p(change)) ** 2
    if not about < MOST_UNITS:
        raise UsageError(
            f"a change of {change:.2%} needs more than {MOST_UNITS:,} prompts: ask for a larger one"
        )
    units = max(MIN_PROMPTS, math.floor(about))  # the t distribution's wider tails need about two more
    while power(change, spread, units, level) < wanted:
        units += 1
    return units


def visible_change(spread: float, units: int, *, wanted: float = 0.8, level: float = 0.05) -> float:
    """Finds the smallest rise that `units` detect with power `wanted`; 0 if nothing varies."""
    low, high = 0.0, 1.0
    while high < MOST_UNITS and power(high, spread, units, level) < wanted:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, spread, units, level) < wanted else (low, middle)
    return high if spread else 0.0


@dataclasses.dataclass(frozen=True)
class Findings:
    """Numbers of comparisons that differ significantly, before and after correction for their number.

    Attributes:
      comparisons: their number.
      alone: those whose own test rejects at the level.
      expected: rejections expected if nothing differed.
      discoveries: those that remain with a false discovery rate of at most `level` (Benjamini and Hochberg,
        1995; valid for comparisons that share a baseline, which are positively dependent).
      level: of the tests, and the false discovery rate.
    """

    comparisons: int
    alone: int
    expected: float
    discoveries: int
    level: float

    @property
    def sentence(self) -> str:
        """All fields in words."""
        return (
            f"{self.alone} of {self.comparisons} ratios differ from 1 at the {100 * self.level:g} % level "
            f"({self.expected:.1f} expected by chance); {self.discoveries} remain at a false discovery rate "
            f"of {100 * self.level:g} % (Benjamini–Hochberg)."
        )


def findings(p_values: Sequence[float], level: float = 0.05) -> Findings:
    """Counts the comparisons that differ, one by one and corrected for their number.

    Args:
      p_values: of all comparisons made.
      level: see `Findings`.
    """
    p = np.asarray(p_values, np.float64)
    adjusted = stats.false_discovery_control(p) if len(p) else p
    return Findings(len(p), int((p < level).sum()), len(p) * level, int((adjusted < level).sum()), level)
