"""Verdicts on watched streams: fine, drift or not enough, with a one-line reason."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from distillspec_jax.evaluation import alarm, watching
from distillspec_jax.evaluation.reference import ALL, Threshold
from distillspec_jax.evaluation.watch_state import Segment, Stream
from distillspec_jax.evaluation.watching import Watch

Outcome = Literal["fine", "drift", "not enough"]
DROP = 0.10
"""The relative drop that a watch must be able to detect before it calls a stream fine."""
FEWEST = 5
"""Minimum number of units for a verdict."""
_NAMES = {
    "acceptance_tested": "acceptance",
    "acceptance_drafted": "accepted / drafted",
    "accepted_length": "accepted length",
    "block_efficiency": "block efficiency",
}


@dataclasses.dataclass(frozen=True)
class SegmentVerdict:
    """The verdict on a segment of a stream.

    Attributes:
      name: `field=value`, or `all`.
      units: requests or intervals with drafts.
      value: the measure over all units; NaN if there are none.
      threshold: None for a segment that the reference does not have.
      evidence, highest: now, and its maximum so far.
      level: of evidence at which the alarm is raised.
      alarm_at, since: see `alarm.Evidence`.
      needed: approximate number of units to detect a drop of `DROP`; None if unknown.
    """

    name: str
    units: int
    value: float
    threshold: Threshold | None
    evidence: float
    highest: float
    level: float
    alarm_at: int | None
    since: int | None
    needed: float | None

    @property
    def outcome(self) -> Outcome | None:
        """The outcome; None for a segment that the reference does not have."""
        if self.alarm_at is not None:
            return "drift"
        if self.threshold is None:
            return None
        enough = self.units >= FEWEST and (self.needed is None or self.units >= self.needed)
        return "fine" if enough else "not enough"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The verdict on a stream.

    Attributes:
      label: of the stream.
      outcome: of all segments together.
      reason: in one line.
      measure: the ratio that was watched.
      segments: `all` first.
      notes: number of lines that were set aside or noted, by reason.
      stream: the stream judged.
    """

    label: str
    outcome: Outcome
    reason: str
    measure: str
    segments: list[SegmentVerdict]
    notes: dict[str, int]
    stream: Stream


def verdict(watch: Watch, stream: Stream) -> Verdict:
    """Judges a stream from everything read so far."""
    measure = stream.measure or "acceptance_tested"
    every = stream.segment(ALL)
    ordered = [every, *(one for one in stream.segments if one is not every)]
    numbers = {id(one): number for number, one in enumerate(stream.segments)}
    segments = [_of_segment(watch, stream, one, measure, numbers[id(one)]) for one in ordered]
    drifted = [one for one in segments if one.outcome == "drift"]
    outcome: Outcome = "drift" if drifted else segments[0].outcome or "not enough"
    told = (
        _drifted(watch, stream, measure, drifted) if drifted else _calm(watch, stream, measure, segments[0])
    )
    reason = f"{stream.label}: {outcome}: {told}"
    return Verdict(stream.label, outcome, reason, measure, segments, dict(stream.notes), stream)


def _of_segment(watch: Watch, stream: Stream, segment: Segment, measure: str, number: int) -> SegmentVerdict:
    evidence = segment.evidence
    known = None
    if stream.measure is not None or watch.against is None:
        known = watch.threshold(segment.name, stream)
    level = watch.level(segment.name, number)
    return SegmentVerdict(
        name=segment.name,
        units=segment.units,
        value=segment.top / segment.bottom if segment.bottom else math.nan,
        threshold=known,
        evidence=evidence.now,
        highest=evidence.highest,
        level=level,
        alarm_at=evidence.alarm_at,
        since=evidence.since,
        needed=None if known is None else needed(known, stream, segment, level, 0),
    )


def needed(
    known: Threshold, stream: Stream, segment: Segment, level: float, units: int, drop: float = DROP
) -> float | None:
    """Estimates how many units after a drop the alarm would be raised; None without a reference.

    Args:
      units: number played before the drop.
    """
    if known.estimate is None:
        return None
    if stream.intervals:
        if not segment.units:
            return None
        gain = 0.5 * (known.value - known.estimate * (1 - drop))
        variance = watching.interval_variance(known, segment.bottom / segment.units)
        return _blocks(gain, variance, known.value, level, units)
    assert known.cap is not None
    top_N, bottom_N = known.scores_N2[:, 0] * (1 - drop), known.scores_N2[:, 1]
    gain_N = alarm.gains(top_N, bottom_N, known.value, known.cap)
    alone = alarm.reckoned_delay(alarm.request_factors(gain_N, known.value), level, units)
    variance = known.variance / alarm.BLOCK
    return max(
        alone, alarm.BLOCK * _blocks(gain_N.mean(), variance, known.value, level, units // alarm.BLOCK)
    )


def _blocks(gain: float, variance: float, threshold: float, level: float, units: int) -> float:
    factors_UL = alarm.block_factors(np.array([gain]), np.array([variance]), threshold)
    return alarm.reckoned_delay(factors_UL, level, units)


def _drifted(watch: Watch, stream: Stream, measure: str, found: list[SegmentVerdict]) -> str:
    unit = _unit(stream)
    parts = []
    for one in found:
        where = "" if one.name == ALL else f" of {one.name}"
        assert one.threshold is not None
        against = "" if one.threshold.estimate is None else f" ({_reference(watch, one.threshold)})"
        parts.append(
            f"{_NAMES[measure]}{where} is below {_number(one.threshold.shown)}{against} since about {unit} "
            f"{one.since:,}, noticed at {unit} {one.alarm_at:,}"
        )
    return f"{'; '.join(parts)}: distil on what is asked now"


def _calm(watch: Watch, stream: Stream, measure: str, one: SegmentVerdict) -> str:
    unit = _unit(stream)
    known = one.threshold
    if not one.units:
        return f"no {unit} in which a draft was tested"
    told = f"{_NAMES[measure]} {_number(one.value)} in {one.units:,} {unit}s"
    assert known is not None
    if known.estimate is None:
        if one.units < FEWEST:
            return f"{told}, at least {FEWEST} needed"
        return f"{told}, the alarm is below {_number(known.shown)}"
    told = f"{told}; {_reference(watch, known)}, the alarm is below {_number(known.shown)}"
    if one.needed is None:
        return told
    if math.isinf(one.needed):
        return f"{told}, and a drop of {DROP:.0%} may never show: a reference of more prompts would show it"
    if one.units < one.needed:
        return f"{told}; a drop of {DROP:.0%} takes about {math.ceil(one.needed):,} to show"
    soon = needed(known, stream, stream.segment(one.name), one.level, one.units)
    return f"{told}; a drop of {DROP:.0%} now would show within about {math.ceil(soon or 0):,}"


def _reference(watch: Watch, known: Threshold) -> str:
    name = "the reference" if watch.against is None else watch.against.name
    assert known.estimate is not None
    return f"{name} has {_number(known.estimate * known.scale)} on {known.prompts:,} prompts"


def _unit(stream: Stream) -> str:
    return "interval" if stream.intervals else "request"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1 else f"{value:.2f}"
