"""The acceptance record: the counts of speculative decoding, and every ratio computed from them.

A record is a sum over texts, so that batches, hosts, windows and runs add up exactly. A ratio is computed
once, from sums (a mean of per-text ratios is a different quantity). A count that a source does not report is
None, never guessed. `docs/acceptance.md` has the formulas, and other engines' names for the same counts.
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
"""The two sums that each ratio divides. The first is our acceptance rate, the second vLLM's. Accepted length
includes the token that the target adds in every round; block efficiency counts only tokens in the texts.
Overlap averages sum_v min(p, q) over the positions that the sampler tested; it differs from Eq. 3's alpha,
whose prefixes are all drawn from the target."""

REQUIRED = ("emitted_tokens", "target_calls", "tested", "accepted")
COUNTS = (*REQUIRED, "drafted", "tested_at", "accepted_at")
"""The counts in a line of `distillspec generate`; those beyond `REQUIRED` only if there was a draft."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartialRecord:
    """The counts of some texts as far as a system reports them, such as another engine's responses.

    Attributes:
      texts: number of texts.
      emitted_tokens: emitted tokens, EOS included.
      target_calls: rounds, i.e. verify passes (one-token calls without a draft); prefill is excluded.
      tested: tested drafts: those of each round up to and including the first rejected one.
      accepted: accepted drafts.
      drafted: all offered drafts, including those after a rejection or a text's end.
      cut_rounds: rounds whose last token is an accepted draft, to which the target added none: it was EOS,
        completed a stop string or reached the limit.
      tested_at, accepted_at: numbers of rounds that tested and accepted the draft at each of G positions.
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
        """Adds records; a count that is None in one of them is None in the sum."""
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
        """Tokens that the rounds would have emitted if no text had ended within one: accepted + rounds."""
        if self.accepted is None or self.target_calls is None:
            return None
        return self.accepted + self.target_calls

    def sums(self, ratio: str) -> tuple[float, float] | None:
        """Returns the two sums that a ratio of `RATIOS` divides; None if one is unknown."""
        top, bottom = (getattr(self, name) for name in RATIOS[ratio])
        return None if top is None or bottom is None else (top, bottom)

    def mean(self, ratio: str) -> Mean | None:
        """Returns a ratio as a metric that merges with others of its name; None if it is unknown."""
        found = self.sums(ratio)
        return None if found is None else Mean(*found)

    def value(self, ratio: str) -> float:
        """Computes a ratio; NaN if a sum is unknown or the denominator is 0."""
        found = self.mean(ratio)
        return math.nan if found is None else found.compute()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record(PartialRecord):
    """The counts of some texts decoded by one system; only `drafted` counts tokens past a text's end.

    Attributes: see `PartialRecord`; those redeclared here are always known.
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
          rounds: per round: drafts tested, drafts accepted, and tokens emitted.
          drafted: drafts offered in all rounds.
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
        """Cut rounds, computed from emitted = accepted + rounds - cuts."""
        return self.uncut - self.emitted_tokens

    @property
    def whole_rounds(self) -> int:
        """Rounds without a rejection: every other round tests one more draft than it accepts."""
        return self.uncut - self.tested

    @property
    def acceptance_joint(self) -> list[float] | None:
        """For each draft position, the fraction of rounds that accepted it and all before it, `[G]`."""
        if self.accepted_at is None:
            return None
        return [Mean(accepted, self.target_calls).compute() for accepted in self.accepted_at]

    @property
    def acceptance_conditional(self) -> list[float] | None:
        """For each draft position, the fraction of its tests that accepted it, `[G]`; NaN without tests."""
        if self.accepted_at is None or self.tested_at is None:
            return None
        pairs = zip(self.accepted_at, self.tested_at, strict=True)
        return [Mean(accepted, tested).compute() for accepted, tested in pairs]

    @property
    def reach(self) -> list[float] | None:
        """Estimated probability that a round accepts at least i + 1 drafts if texts do not end, `[G]`."""
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
        """Describes the identities that the counts violate: a bug in the counting, or a damaged file.

        Each identity holds for a single text and is linear, so it also holds for sums.

        Args:
          block_size: the maximum number of drafts offered in any round.
        """
        drafts = (
            f"{self.accepted:,} of {self.tested:,} tested drafts accepted in {self.target_calls:,} rounds"
        )
        emitted = f"{self.emitted_tokens:,} tokens emitted, but {drafts}"
        # A cut ends its text with an accepted draft.
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
        # A draft is tested only after an accepted one; the first is tested at most once per round.
        nested = all(a <= t <= r for a, t, r in zip(self.accepted_at, tested_at, reached, strict=False))
        if len(tested_at) != len(self.accepted_at) or not nested:
            told = f"accepted {list(self.accepted_at)}"
            if self.tested_at is not None:
                told = f"tested {list(self.tested_at)}, {told}"
            yield f"by position {told} in {self.target_calls:,} rounds: each must follow an accepted one"


class AccountingError(RuntimeError):
    """Counts that contradict each other: a bug in the decoder, never a user's error."""


def checked(records: Sequence[Record]) -> Sequence[Record]:
    """Checks the records of a decoder's own texts and returns them.

    Raises:
      AccountingError: the counts of a record contradict each other; names the index of the first.
    """
    for i, record in enumerate(records):
        for said in record.violations():
            raise AccountingError(f"prompt {i}: {said}")
    return records


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pace:
    """The speed at which some texts were generated.

    Attributes:
      texts: number of texts.
      tokens, seconds: tokens emitted, and wall-clock seconds, for all texts, prefill included.
      concurrency: texts decoded together: the batch size.
      latency_N: seconds from each request to the end of its text; None if only batches were timed.
      first_token_N: seconds from each request to its first token; None if that was not timed.
    """

    texts: int
    tokens: int
    seconds: float
    concurrency: int
    latency_N: Sequence[float] | None = None
    first_token_N: Sequence[float] | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second over all texts; NaN if nothing was timed."""
        return Mean(self.tokens, self.seconds).compute()

    def latency(self, share: float) -> float | None:
        """Computes a quantile of the latencies in seconds: `share` is 0.5 or 0.95 for p50 or p95."""
        return None if not self.latency_N else float(np.quantile(self.latency_N, share))

    def first_token(self, share: float) -> float | None:
        """Computes a quantile of the times to the first token, in seconds."""
        return None if not self.first_token_N else float(np.quantile(self.first_token_N, share))


def expected_block_efficiency(acceptance: float, block_size: int) -> float:
    """Computes tau = (1 - a^(G+1)) / (1 - a) for independent acceptance (arXiv 2211.17192, eq. 1)."""
    return sum(acceptance**i for i in range(block_size + 1))


def memory_bound_speedup(tau: float, cost_ratio: float, block_size: int) -> float:
    """Computes MBSU = tau / (c G + 1): the speed-up if a verify pass cost as much as a one-token pass.

    Args:
      tau: block efficiency.
      cost_ratio: c, the cost of a draft call over a target call: by parameter bytes, or measured.
    """
    return tau / (cost_ratio * block_size + 1)
