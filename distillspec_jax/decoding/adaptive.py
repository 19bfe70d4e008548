"""Chooses the block size while decoding, and when not to speculate.

The choice is made on the host between runs of a loop, from rounds that are over: a round's size depends on
nothing that is drafted in it, so no choice changes the output's distribution.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import numpy as np

from distillspec_jax.decoding.round_costs import RoundCosts, tokens_per_round

AUTO = (0, 1, 3, 5, 7)
"""Block sizes to choose from; 0 is one token at a time."""

_UNNOTICED_SECONDS = 0.04
"""Between two pieces of a text."""


@dataclasses.dataclass(frozen=True)
class FixedBlockSize:
    """No choice."""

    block_size: int
    rounds: int

    def next(self) -> tuple[int, int]:
        """See `BlockSizeChoice.next`."""
        return self.block_size, self.rounds

    def observe(self, block_size: int, rounds: int, accepted_G: np.ndarray) -> None:
        """Nothing is to be learnt."""


@dataclasses.dataclass
class BlockSizeChoice:
    """Picks the size that promises most tokens a second, and keeps testing what it promises.

    Acceptance is the running rate at which a round that accepted i drafts accepts one more; older runs fade.
    A draft that was not offered, or that a text's end cut off, was not accepted: what counts is what rounds
    yield. A position that was hardly ever reached leans on the rate of all, and that on a prior. When nothing
    beats one token at a time by `margin`, no drafts are seen; then a short run with the smallest block is put
    in, ever more rarely, so that a wrong guess does not last and looking costs little.

    Attributes:
      costs: of every size.
      rounds: of one run between two choices.
      fade: weight that a draft keeps from one run to the next.
      prior_rate, prior_weight: acceptance rate before anything is known, and how many drafts it weighs.
      probe_rounds: of the first run, and of a test while speculation does not pay.
      margin: a smaller promised gain is within the error of the costs, and no reason to speculate.
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
        """Block size and number of rounds of the next run."""
        promised = self.promises()
        best = max(promised, key=promised.__getitem__)
        if promised[best] > 1 + self.margin:
            self._plain_runs, self._patience = 0, 8
            # Until something is known, a short look.
            return best, self.rounds if self._reached_G[0] >= self.probe_rounds else self.probe_rounds
        self._plain_runs += 1
        if self._plain_runs > self._patience:
            self._plain_runs, self._patience = 0, min(2 * self._patience, 256)
            return self._sizes[0], self.probe_rounds
        return 0, self.rounds

    def promises(self) -> dict[int, float]:
        """Predicted speed-up of every size over autoregressive decoding."""
        reach_G = self.reach_G()  # once: the device waits for every choice
        return {size: self.costs.speedup(size, tokens_per_round(reach_G, size)) for size in self._sizes}

    def reach_G(self) -> np.ndarray:
        """Estimated probability that at least i + 1 drafts of a round are accepted."""
        prior = self.prior_weight
        pooled = (self._accepted_G.sum() + prior * self.prior_rate) / (self._reached_G.sum() + prior)
        return np.cumprod((self._accepted_G + prior * pooled) / (self._reached_G + prior))

    def observe(self, block_size: int, rounds: int, accepted_G: Sequence[int] | np.ndarray) -> None:
        """Takes in one run: its rows' rounds, and in how many of them at least i + 1 drafts were accepted."""
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
    """Rounds, and accepted drafts, since one last looked, over the rows in the slots.

    Args:
      shape: of the accepted drafts' counts, `[B, G]`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._seen = np.zeros(shape[:1], int), np.zeros(shape, int)

    def since(self, rounds_B: np.ndarray, accepted_BG: np.ndarray) -> tuple[int, np.ndarray]:
        """Sums over rows, from the counts of the rows as they are now."""
        before_B, before_BG = self._seen
        self._seen = rounds_B.copy(), accepted_BG.copy()
        return int((rounds_B - before_B).sum()), (accepted_BG - before_BG).sum(0)

    def refilled(self, slots: Sequence[int]) -> None:
        """Their rows count from zero again."""
        for seen in self._seen:
            seen[slots] = 0


class Pace:
    """How many rounds to decode between two visits when no prompt could join: what a reader does not notice.

    A visit costs the host, and the device waits for it.
    """

    def __init__(self) -> None:
        self._round_seconds, self._began = math.inf, 0.0

    def begun(self) -> None:
        """Rounds were started."""
        self._began = time.perf_counter()

    def ended(self, rounds: float) -> None:
        """They are over, and were so many."""
        if rounds >= 1:
            self._round_seconds = (time.perf_counter() - self._began) / rounds

    def rounds(self, least: int) -> int:
        """Rounds of the next run."""
        return max(least, int(_UNNOTICED_SECONDS / self._round_seconds))
