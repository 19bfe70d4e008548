"""Costs of a round at each block size and its yield: predicted speed-ups and break-even rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class RoundCosts:
    """Measured seconds of one round of a batch, by block size; 0 is an autoregressive round.

    Attributes:
      seconds: must hold 0.
      start: seconds of reading a prompt for every slot of the batch and of beginning to decode it, likewise;
        what is not measured counts as nothing.
    """

    seconds: Mapping[int, float]
    start: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def median(cls, found: Sequence[RoundCosts]) -> RoundCosts:
        """The median cost of each block size, relative to an autoregressive round of the same measurement.

        It is given in seconds by the median of those rounds: the speed of a shared machine varies over time.
        """
        autoregressive = float(np.median([costs.seconds[0] for costs in found]))

        def middle(measured: Sequence[Mapping[int, float]]) -> dict[int, float]:
            ratios = {
                size: [each[size] / costs.seconds[0] for each, costs in zip(measured, found, strict=True)]
                for size in measured[0]
            }
            return {size: autoregressive * float(np.median(ratio)) for size, ratio in ratios.items()}

        return cls(middle([costs.seconds for costs in found]), middle([costs.start for costs in found]))

    def speedup(self, block_size: int, tokens: float, length: float = math.inf) -> float:
        """Predicted, over autoregressive decoding.

        Args:
          tokens: what a row's round yields on average.
          length: tokens of a whole text, to spread its start over; infinite: not counted.
        """
        autoregressive = self.start.get(0, 0.0) / length + self.seconds[0]
        drafted = self.start.get(block_size, 0.0) / length + self.seconds[block_size] / tokens
        return autoregressive / drafted

    def break_even(self, block_size: int, length: float = math.inf) -> float | None:
        """The acceptance rate from which on this block size is no slower than autoregressive decoding.

        Acceptance is taken to be equal and independent from draft to draft (arXiv 2211.17192, theorem 3.8:
        tokens a round = (1 - a**(G + 1)) / (1 - a)). None: not even if every draft is accepted.

        Args:
          length: as in `speedup`.
        """

        def at(rate: float) -> float:
            tokens = tokens_per_round(rate ** np.arange(1, block_size + 1), block_size, length)
            return self.speedup(block_size, tokens, length)

        if at(1.0) < 1:
            return None
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle) < 1 else (low, middle)
        return high


def tokens_per_round(
    reach_G: Sequence[float] | np.ndarray, block_size: int, length: float = math.inf
) -> float:
    """Expected tokens of a row's round: 1, and each draft position's probability of being accepted.

    A text's end cuts its last block. With T tokens a round, on average the rounds of a text could have
    emitted E[T²] / 2 E[T] - 1/2 tokens more than it has (the excess of a renewal process).

    Args:
      reach_G: probability that at least i + 1 drafts are accepted, ends left out; positions past it go on at
        the rate of its last step.
      length: tokens of a text; infinite: it does not end.
    """
    reach = [1.0, *map(float, reach_G)]
    while len(reach) <= block_size:
        reach.append(reach[-1] * (reach[-1] / reach[-2] if len(reach) > 1 and reach[-2] > 0 else 0.0))
    reach = reach[: block_size + 1]
    tokens = sum(reach)
    excess = sum((2 * i + 1) * probability for i, probability in enumerate(reach)) / (2 * tokens) - 0.5
    return tokens / (1 + excess / length)
