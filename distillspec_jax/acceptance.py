"""The acceptance record: what speculative decoding counted, and every ratio that is formed of it.

A record is a sum over texts, so that batches, hosts, windows and runs add up exactly; a ratio is formed once,
of sums (a mean of the texts' ratios is another quantity). What a source does not tell is None, and never
guessed. `docs/acceptance.md` has the formulas, and the names that other engines have for the same counts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np

from distillspec_jax.metrics import Mean

RATIOS: Mapping[str, tuple[str, str]] = {
    "acceptance_tested": ("accepted", "tested"),
    "acceptance_drafted": ("accepted", "drafted"),
    "accepted_length": ("uncut", "target_calls"),
    "block_efficiency": ("emitted_tokens", "target_calls"),
    "overlap": ("overlap", "tested"),
}
"""The sums that each ratio divides. The first is our acceptance rate, the second vLLM's. Accepted length has
the token that the target adds to every round, block efficiency only what texts hold. Overlap averages
sum_v min(p, q) over the positions that the sampler tested; Eq. 3's alpha, whose prefixes are all drawn from
the target, is another quantity."""

REQUIRED = ("emitted_tokens", "target_calls", "tested", "accepted")
COUNTS = (*REQUIRED, "drafted", "tested_at", "accepted_at")
"""The counts in a line of `distillspec generate`; those beyond `REQUIRED` only where there was a draft."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartialRecord:
    """The counts of some texts as far as a system tells them: other engines' answers and counters.

    Attributes:
      texts: how many.
      emitted_tokens: EOS included.
      target_calls: rounds, which are verify passes (one-token calls without a draft); prefill is apart.
      tested: drafts put to the test, up to the first of a round that was rejected.
      accepted: those that passed.
      drafted: all that were offered, those behind a rejection or a text's end too.
      cut_rounds: rounds whose last token is an accepted draft, for which the target added none: it was EOS,
        completed a stop string or met the limit.
      tested_at, accepted_at: rounds that tested and that accepted the draft at each position, of G.
      overlap: sum over tested positions of sum_v min(p, q).
    """

    texts: int | None = 1
    emitted_tokens: int | None = None
    target_calls: int | None = None
    tested: int | None = None
    accepted: int | None = None
    drafted: int | None = None
    cut_rounds: int | None = None
    tested_at: Sequence[int] | None = None
    accepted_at: Sequence[int] | None = None
    overlap: float | None = None

    @classmethod
    def total(cls, records: Iterable[Self]) -> Self:
        """Adds records up; what one of them does not tell is not known of the sum."""
        records = list(records)
        if not records:
            return cls(texts=0, emitted_tokens=0, target_calls=0, tested=0, accepted=0)
        sums: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            values = [getattr(record, field.name) for record in records]
            if any(value is None for value in values):
                sums[field.name] = None
            elif field.name.endswith("_at"):
                sums[field.name] = tuple(map(sum, itertools.zip_longest(*values, fillvalue=0)))
            else:
                sums[field.name] = float(np.sum(values)) if field.name == "overlap" else sum(values)
        return cls(**sums)

    def __add__(self, other: Self) -> Self:
        return self.total([self, other])

    @property
    def uncut(self) -> int | None:
        """Tokens that the rounds would have emitted had no text ended within one: an added one each."""
        if self.accepted is None or self.target_calls is None:
            return None
        return self.accepted + self.target_calls

    def sums(self, ratio: str) -> tuple[float, float] | None:
        """The two sums that a ratio of `RATIOS` divides; None where one is not known."""
        top, bottom = (getattr(self, name) for name in RATIOS[ratio])
        return None if top is None or bottom is None else (top, bottom)

    def mean(self, ratio: str) -> Mean | None:
        """A ratio as a metric that merges with others of its name; None where it is not known."""
        found = self.sums(ratio)
        return None if found is None else Mean(*found)

    def value(self, ratio: str) -> float:
        """A ratio; NaN where a sum is not known, or there was nothing to divide by."""
        found = self.mean(ratio)
        return math.nan if found is None else found.compute()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record(PartialRecord):
    """The counts of some texts, decoded by one system; nothing past a text's end is counted but `drafted`.

    Attributes: see `PartialRecord`; those here are always known.
    """

    texts: int = 1
    emitted_tokens: int = dataclasses.field()
    target_calls: int = dataclasses.field()
    tested: int = dataclasses.field()
    accepted: int = dataclasses.field()

    @classmethod
    def of_rounds(cls, rounds: Iterable[tuple[int, int, int]], drafted: int | None = None) -> Record:
        """Counts one text, round by round.

        Args:
          rounds: drafts tested and accepted, and tokens emitted.
          drafted: drafts offered in all of them.
        """
        found = list(rounds)
        longest = max((tested for tested, _, _ in found), default=0)
        tested_at, accepted_at = (
            tuple(sum(one[which] > i for one in found) for i in range(longest)) for which in (0, 1)
        )
        return cls(
            emitted_tokens=sum(emitted for _, _, emitted in found),
            target_calls=len(found),
            tested=sum(tested_at),
            accepted=sum(accepted_at),
            drafted=drafted,
            tested_at=tested_at,
            accepted_at=accepted_at,
        )

    @property
    def uncut(self) -> int:
        """See `PartialRecord`."""
        return self.accepted + self.target_calls

    @property
    def cuts(self) -> int:
        """Cut rounds, from emitted = accepted + rounds - cuts."""
        return self.uncut - self.emitted_tokens

    @property
    def whole_rounds(self) -> int:
        """Rounds without a rejection: each round but these tests one draft more than it accepts."""
        return self.uncut - self.tested

    @property
    def acceptance_joint(self) -> list[float] | None:
        """For each draft position the share of rounds that accepted it and all before it, `[G]`."""
        if self.accepted_at is None:
            return None
        return [Mean(accepted, self.target_calls).compute() for accepted in self.accepted_at]

    @property
    def acceptance_conditional(self) -> list[float] | None:
        """For each draft position the share of its tests that it passed, `[G]`; NaN where there was none."""
        if self.accepted_at is None or self.tested_at is None:
            return None
        pairs = zip(self.accepted_at, self.tested_at, strict=True)
        return [Mean(accepted, tested).compute() for accepted, tested in pairs]

    @property
    def reach(self) -> list[float] | None:
        """Reckons the probability that a round accepts at least i + 1 drafts, were no text to end, `[G]`."""
        rates = self.acceptance_conditional
        return None if rates is None else np.cumprod(np.nan_to_num(rates)).tolist()

    @property
    def histogram(self) -> list[int] | None:
        """Rounds that accepted exactly 0, 1, .. G drafts, `[G + 1]`."""
        if self.accepted_at is None:
            return None
        at_least = (self.target_calls, *self.accepted_at, 0)
        return [more - fewer for more, fewer in itertools.pairwise(at_least)]

    def violations(self, block_size: int | None = None) -> Iterator[str]:
        """Yields the identities that the counts break, in words: a defect of whoever counted, or of the file.

        Each holds of a single text and is linear, so that it holds of sums.

        Args:
          block_size: the most drafts that any round offered.
        """
        drafts = (
            f"{self.accepted:,} of {self.tested:,} tested drafts accepted in {self.target_calls:,} rounds"
        )
        emitted = f"{self.emitted_tokens:,} tokens emitted, but {drafts}"
        # A cut ends its text, with a draft that was accepted.
        most = min(self.accepted, self.texts)
        if not 0 <= self.cuts <= most:
            yield f"{emitted}, of which {'at most ' if most else ''}{most:,} can be cut"
        elif self.cut_rounds is not None and self.cuts != self.cut_rounds:
            yield f"{emitted}, {self.cut_rounds:,} of them cut"
        if self.accepted > self.tested or self.whole_rounds < max(self.cuts, 0):
            yield f"{drafts}, {max(self.cuts, 0):,} cut: a round tests at most one draft that it rejects"
        if self.drafted is not None and self.tested > self.drafted:
            yield f"{self.tested:,} drafts tested, but {self.drafted:,} drafted"
        yield from self._by_position()
        if block_size is not None:
            if self.accepted > block_size * self.target_calls:
                yield f"{drafts} of at most {block_size}"
            if self.drafted is not None and self.drafted > block_size * self.target_calls:
                yield f"{self.drafted:,} drafted in {self.target_calls:,} rounds of at most {block_size}"
            histogram, full = self.histogram, self.drafted == block_size * self.target_calls
            if histogram is not None and len(histogram) == block_size + 1 and full:
                # tested = rounds + accepted - rounds that accepted all - cut rounds that accepted fewer
                short = self.whole_rounds - histogram[-1]
                if short > max(self.cuts, 0):
                    yield f"{drafts}: {short:,} rounds neither rejected nor accepted all, {self.cuts:,} cut"

    def _by_position(self) -> Iterator[str]:
        for name in ("tested", "accepted"):
            at, sum_ = getattr(self, f"{name}_at"), getattr(self, name)
            if at is not None and sum(at) != sum_:
                yield f"{sum_:,} drafts {name}, but by position {list(at)}"
        if self.accepted_at is None:
            return
        reached = (self.target_calls, *self.accepted_at)
        tested_at = self.accepted_at if self.tested_at is None else self.tested_at
        # To be tested, a draft must follow an accepted one; the first is tested at most once a round.
        nested = all(a <= t <= r for a, t, r in zip(self.accepted_at, tested_at, reached, strict=False))
        if len(tested_at) != len(self.accepted_at) or not nested:
            told = f"accepted {list(self.accepted_at)}"
            if self.tested_at is not None:
                told = f"tested {list(self.tested_at)}, {told}"
            yield f"by position {told} in {self.target_calls:,} rounds: each must follow an accepted one"


class AccountingError(RuntimeError):
    """Counts that contradict each other: a defect of the decoder, never of its user."""


def checked(records: Sequence[Record]) -> Sequence[Record]:
    """Hands the records of a decoder's own texts through.

    Raises:
      AccountingError: the first whose counts contradict each other, by its index.
    """
    for i, record in enumerate(records):
        for said in record.violations():
            raise AccountingError(f"prompt {i}: {said}")
    return records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast some texts came.

    Attributes:
      texts: how many.
      tokens, seconds: emitted, and wall-clock of all of them, prefill included.
      concurrency: texts decoded together: the batch size.
      latency_N: seconds from each request to the end of its text; None where only batches were timed.
      first_token_N: seconds from each request to its first token; None where that was not timed.
    """

    texts: int
    tokens: int
    seconds: float
    concurrency: int
    latency_N: Sequence[float] | None = None
    first_token_N: Sequence[float] | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens a second of all texts together; NaN where nothing was timed."""
        return Mean(self.tokens, self.seconds).compute()

    def latency(self, share: float) -> float | None:
        """The seconds within which a share of the requests was answered: 0.5 and 0.95 for p50 and p95."""
        return None if not self.latency_N else float(np.quantile(self.latency_N, share))

    def first_token(self, share: float) -> float | None:
        """The seconds within which a share of the requests had their first token."""
        return None if not self.first_token_N else float(np.quantile(self.first_token_N, share))


def expected_block_efficiency(acceptance: float, block_size: int) -> float:
    """Computes tau = (1 - a^(G+1)) / (1 - a) of independent acceptance (arXiv 2211.17192, eq. 1)."""
    return sum(acceptance**i for i in range(block_size + 1))


def memory_bound_speedup(tau: float, cost_ratio: float, block_size: int) -> float:
    """Computes MBSU = tau / (c G + 1): the speed-up if a verify pass cost as much as a one-token pass.

    Args:
      tau: block efficiency.
      cost_ratio: c, the cost of a draft's call over the target's: by bytes of parameters, or as measured.
    """
    return tau / (cost_ratio * block_size + 1)
