"""Two arms compared at any time: is the candidate surely not worse than a margin, or surely worse?

Each arm has a confidence sequence for its own mean, from bets as in `evaluation.alarm`: every r in [0, 1]
is a bet that the mean lies on one side of r, and r is left out when the wealth of the bet has reached a
level. While r is the mean, that happens with a probability of 1 / level at most, however often somebody looks
(Ville 1939; Waudby-Smith & Ramdas, arXiv 2010.09686, section 4). Bets of fixed sizes commute: the wealth
depends on which units there were and not on their order, so that equal units are counted, and a log of any
length is judged anew at every look, without memory. Assumed is that units are independent prompts.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy.special import logsumexp

from distillspec_jax.evaluation import alarm

WHOLE = 32.0
"""Tested drafts from which on a text weighs as much as any other."""
_HALVINGS = 30


@dataclasses.dataclass(frozen=True)
class Bounds:
    """One arm.

    Attributes:
      units: prompts, or intervals.
      value: ratio of sums; NaN of none.
      low, high: between which the mean lies, each surely to 1 - 1 / level.
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
    """The two arms, and what is sure about them.

    Attributes:
      stable, candidate: the arms.
      sound: the candidate surely lies above the margin below the stable arm.
      worse: it surely lies below it.
    """

    stable: Bounds
    candidate: Bounds
    sound: bool
    worse: bool


def bounds(top_U: np.ndarray, bottom_U: np.ndarray, level: float, whole: float = WHOLE) -> Bounds:
    """Computes where an arm's mean lies.

    Args:
      top_U, bottom_U: two counts of each unit, of which the first is the smaller.
      level: of wealth at which a mean is left out: 1 / the probability that a bound is wrong, ever.
      whole: count `bottom` from which on a unit has all its weight.
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
    """Finds the highest mean that is not left out; the wealth of bets on a lower mean grows with it."""

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
    """Compares ratios of which more is better.

    Args:
      margin: relative loss to bear.
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
    """Compares times, of which less is better, by the share of requests that are faster than a threshold.

    Args:
      stable_U, candidate_U: seconds.
      threshold: that depends on none of them.
      margin: relative: the candidate's seconds are divided by 1 + margin before they are compared.
      level: see `bounds`.
    """
    fast = [stable_U <= threshold, candidate_U <= threshold * (1.0 + margin)]
    arms = [bounds(one_U, np.ones(len(one_U)), level, whole=1.0) for one_U in fast]
    return compare(arms[0], arms[1], 0.0)
