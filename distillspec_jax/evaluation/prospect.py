"""Predicts a training's gain, cost and payback from a short pilot training, and recommends whether to run it.

It compares block efficiency on the same prompts before and after the pilot, paired. The extrapolation to the
whole training is an assumption, which `foreseen` and `Prospect` state.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

from distillspec_jax.acceptance import Record
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, power
from distillspec_jax.evaluation.paired import Interval, number

Outcome = Literal["go", "no-go", "not enough"]
Why = Literal["gain", "cost"]
LEVEL = 0.9
"""Confidence level of two-sided intervals: each question here is one-sided, at 95 %."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prospect:
    """The prospect of a whole training.

    Attributes:
      seen: block efficiency after the pilot over that before it, with its interval.
      gain: the same ratio for the whole training. The value is extrapolated by `foreseen`. The ends cover
        both that growth and none: a gain's lower end is the pilot's, a loss's the extrapolated one.
      training_seconds: of all steps, including the pilot's.
      seconds_a_request: seconds per request before training.
      saved: seconds saved per request, with the ends of `gain`.
      requests: number after which the training has paid for itself, with minimum and maximum; inf: never.
    """

    seen: Interval
    gain: Interval
    training_seconds: float
    seconds_a_request: float
    saved: Interval
    requests: Interval

    def decide(self, least_gain: float, pay_back_requests: float) -> tuple[Outcome, Why | None]:
        """Decides go or no-go if both ends of the intervals agree; otherwise names what was not enough.

        Args:
          least_gain: required relative gain in block efficiency.
          pay_back_requests: number of requests within which the training must pay for itself.
        """
        if self.gain.high < 1 + least_gain:
            return "no-go", "gain"
        if self.requests.low > pay_back_requests:
            return "no-go", "cost"
        if not self.gain.low >= 1 + least_gain:
            return "not enough", "gain"
        if not self.requests.high <= pay_back_requests:
            return "not enough", "cost"
        return "go", None


def foresee(
    before: Sequence[Record],
    after: Sequence[Record],
    *,
    seconds_per_round: float,
    pilot_steps: int,
    pilot_seconds: float,
    steps: int,
    block_size: int | None = None,
) -> Prospect:
    """Predicts the outcome of a whole training.

    Args:
      before, after: records of each prompt, in the same order.
      seconds_per_round: time of a round of one request, before training.
      pilot_steps, pilot_seconds: of the pilot.
      steps: of the whole training.
      block_size: drafts per round; bounds the gain to 1 to block size + 1 tokens per round. None: unbounded.
    """
    seen = paired.quotient_of_records(after, before, "block_efficiency", level=LEVEL)
    total = Record.total(before)
    efficiency = total.value("block_efficiency")
    least, most = (
        (-math.inf, math.inf) if block_size is None else (1 / efficiency, (block_size + 1) / efficiency)
    )
    value, low, high = (
        min(max(foreseen(end, pilot_steps, steps), min(least, end)), max(most, end)) for end in seen
    )
    gain = Interval(value, min(low, seen.low), max(high, seen.high))
    whole = pilot_seconds * (1 + steps / pilot_steps)
    saved = Interval(*(saving(before, seconds_per_round, end) for end in gain))
    needed = [whole / one if one > 0 else math.inf for one in saved]
    return Prospect(
        seen=seen,
        gain=gain,
        training_seconds=whole,
        seconds_a_request=seconds_per_round * total.target_calls / max(total.texts, 1),
        saved=saved,
        requests=Interval(needed[0], needed[2], needed[1]),
    )


def saving(before: Sequence[Record], seconds_per_round: float, gain: float) -> float:
    """Predicts the seconds saved per request from the number of rounds saved.

    Args:
      before: records of each prompt.
      seconds_per_round: see `foresee`.
      gain: block efficiency after a training over that before it.
    """
    total = Record.total(before)
    if not total.target_calls or not gain > 0:
        return 0.0
    return seconds_per_round * total.target_calls / total.texts * (1.0 - 1.0 / gain)


def foreseen(gain: float, pilot_steps: int, steps: int) -> float:
    """Extrapolates a pilot's gain to a whole training, as the square root of the steps.

    This is an assumption: learning curves flatten, so linear extrapolation would promise too much.
    """
    return 1.0 + (gain - 1.0) * math.sqrt(steps / pilot_steps)


def prompts_to_tell(before: Sequence[Record], after: Sequence[Record], least_gain: float) -> int | None:
    """Computes how many prompts would show, with a power of 80 %, that such a gain is above the least.

    None if it is not above it, or if the number is unrealistic (`power.MOST_UNITS`).
    """
    columns = [
        [[getattr(one, name) for one in records] for records in pair]
        for name, pair in (("emitted_tokens", (after, before)), ("target_calls", (before, after)))
    ]
    (emitted_after, emitted_before), (calls_before, calls_after) = columns
    found = power.Pilot.of([emitted_after, calls_before], [emitted_before, calls_after])
    above = math.exp(found.log_ratio) / (1 + least_gain) - 1
    if above <= 0:
        return None
    try:
        return power.units_needed(above, found.spread, level=1 - LEVEL)
    except UsageError:
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """The finding of a pilot: the content of its report page.

    Attributes:
      outcome, why: see `Prospect.decide`.
      prospect: of the whole training.
      acceptance, block_efficiency: before and after, with intervals.
      target, draft, data: their names.
      prompts: numbers of distinct prompts in the data, for training, and held out for evaluation.
      pilot_steps, steps: of the pilot and the whole training.
      temperature, block_size, device: of the decoding.
      least_gain, pay_back_requests: the user's requirements.
      needed: held-out prompts that would suffice to decide; None if more of them would not.
    """

    outcome: Outcome
    why: Why | None
    prospect: Prospect
    acceptance: tuple[Interval, Interval]
    block_efficiency: tuple[Interval, Interval]
    target: str
    draft: str
    data: str
    prompts: tuple[int, int, int]
    pilot_steps: int
    steps: int
    temperature: float
    block_size: int
    device: str
    least_gain: float
    pay_back_requests: int
    needed: int | None

    def as_json(self) -> dict[str, Any]:
        """Converts all fields to one JSON object; non-finite values become null."""
        fields = dataclasses.asdict(self)
        for name in ("seen", "gain", "saved", "requests"):
            fields["prospect"][name] = _object(getattr(self.prospect, name))
        for name in ("acceptance", "block_efficiency"):
            fields[name] = dict(zip(("before", "after"), map(_object, getattr(self, name)), strict=True))
        fields["prompts"] = dict(zip(("all", "trained", "held_out"), self.prompts, strict=True))
        return fields


def _object(found: Interval) -> dict[str, Any]:
    value, *ends = map(number, found)
    return {"value": value, "ci90": ends}
