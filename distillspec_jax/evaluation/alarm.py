"""An anytime-valid alarm: evidence that acceptance fell below a threshold, checkable after every request.

Each unit is a bet that acceptance lies below the threshold r. While it does not, no bet gains in
expectation, whatever came before. A gambler who starts with 1 therefore ever reaches 1 / a with probability
at most a (Ville 1939; Waudby-Smith & Ramdas, arXiv 2010.09686). The evidence is the mean wealth of many
gamblers: one for every bet size and every starting unit, with a share of the initial money that falls as
n^-1.2 in the unit's number. Gamblers who start when acceptance falls win, so a fall after a million good
requests is detected nearly as fast as one after ten. (This is a Shiryaev-Roberts sum whose weights add up to
1, hence a supermartingale; e-detectors, Shin, Ramdas & Rinaldo, arXiv 2203.03532, weigh all starts equally
and bound the run length.)

A request's gain is w (r - x): x = accepted / tested in [0, 1], and w = min(tested, c) / c. A text thus counts
by its tested drafts, up to c, so a few long texts do not dominate. There are two kinds of evidence:
  bets on requests: they only assume that requests are independent.
  bets on blocks, the mean gains of `BLOCK` requests, or the gain of an interval between two scrapes:
    requests may depend on each other within a few blocks (sessions, bursts). They assume that a block's gain
    is sub-Gaussian with a variance of at most `SAFETY` times that of the blocks so far, or of the
    reference's prompts.
For requests the smaller of the two counts. It is valid if either assumption holds, since a process below a
supermartingale exceeds no level more often. For counters there are only blocks.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from scipy.special import zeta

BETS = (0.8, 0.4, 0.2, 0.1, 0.05)
"""Sizes of bets on requests, as fractions of the largest that cannot be ruined by a single unit."""
EFFECTS = (0.3, 0.15, 0.08, 0.04, 0.02)
"""Falls, relative to the threshold, for which the bets on blocks are optimal."""
BLOCK = 25
"""Requests in a block."""
SAFETY = 2.5
PRIOR_VARIANCE = 0.01
"""Variance of a request's gain without a reference: a standard deviation of 0.1."""
_PRIOR_BLOCKS = 20
"""The weight of the reference, in blocks."""
_DECAY = 1.2
_CHUNK = 8
"""Units played at once; their largest total loss (`_LARGEST_LOSS` each) is still representable in float64."""
_HIGHEST = 1e100
_LARGEST_LOSS = 20.0
"""The largest loss of a bet on one block, as a logarithm."""


def shares(first: int, count: int) -> np.ndarray:
    """Computes the shares of the gamblers who start at unit `first`, from 1, and the next ones, `[count]`."""
    return np.arange(first, first + count) ** -_DECAY / zeta(_DECAY)


def gains(top_U: np.ndarray, bottom_U: np.ndarray, threshold: Any, cap_U: Any) -> np.ndarray:
    """Computes the gain of each unit, in [r - 1, r].

    Args:
      top_U, bottom_U: accepted and tested drafts, or other counts with `top_U` at most `bottom_U`.
      threshold: r, in [0, 1].
      cap_U: c, which may depend only on earlier units.
    """
    bottom_U = np.asarray(bottom_U, np.float64)
    share_U = np.asarray(top_U, np.float64) / np.maximum(bottom_U, 1)
    return np.minimum(bottom_U, cap_U) / cap_U * (threshold - share_U)


def request_factors(gain_U: np.ndarray, threshold: Any) -> np.ndarray:
    """Computes the factor by which each bet on each request multiplies a gambler's money, `[..., U, L]`.

    Args:
      threshold: r, which broadcasts with `gain_U`.
    """
    room = np.maximum(1.0 - np.asarray(threshold, np.float64), 1e-3)  # the most that a unit can lose
    return 1.0 + np.asarray(BETS) * (gain_U / room)[..., None]


@dataclasses.dataclass(frozen=True)
class Spread:
    """A running estimate of the variance of blocks' gains; floats, or arrays for several streams.

    It is half the mean squared difference of consecutive blocks (von Neumann 1941), which a fall of the mean
    affects once, not with every later block.

    Attributes:
      prior: the reference's variance.
      count: blocks so far.
      last: gain of the last block; arbitrary before the first.
      squares: sum of the squared differences.
    """

    prior: Any
    count: int = 0
    last: Any = 0.0
    squares: Any = 0.0

    def foreseen(self, gain_B: np.ndarray) -> tuple[np.ndarray, Spread]:
        """Predicts the variance of each of the next blocks, `[..., B]`, from the blocks before it.

        Returns:
          The variances, and the spread after all of them.
        """
        count = gain_B.shape[-1]
        if not count:
            return gain_B, self
        step_B = np.diff(gain_B, axis=-1, prepend=np.asarray(self.last)[..., None]) ** 2
        if not self.count:
            step_B[..., 0] = 0.0
        after_B = np.asarray(self.squares)[..., None] + np.cumsum(step_B, -1)
        steps_B = np.maximum(self.count + np.arange(count) - 1, 0)  # among the blocks before
        prior = np.asarray(self.prior)[..., None]
        seen_B = (after_B - step_B) / 2
        variance_B = np.maximum((_PRIOR_BLOCKS * prior + seen_B) / (_PRIOR_BLOCKS + steps_B), prior)
        return variance_B, Spread(self.prior, self.count + count, gain_B[..., -1], after_B[..., -1])


def block_factors(gain_B: np.ndarray, variance_B: np.ndarray, threshold: Any) -> np.ndarray:
    """Computes the factor by which each bet on each block multiplies a gambler's money, `[..., B, L]`.

    Args:
      variance_B: predicted variance of the gain.
      threshold: r, which broadcasts with `gain_B`.
    """
    wide_B = SAFETY * np.maximum(variance_B, 1e-12)
    # A relative fall moves the mean gain by about half as much, since w is one half on average.
    bet_BL = np.asarray(EFFECTS) * (0.5 * np.asarray(threshold) / wide_B)[..., None]
    most = _LARGEST_LOSS / np.maximum(1.0 - np.asarray(threshold, np.float64), 0.05)
    bet_BL = np.minimum(bet_BL, np.broadcast_to(most, gain_B.shape)[..., None])
    return np.exp(bet_BL * gain_B[..., None] - bet_BL**2 / 2 * wide_B[..., None])


def advance(wealth_L: np.ndarray, factors_UL: np.ndarray, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Plays some units.

    Args:
      wealth_L: of the gamblers who have started, per bet size; `[..., L]`.
      factors_UL: of the units, `[..., U, L]`.
      first: number of the first unit, from 1.

    Returns:
      The wealth afterwards, `[..., L]`, and the evidence after every unit, `[..., U]`: mean wealth of all.
    """
    wealth_L = np.array(wealth_L, np.float64)
    units = factors_UL.shape[-2]
    evidence_U = np.empty(factors_UL.shape[:-1])
    share_U = shares(first, units)
    with np.errstate(over="ignore"):
        for start in range(0, units, _CHUNK):
            part = slice(start, min(start + _CHUNK, units))
            product_UL = np.cumprod(factors_UL[..., part, :], axis=-2)
            # A gambler who starts at a unit plays it, so divide by the gains before it.
            entry_UL = share_U[part, None] * factors_UL[..., part, :] / product_UL
            gained_UL = product_UL * (wealth_L[..., None, :] + np.cumsum(entry_UL, axis=-2))
            evidence_U[..., part] = np.minimum(gained_UL.mean(-1), _HIGHEST)
            wealth_L = np.minimum(gained_UL[..., -1, :], _HIGHEST)
    waiting_U = zeta(_DECAY, np.arange(first + 1, first + 1 + units)) / zeta(_DECAY)
    return wealth_L, evidence_U + waiting_U


@dataclasses.dataclass(frozen=True)
class Wealth:
    """One kind of evidence against a stream.

    Attributes:
      units: played so far.
      money: of the gamblers who have started, per bet size.
      now: evidence after the last unit.
    """

    units: int = 0
    money: tuple[float, ...] = (0.0,) * len(BETS)
    now: float = 1.0

    def after(self, factors_UL: np.ndarray) -> tuple[Wealth, np.ndarray]:
        """Returns the wealth after some more units, and the evidence after each, `[U]`."""
        if not len(factors_UL):
            return self, np.zeros(0)
        money_L, evidence_U = advance(np.array(self.money), factors_UL, self.units + 1)
        return Wealth(
            self.units + len(factors_UL), tuple(money_L.tolist()), float(evidence_U[-1])
        ), evidence_U


@dataclasses.dataclass(frozen=True)
class Luckiest:
    """The gamblers with the most wealth; they started when acceptance fell.

    Attributes:
      paths, begun: per bet size, the logarithm of the wealth and the first unit.
    """

    paths: tuple[float, ...] = (-1e300,) * len(BETS)
    begun: tuple[int, ...] = (1,) * len(BETS)

    def after(self, factors_UL: np.ndarray, first: int) -> Luckiest:
        """Returns the luckiest after some more units, numbered from `first`."""
        if not len(factors_UL):
            return self
        path_UL = np.cumsum(np.log(factors_UL), axis=0)
        share_U = np.log(shares(first, len(factors_UL)))
        entry_UL = share_U[:, None] - np.vstack([np.zeros(path_UL.shape[1]), path_UL[:-1]])
        best_L, first_L = entry_UL.max(0), entry_UL.argmax(0)
        before_L = np.array(self.paths)
        older_L = before_L >= best_L
        paths_L = path_UL[-1] + np.where(older_L, before_L, best_L)
        begun_L = np.where(older_L, np.array(self.begun), first + first_L)
        return Luckiest(tuple(paths_L.tolist()), tuple(int(x) for x in begun_L))

    @property
    def unit(self) -> int:
        """The unit at which the luckiest of all started."""
        return self.begun[int(np.argmax(self.paths))]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """All evidence against one stream so far; `after` resumes from it.

    Attributes:
      units: requests or intervals so far.
      requests, blocks: the two kinds; for intervals `requests` does not change.
      spread_count, spread_last, spread_squares: see `Spread`.
      open_count, open_total: requests of the last, still incomplete block.
      now, highest: the smaller kind after the last unit, and its maximum so far.
      alarm_at: number of the unit at which it reached the level; None: never.
      since: estimated unit from which acceptance is lower, as of the alarm if there was one.
    """

    units: int = 0
    requests: Wealth = dataclasses.field(default_factory=Wealth)
    blocks: Wealth = dataclasses.field(default_factory=Wealth)
    spread_count: int = 0
    spread_last: float = 0.0
    spread_squares: float = 0.0
    open_count: int = 0
    open_total: float = 0.0
    now: float = 1.0
    highest: float = 1.0
    alarm_at: int | None = None
    since: int | None = None
    luckiest: Luckiest = dataclasses.field(default_factory=Luckiest)

    def after(
        self, gain_U: np.ndarray, threshold: float, level: float, prior: float, intervals: bool = False
    ) -> Evidence:
        """Returns the evidence after some more units; an alarm stays.

        Args:
          gain_U: see `gains`.
          threshold: r.
          level: of evidence at which the alarm is raised: 1 / the rate of false alarms.
          prior: the reference's variance of a block's gain.
          intervals: whether units are intervals; each is then a block.
        """
        if not len(gain_U):
            return self
        size = 1 if intervals else BLOCK
        pending_U = np.concatenate([np.zeros(self.open_count), gain_U])
        whole = len(pending_U) // size
        total_B = pending_U[: whole * size].reshape(whole, size).sum(1)
        total_B[:1] += self.open_total
        gain_B = total_B / size
        known = Spread(prior, self.spread_count, self.spread_last, self.spread_squares)
        variance_B, known = known.foreseen(gain_B)
        factors_BL = block_factors(gain_B, variance_B, threshold)
        blocks, of_blocks_B = self.blocks.after(factors_BL)
        # A block counts once it is complete; until then, use the evidence of the previous one.
        number_U = (np.arange(len(gain_U)) + self.open_count + 1) // size
        of_blocks_U = np.concatenate([[self.blocks.now], of_blocks_B])[number_U]
        if intervals:
            requests, evidence_U, factors_UL = self.requests, of_blocks_U, factors_BL
        else:
            factors_UL = request_factors(gain_U, threshold)
            requests, of_requests_U = self.requests.after(factors_UL)
            evidence_U = np.minimum(of_requests_U, of_blocks_U)
        high_U = np.flatnonzero(evidence_U >= level)
        alarm_at, since, luckiest = self.alarm_at, self.since, self.luckiest
        if alarm_at is None:
            stop = int(high_U[0]) + 1 if len(high_U) else len(gain_U)
            luckiest = luckiest.after(factors_UL[:stop], self.units + 1)
            since = luckiest.unit
            alarm_at = self.units + stop if len(high_U) else None
        rest = pending_U[whole * size :]
        return Evidence(
            units=self.units + len(gain_U),
            requests=requests,
            blocks=blocks,
            spread_count=known.count,
            spread_last=float(known.last),
            spread_squares=float(known.squares),
            open_count=len(rest),
            open_total=float(rest.sum()) + (0.0 if whole else self.open_total),
            now=float(evidence_U[-1]),
            highest=max(self.highest, float(evidence_U.max())),
            alarm_at=alarm_at,
            since=since,
            luckiest=luckiest,
        )


def reckoned_delay(factors_UL: np.ndarray, level: float, units: int) -> float:
    """Estimates after how many such units the evidence reaches a level; infinite if never.

    Args:
      factors_UL: of units after a fall, like the reference's prompts.
      level: see `Evidence.after`.
      units: number played before the fall.
    """
    growth = float(np.log(factors_UL).mean(0).max()) if len(factors_UL) else 0.0
    if growth <= 0:
        return math.inf
    # Gamblers who start within one e-folding time of the fall start soon enough.
    near = min(shares(units + 1, 1)[0] * max(1.0 / growth, 1.0), 1.0)
    return (math.log(level) + math.log(factors_UL.shape[-1]) - math.log(near)) / growth
