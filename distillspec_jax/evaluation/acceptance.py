"""The metrics contract: what every report means by acceptance, block efficiency and MBSU.

Counts are kept prompt by prompt and pooled before a ratio is formed (`paired` needs them, and a mean of
per-prompt ratios is another quantity).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from distillspec_jax.decoding import Completion
from distillspec_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Tally:
    """The counts of N prompts, decoded by one system with blocks of up to G drafts.

    Attributes:
      emitted_N: tokens, EOS included.
      target_calls_N: verify passes (one-token calls without a draft), prefill apart.
      cut_rounds_N: rounds whose last token was an accepted draft, ended by EOS or the limit.
      tested_NG, accepted_NG: for each draft position, the rounds that tested it and that accepted it.
      overlap_N: sum over tested positions of sum_v min(p, q); None if it was not measured.
    """

    emitted_N: np.ndarray
    target_calls_N: np.ndarray
    cut_rounds_N: np.ndarray
    tested_NG: np.ndarray
    accepted_NG: np.ndarray
    overlap_N: np.ndarray | None = None

    @classmethod
    def of(cls, completions: Sequence[Completion]) -> Tally:
        """Counts some completions, in their order.

        Raises:
          ValueError: there are none.
          AccountingError: the counts of one contradict each other.
        """
        if not completions:
            raise ValueError("no completions to count")
        measured = all(c.overlap is not None for c in completions)
        tally = cls(
            emitted_N=np.array([len(c.tokens) for c in completions]),
            target_calls_N=np.array([c.target_calls for c in completions]),
            cut_rounds_N=np.array([c.cut_rounds for c in completions]),
            tested_NG=np.array([c.tested_at for c in completions], int).reshape(len(completions), -1),
            accepted_NG=np.array([c.accepted_at for c in completions], int).reshape(len(completions), -1),
            overlap_N=np.array([c.overlap for c in completions], float) if measured else None,
        )
        tally.check()
        return tally

    @property
    def tested_N(self) -> np.ndarray:
        return self.tested_NG.sum(1)

    @property
    def accepted_N(self) -> np.ndarray:
        return self.accepted_NG.sum(1)

    def check(self) -> None:
        """Checks emitted = accepted + target calls - cut rounds for every prompt; positions are nested.

        Raises:
          AccountingError: the first prompt that violates it, with its counts.
        """
        expected_N = self.accepted_N + self.target_calls_N - self.cut_rounds_N
        # To be tested, a position must follow an accepted one; the first is tested at most once a call.
        reached = np.concatenate([self.target_calls_N[:, None], self.accepted_NG], axis=1)
        reached_NG = reached[:, : self.tested_NG.shape[1]]
        nested_N = ((self.accepted_NG <= self.tested_NG) & (self.tested_NG <= reached_NG)).all(1)
        for i in np.flatnonzero((expected_N != self.emitted_N) | ~nested_N)[:1]:
            raise AccountingError(
                f"prompt {i}: {self.emitted_N[i]} tokens emitted, but {self.accepted_N[i]} drafts accepted "
                f"in {self.target_calls_N[i]} target calls, {self.cut_rounds_N[i]} of them cut; by position "
                f"tested {self.tested_NG[i].tolist()}, accepted {self.accepted_NG[i].tolist()}"
            )


class AccountingError(RuntimeError):
    """Counts that contradict each other: a defect of the decoder, never of its user."""


def acceptance_tested(tally: Tally) -> float:
    """Divides accepted by tested drafts, the headline; NaN where nothing was tested."""
    return _ratio(tally.accepted_N.sum(), tally.tested_N.sum())


def acceptance_joint(tally: Tally) -> list[float]:
    """Computes for each draft position the share of target calls that accepted it and all before it."""
    calls = tally.target_calls_N.sum()
    return [_ratio(accepted, calls) for accepted in tally.accepted_NG.sum(0)]


def overlap(tally: Tally) -> float | None:
    """Averages sum_v min(p, q) over the positions that the sampler tested: acceptance is an estimate of it.

    Not Eq. 3's alpha, whose prefixes are all drawn from the target. None if it was not measured.
    """
    return None if tally.overlap_N is None else _ratio(tally.overlap_N.sum(), tally.tested_N.sum())


def block_efficiency(tally: Tally) -> float:
    """Computes tau, tokens emitted a target call, pooled; in 1 .. G+1, exactly 1 without a draft."""
    return _ratio(tally.emitted_N.sum(), tally.target_calls_N.sum())


def expected_block_efficiency(acceptance: float, block_size: int) -> float:
    """Computes tau = (1 - a^(G+1)) / (1 - a) of independent acceptance (arXiv 2211.17192, eq. 1)."""
    return sum(acceptance**i for i in range(block_size + 1))


def memory_bound_speedup(tau: float, cost_ratio: float, block_size: int) -> float:
    """Computes MBSU = tau / (c G + 1): the speed-up if time were the bytes of parameters read.

    Args:
      tau: block efficiency.
      cost_ratio: c, bytes of the draft's parameters over the target's.
    """
    return tau / (cost_ratio * block_size + 1)


def _ratio(top: float, bottom: float) -> float:
    return float(top) / float(bottom) if bottom else float("nan")


def failures(target: str, completions: Sequence[Completion]) -> int:
    """Counts the prompts whose text broke off where the target's logits were not finite.

    Raises:
      UsageError: all of them, so that nothing was measured.
    """
    failed = sum(completion.finish_reason == "failed" for completion in completions)
    if failed == len(completions):
        raise UsageError(f"target {target}: its logits were not finite, on all {failed} prompts")
    return failed
