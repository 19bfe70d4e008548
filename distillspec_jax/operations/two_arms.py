"""Anytime-valid comparison of two arms: is the candidate worse than the stable arm by more than a margin?

Each arm has a confidence sequence for its own mean, from bets as in `evaluation.alarm`: every r in [0, 1]
is a bet that the mean lies on one side of r, and r is excluded once the wealth of the bet reaches a level. If
r is the mean, this happens with a probability of at most 1 / level, regardless of the number of looks (Ville
1939; Waudby-Smith & Ramdas, arXiv 2010.09686, section 4). Bets of fixed sizes commute: the wealth depends on
the units but not on their order. Equal units can therefore be counted, and every look evaluates the whole log
again, without stored state. Units are assumed to be independent prompts.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.special import logsumexp

from distillspec_jax.evaluation import alarm

WHOLE = 32.0
"""Number of tested drafts at which a text's weight saturates."""
_HALVINGS = 30


@dataclasses.dataclass(frozen=True)
class Bounds:
    """One arm.

    Attributes:
      units: prompts, or intervals.
      value: ratio of sums; NaN if there are none.
      low, high: bounds of the mean, each with confidence 1 - 1 / level.
    """

    units: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not self.units:
            return "nothing"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f}) of {self.units:,}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The two arms, and the conclusions about them.

    Attributes:
      stable, candidate: the arms.
      sound: the candidate is certainly above the stable arm minus the margin.
      worse: the candidate is certainly below the stable arm minus the margin.
    """

    stable: Bounds
    candidate: Bounds
    sound: bool
    worse: bool


def bounds(top_U: np.ndarray, bottom_U: np.ndarray, level: float, whole: float = WHOLE) -> Bounds:
    """Computes the bounds of an arm's mean.

    Args:
      top_U, bottom_U: two counts of each unit, with `top_U` at most `bottom_U`.
      level: wealth at which a mean is excluded: 1 / the probability that a bound is ever wrong.
      whole: value of `bottom` at which a unit's weight saturates.
    """
    top_U, bottom_U = np.asarray(top_U, np.float64), np.asarray(bottom_U, np.float64)
    if not len(top_U):
        return Bounds(0, math.nan, 0.0, 1.0)
    pairs_P2, counts_P = np.unique(np.stack([top_U, bottom_U], 1), axis=0, return_counts=True)
    top_P, bottom_P = pairs_P2.T
    high = _highest(top_P, bottom_P, counts_P, level, whole)
    low = 1.0 - _highest(bottom_P - top_P, bottom_P, counts_P, level, whole)
    return Bounds(len(top_U), float(top_U.sum() / bottom_U.sum()), low, high)


def _highest(
    top_P: np.ndarray, bottom_P: np.ndarray, counts_P: np.ndarray, level: float, whole: float
) -> float:
    """Finds the highest mean that is not excluded; the wealth of bets on a lower mean grows with it."""

    def left_out(mean: float) -> bool:
        factors_PL = alarm.request_factors(alarm.gains(top_P, bottom_P, mean, whole), mean)
        wealth_L = counts_P @ np.log(factors_PL)
        return bool(logsumexp(wealth_L) - math.log(len(wealth_L)) >= math.log(level))

    if not left_out(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if left_out(middle) else (middle, high)
    return high


def compare(stable: Bounds, candidate: Bounds, margin: float) -> Comparison:
    """Compares ratios where higher is better.

    Args:
      margin: tolerated relative loss.
    """
    return Comparison(
        stable,
        candidate,
        sound=candidate.low > (1.0 - margin) * stable.high,
        worse=candidate.high < (1.0 - margin) * stable.low,
    )


def compare_seconds(
    stable_U: np.ndarray, candidate_U: np.ndarray, threshold: float, margin: float, level: float
) -> Comparison:
    """Compares times, where lower is better, by the share of requests faster than a threshold.

    Args:
      stable_U, candidate_U: seconds.
      threshold: independent of these.
      margin: relative; the candidate's seconds are divided by 1 + margin before the comparison.
      level: see `bounds`.
    """
    fast = [stable_U <= threshold, candidate_U <= threshold * (1.0 + margin)]
    arms = [bounds(one_U, np.ones(len(one_U)), level, whole=1.0) for one_U in fast]
    return compare(arms[0], arms[1], 0.0)
