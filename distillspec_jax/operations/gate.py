"""The gate admits a draft that gains on new prompts, loses nothing on old ones, and pays for its training.

Both drafts decode the same held-out prompts, so every ratio is paired over prompts (`paired`). If the result
is undecided, more prompts may be used. This is planned before the first look, and both looks share the error
(Bonferroni).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from distillspec_jax.acceptance import Record
from distillspec_jax.errors import check_number
from distillspec_jax.evaluation import paired, prospect
from distillspec_jax.evaluation.paired import Interval, number

Outcome = Literal["passed", "refused", "not enough"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditions:
    """The conditions of the gate.

    Attributes:
      least_gain: relative gain in block efficiency required on new prompts, at the lower end of its
        interval.
      margin: relative loss tolerated on old prompts, at the lower end of its interval (non-inferiority).
      pay_back_requests: number of requests within which the savings must pay for the training.
      least_prompts: minimum number of held-out prompts, both new and old.

    Raises:
      UsageError: a value is out of range.
    """

    least_gain: float = 0.01
    margin: float = 0.03
    pay_back_requests: int = 100_000
    least_prompts: int = 30

    def __post_init__(self) -> None:
        check_number("--least_gain", self.least_gain, 0, most=10, whole=False)
        check_number("--margin", self.margin, 0, most=0.9, whole=False)
        check_number("--pay_back_requests", self.pay_back_requests, 1, most=10**12)
        check_number("--least_prompts", self.least_prompts, paired.MIN_PROMPTS, most=10**6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """One draft's counts on held-out prompts.

    Attributes:
      new, old: records of each prompt, in the same order for both drafts.
      seconds_per_round: cost of a round of one request (`costs`).
    """

    new: Sequence[Record]
    old: Sequence[Record]
    seconds_per_round: float

    def with_more(self, more: Measured) -> Measured:
        """Adds prompts decoded later by the same draft."""
        return dataclasses.replace(self, new=[*self.new, *more.new], old=[*self.old, *more.old])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The gate's finding.

    Attributes:
      outcome: passed, refused, or not enough prompts to decide.
      reason: in one line.
      new, old: block efficiency of the candidate over that of the stable draft, with interval.
      acceptance: on new prompts, of the stable draft and the candidate.
      prompts: numbers of new and old prompts.
      saved_seconds: predicted savings per request.
      training_seconds: cost of the training.
      pay_back_requests: number of requests after which the training has paid for itself; None: never.
      conditions: of the gate.
      level: of the intervals.
    """

    outcome: Outcome
    reason: str
    new: Interval
    old: Interval
    acceptance: tuple[float, float]
    prompts: tuple[int, int]
    saved_seconds: float
    training_seconds: float
    pay_back_requests: float | None
    conditions: Conditions
    level: float

    @property
    def undecided(self) -> bool:
        """Tells whether only certainty was lacking, on new or old prompts, so more prompts might decide."""
        asked = self.conditions
        return (
            self.outcome == "refused"
            and self.new.high >= 1 + asked.least_gain
            and self.old.high >= 1 - asked.margin
            and self.pay_back_requests is not None
            and self.pay_back_requests <= asked.pay_back_requests
        )

    def as_json(self) -> dict[str, Any]:
        """Returns the finding as a lineage stores it."""
        fields = dataclasses.asdict(self)
        for name in ("new", "old"):
            found: Interval = getattr(self, name)
            fields[name] = {"ratio": number(found.value), f"ci{100 * self.level:.0f}": found.ends}
        fields["acceptance"] = [number(one) for one in self.acceptance]
        fields["prompts"] = list(self.prompts)
        return fields


def judge(
    stable: Measured, candidate: Measured, training_seconds: float, conditions: Conditions, looks: int = 1
) -> Finding:
    """Judges a candidate against the stable draft.

    Args:
      looks: maximum number of looks, including this one; they share the error of 5 % on either side.
    """
    level = 1 - (1 - prospect.LEVEL) / looks
    new = paired.quotient_of_records(candidate.new, stable.new, "block_efficiency", level=level)
    old = paired.UNKNOWN
    if stable.old:
        old = paired.quotient_of_records(candidate.old, stable.old, "block_efficiency", level=level)
    saved = prospect.saving(stable.new, stable.seconds_per_round, new.value)
    needed = training_seconds / saved if saved > 0 else math.inf
    fewest = conditions.least_prompts
    counts = len(stable.new), len(stable.old)
    reasons = [
        f"{count} {name} held-out prompts, the gate needs {fewest}"
        for name, count in zip(("new", "old"), counts, strict=True)
        if count < fewest
    ]
    outcome: Outcome = "not enough" if reasons else "passed"
    if not reasons:
        if not new.low >= 1 + conditions.least_gain:
            reasons.append(
                f"no gain of {conditions.least_gain:.1%} on new prompts: {_percent(new)} of block efficiency"
            )
        if not old.low >= 1 - conditions.margin:
            reasons.append(
                f"a loss beyond {conditions.margin:.1%} on old prompts cannot be ruled out: {_percent(old)}"
            )
        if needed > conditions.pay_back_requests:
            told = "never" if math.isinf(needed) else f"after {needed:,.0f} requests"
            reasons.append(
                f"{training_seconds:,.0f} s of training pay back {told}, not within "
                f"{conditions.pay_back_requests:,}"
            )
        outcome = "refused" if reasons else "passed"
    if not reasons:
        reasons = [
            f"block efficiency {_percent(new)} on new prompts, {_percent(old)} on old ones; "
            f"{training_seconds:,.0f} s of training pay back after {needed:,.0f} requests"
        ]
    rates = (Record.total(one.new).value("acceptance_tested") for one in (stable, candidate))
    before, after = rates
    return Finding(
        outcome=outcome,
        reason="; ".join(reasons),
        new=new,
        old=old,
        acceptance=(before, after),
        prompts=counts,
        saved_seconds=saved,
        training_seconds=training_seconds,
        pay_back_requests=None if math.isinf(needed) else needed,
        conditions=conditions,
        level=level,
    )


def _percent(found: Interval) -> str:
    """Formats a ratio as `+4.1 % (+2.0 to +6.3)`."""
    if found.ends is None:
        return "unknown"
    value, low, high = (100 * (one - 1) for one in found)
    return f"{value:+.1f} % ({low:+.1f} to {high:+.1f})"
