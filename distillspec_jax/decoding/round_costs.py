"""Cost and yield of a round at each block size: predicted speed-ups and break-even acceptance rates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class RoundCosts:
    """Measured seconds of one round of a batch, by block size; 0 is an autoregressive round.

    Attributes:
      seconds: must contain 0.
      start: seconds, by block size, to prefill a prompt for every slot of the batch and start decoding it;
        unmeasured sizes count as 0.
    """

    seconds: Mapping[int, float]
    start: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def median(cls, found: Sequence[RoundCosts]) -> RoundCosts:
        """Computes each size's median cost relative to an autoregressive round of the same measurement.

        Ratios cancel the varying speed of a shared machine; the median autoregressive round converts them
        to seconds.
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
        """Predicts the speed-up over autoregressive decoding.

        Args:
          tokens: average tokens per round of a row.
          length: tokens of a whole text, over which its start cost is spread; infinite: not counted.
        """
        autoregressive = self.start.get(0, 0.0) / length + self.seconds[0]
        drafted = self.start.get(block_size, 0.0) / length + self.seconds[block_size] / tokens
        return autoregressive / drafted

    def break_even(self, block_size: int, length: float = math.inf) -> float | None:
        """Finds the break-even acceptance rate, from which this block size is no slower than size 0.

        Assumes equal and independent acceptance of all drafts (arXiv 2211.17192, theorem 3.8: tokens per
        round = (1 - a**(G + 1)) / (1 - a)). None: slower even if every draft is accepted.

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
    """Computes the expected tokens of a row's round: 1, plus each draft position's acceptance probability.

    A text's end cuts its last block. With T tokens per round, the rounds of a text could on average have
    emitted E[T²] / 2 E[T] - 1/2 more tokens than it has (the excess of a renewal process).

    Args:
      reach_G: probability that at least i + 1 drafts are accepted, ignoring ends; later positions continue
        at the rate of the last step.
      length: tokens of a text; infinite: it does not end.
    """
    reach = [1.0, *map(float, reach_G)]
    while len(reach) <= block_size:
        reach.append(reach[-1] * (reach[-1] / reach[-2] if len(reach) > 1 and reach[-2] > 0 else 0.0))
    reach = reach[: block_size + 1]
    tokens = sum(reach)
    excess = sum((2 * i + 1) * probability for i, probability in enumerate(reach)) / (2 * tokens) - 0.5
    return tokens / (1 + excess / length)
