"""Chooses the block size while decoding, and when not to speculate.

The host chooses between runs of a loop, from completed rounds only: a round's size does not depend on the
drafts in it, so the choice never changes the output's distribution.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np

from distillspec_jax.decoding.round_costs import RoundCosts, tokens_per_round

AUTO = (0, 1, 3, 5, 7)
"""Block sizes to choose from; 0 is autoregressive decoding."""

_UNNOTICED_SECONDS = 0.04
"""The longest delay between two pieces of a text that a reader does not notice."""


@dataclasses.dataclass(frozen=True)
class FixedBlockSize:
    """Always uses the same block size."""

    block_size: int
    rounds: int

    def next(self) -> tuple[int, int]:
        """See `BlockSizeChoice.next`."""
        return self.block_size, self.rounds

    def observe(self, block_size: int, rounds: int, accepted_G: np.ndarray) -> None:
        """Does nothing, as there is nothing to learn."""


@dataclasses.dataclass
class BlockSizeChoice:
    """Picks the size with the most predicted tokens per second, and keeps testing its predictions.

    Acceptance is the running rate at which a round that accepted i drafts accepts one more; older runs decay.
    A draft that was not offered, or was cut off by a text's end, counts as not accepted, because the yield of
    a round is what matters. A rarely reached position falls back on the pooled rate, and that on a prior.
    When no size beats autoregressive decoding by `margin`, no drafts are observed. A short probe with the
    smallest block then runs at increasing intervals, so a wrong estimate does not last and probing is cheap.

    Attributes:
      costs: the costs of every size.
      rounds: rounds per run, between two choices.
      fade: weight that a draft keeps from one run to the next.
      prior_rate, prior_weight: the prior acceptance rate, and its weight in drafts.
      probe_rounds: rounds of the first run, and of a probe while speculation does not pay.
      margin: a smaller predicted gain is within the error of the costs, so it does not justify speculation.
    """

    costs: RoundCosts
    rounds: int
    fade: float = 0.9
    prior_rate: float = 0.7
    prior_weight: float = 4.0
    probe_rounds: int = 8
    margin: float = 0.03

    def __post_init__(self) -> None:
        self._sizes = sorted(size for size in self.costs.seconds if size)
        self._reached_G = np.zeros(self._sizes[-1])
        self._accepted_G = np.zeros(self._sizes[-1])
        self._plain_runs, self._patience = 0, 8

    def next(self) -> tuple[int, int]:
        """Returns the block size and the number of rounds of the next run."""
        promised = self.promises()
        best = max(promised, key=promised.__getitem__)
        if promised[best] > 1 + self.margin:
            self._plain_runs, self._patience = 0, 8
            # A short run until the estimate has data.
            return best, self.rounds if self._reached_G[0] >= self.probe_rounds else self.probe_rounds
        self._plain_runs += 1
        if self._plain_runs > self._patience:
            self._plain_runs, self._patience = 0, min(2 * self._patience, 256)
            return self._sizes[0], self.probe_rounds
        return 0, self.rounds

    def promises(self) -> dict[int, float]:
        """Predicts the speed-up of every size over autoregressive decoding."""
        reach_G = self.reach_G()  # once: the device waits for every choice
        return {size: self.costs.speedup(size, tokens_per_round(reach_G, size)) for size in self._sizes}

    def reach_G(self) -> np.ndarray:
        """Estimates the probability that at least i + 1 drafts of a round are accepted."""
        prior = self.prior_weight
        pooled = (self._accepted_G.sum() + prior * self.prior_rate) / (self._reached_G.sum() + prior)
        return np.cumprod((self._accepted_G + prior * pooled) / (self._reached_G + prior))

    def observe(self, block_size: int, rounds: int, accepted_G: Sequence[int] | np.ndarray) -> None:
        """Records a run: its rows' rounds, and how many of them accepted at least i + 1 drafts."""
        if not block_size or not rounds:
            return
        accepted_G = np.asarray(accepted_G)[:block_size]
        for kept, new in (
            (self._reached_G, [rounds, *accepted_G[:-1]]),
            (self._accepted_G, accepted_G),
        ):
            kept *= self.fade
            kept[:block_size] += new


class RoundCounts:
    """Counts rounds and accepted drafts since the last query, over the rows in the slots.

    Args:
      shape: shape of the accepted drafts' counts, `[B, G]`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._seen = np.zeros(shape[:1], int), np.zeros(shape, int)

    def since(self, rounds_B: np.ndarray, accepted_BG: np.ndarray) -> tuple[int, np.ndarray]:
        """Returns the increase since the last query, summed over rows, given the rows' current counts."""
        before_B, before_BG = self._seen
        self._seen = rounds_B.copy(), accepted_BG.copy()
        return int((rounds_B - before_B).sum()), (accepted_BG - before_BG).sum(0)

    def refilled(self, slots: Sequence[int]) -> None:
        """Resets the counts of these slots, whose new rows start from zero."""
        for seen in self._seen:
            seen[slots] = 0


class Pace:
    """Chooses the rounds between two visits when no prompt can join: as many as a reader does not notice.

    Visits take host time, and the device waits for them.
    """

    def __init__(self) -> None:
        self._round_seconds, self._began = math.inf, 0.0

    def begun(self) -> None:
        """Records that rounds were started."""
        self._began = time.perf_counter()

    def ended(self, rounds: float) -> None:
        """Records that the rounds are over, and how many there were."""
        if rounds >= 1:
            self._round_seconds = (time.perf_counter() - self._began) / rounds

    def rounds(self, least: int) -> int:
        """Returns the number of rounds of the next run."""
        return max(least, int(_UNNOTICED_SECONDS / self._round_seconds))
