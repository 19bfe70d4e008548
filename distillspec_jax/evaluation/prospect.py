"""The prospect of a training, by a short one before it: its gain, its cost, when it has paid, and what to do.

What is compared is block efficiency on the same prompts before and after the short training, paired. Its
extrapolation to the whole training is an assumption, which `foreseen` and `Prospect` state.
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
"""The level of two-sided intervals: each question here is one-sided, at 95 %."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prospect:
    """The prospect of a whole training.

    Attributes:
      seen: block efficiency after the short training over that before it, with interval.
      gain: the same of the whole training. The value grows as `foreseen`. The ends bound both that growth and
        none at all: the lower end of a gain is that of the short training, of a loss the extrapolated one.
      training_seconds: of all steps, those of the short training too.
      seconds_a_request: before.
      saved: seconds a request, with the ends of `gain`.
      requests: after which the training is paid back; the ends are the fewest and the most; inf: never.
    """

    seen: Interval
    gain: Interval
    training_seconds: float
    seconds_a_request: float
    saved: Interval
    requests: Interval

    def decide(self, least_gain: float, pay_back_requests: float) -> tuple[Outcome, Why | None]:
        """Says go or no-go where both ends of the intervals agree, and what was not enough where they do not.

        Args:
          least_gain: relative gain in block efficiency that is wanted.
          pay_back_requests: within which the training must be paid back.
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
    """Foresees a whole training.

    Args:
      before, after: of each prompt, in one order.
      seconds_per_round: time of a round of one request, before.
      pilot_steps, pilot_seconds: of the short training.
      steps: of the whole one.
      block_size: drafts a round: the gain then stays where it gives 1 to block size + 1 tokens a round. None:
        it is not bounded.
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
    """Predicts the seconds that a request takes less: its tokens by the rounds that each of them spares.

    Args:
      before: of each prompt.
      seconds_per_round: see `foresee`.
      gain: block efficiency after a training over that before it.
    """
    total = Record.total(before)
    if not total.target_calls or not gain > 0:
        return 0.0
    return seconds_per_round * total.target_calls / total.texts * (1.0 - 1.0 / gain)


def foreseen(gain: float, pilot_steps: int, steps: int) -> float:
    """Foresees the gain of a whole training by that of a pilot: as the square root of the steps.

    An assumption: learning curves flatten, and a straight line would promise too much.
    """
    return 1.0 + (gain - 1.0) * math.sqrt(steps / pilot_steps)


def prompts_to_tell(before: Sequence[Record], after: Sequence[Record], least_gain: float) -> int | None:
    """Reckons how many prompts would show, in four of five tries, that such a gain is above the least.

    None where it is not above it, or beyond all prompts that anybody has.
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
    """The finding of a pilot: all that its page tells.

    Attributes:
      outcome, why: see `Prospect.decide`.
      prospect: of the whole training.
      acceptance, block_efficiency: before and after, with intervals.
      target, draft, data: their names.
      prompts: different ones in the data, those trained on, those held out to judge.
      pilot_steps, steps: of the short training and the whole one.
      temperature, block_size, device: of the decoding.
      least_gain, pay_back_requests: what was asked for.
      needed: held-out prompts that would tell; None where more of them would not.
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
        """Makes one JSON object of all of it; what is not finite is null."""
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
