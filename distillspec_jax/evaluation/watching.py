"""Watches streams of answers and counters against a reference: reads new units and updates the evidence."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.evaluation import alarm, reference, served_files
from distillspec_jax.evaluation.engines.differences import Differences
from distillspec_jax.evaluation.engines.scrapes import Series
from distillspec_jax.evaluation.reference import ALL, MEASURES, Reference, Threshold
from distillspec_jax.evaluation.served_lines import Answers, Unit
from distillspec_jax.evaluation.watch_state import Point, Segment, Stream
from distillspec_jax.models import fingerprints

MEASURELESS = "answers that do not tell the measure"
UNDRAFTED = "answers in which no draft was tested"
UNNAMED = "answers without a field of --by"
_MOST_SEGMENTS = 1_000
_STRETCHES = 50


@dataclasses.dataclass(frozen=True)
class Watch:
    """The settings of a watch.

    Attributes:
      against: the reference for the service; None: only `at_least`, or nothing.
      at_least: minimum acceptance rate.
      margin: tolerated relative drop below the reference.
      false_alarms: probability of ever raising an alarm while nothing is wrong.
      by: fields that distinguish segments.
      measure: one of `reference.MEASURES`; None: the first available.
      sampling: temperature, top_k and top_p of the lines to count.
      model: see `scrapes.of_text`.
      draft: the only draft to count, see `Answers.version`.
      block_size: drafts per round, if asserted by the user.
    """

    against: Reference | None = None
    at_least: float | None = None
    margin: float = 0.05
    false_alarms: float = 0.05
    by: Sequence[str] = ()
    measure: str | None = None
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
    model: str | None = None
    draft: str | None = None
    block_size: int | None = None
    _thresholds: dict[tuple[str, str, int | None, bool], Threshold | None] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def judges(self) -> bool:
        """Tells whether there is anything to compare with."""
        return self.against is not None or self.at_least is not None

    def read(self, stream: Stream, path: str) -> list[Unit]:
        """Reads the new part of a file into a stream and plays it.

        Returns:
          The new units.

        Raises:
          UsageError: see `served_files`, `served_lines` and `scrapes`.
        """
        news = served_files.news(path, stream.beginnings)
        counted = served_files.counters(news, self.model)
        intervals = None if not any(map(str.strip, news.lines)) else counted is not None
        if intervals is not None and stream.intervals not in (None, intervals):
            raise UsageError(f"{path}: answers and counters in one stream: give each a label of its own")
        if counted is None:
            units = list(self._answers(stream, news))
        else:
            engine, found = counted
            if stream.engine not in (None, engine.name):
                raise UsageError(
                    f"{path}: counters of {engine.name}, but those before are of {stream.engine}"
                )
            stream.engine = engine.name
            values = {Series.of_key(key): value for key, value in stream.values.items()}
            seen = Differences(values, stream.latest, collections.Counter(stream.notes))
            assert engine.counters is not None
            pairs = seen.intervals(found, engine.counters, self.block_size)
            units = [Unit(answer.record, block_size=answer.block_size) for _, answer in pairs]
            stream.values = {series.key: value for series, value in seen.values.items()}
            stream.latest, stream.notes = seen.seconds, dict(seen.notes)
        stream.intervals = stream.intervals if intervals is None else intervals
        stream.beginnings = served_files.remembered(stream.beginnings, news)
        stream.texts += sum(unit.record.texts or 0 for unit in units)
        if self.judges:
            self._play(stream, units)
        return units

    def _answers(self, stream: Stream, news: served_files.News) -> Iterator[Unit]:
        answers = Answers(
            by=self.by,
            sampling={**stream.sampling, **self.sampling},
            draft=None if self.against is None else self.against.draft,
            version=self.draft,
            served_by=stream.draft,
            block_size=self.block_size,
            engine=stream.engine,
            latest=-math.inf if stream.latest is None else stream.latest,
            seen=dict.fromkeys(stream.seen),
            notes=collections.Counter(stream.notes),
        )
        yield from answers.units(served_files.objects(news))
        stream.engine, stream.sampling = answers.engine, dict(answers.sampling)
        stream.draft = answers.served_by
        stream.latest = answers.latest if math.isfinite(answers.latest) else None
        stream.seen, stream.notes = list(answers.seen), dict(answers.notes)

    def _play(self, stream: Stream, units: Sequence[Unit]) -> None:
        """Adds units to the evidence of their segments."""
        notes = collections.Counter(stream.notes)
        parts: dict[str, list[tuple[float, float]]] = {}
        for unit in units:
            stream.measure = stream.measure or self._measure(unit.record)
            stream.block_size = stream.block_size or unit.block_size
            sums = unit.record.sums(stream.measure)
            if sums is None:
                notes[MEASURELESS] += 1
                continue
            if not sums[1]:
                notes[UNDRAFTED] += 1
                continue
            parts.setdefault(ALL, []).append(sums)
            for field in self.by:
                if field in unit.fields:
                    parts.setdefault(f"{field}={unit.fields[field]}", []).append(sums)
                else:
                    notes[UNNAMED] += 1
        if len(parts) + len(stream.segments) > _MOST_SEGMENTS:
            fields = ", ".join(self.by)
            raise UsageError(f"--by={fields}: more than {_MOST_SEGMENTS:,} values: no segments")
        stream.notes = {name: count for name, count in notes.items() if count}
        for name, pairs in parts.items():
            self._extend(stream, name, np.array(pairs, np.float64))

    def _extend(self, stream: Stream, name: str, sums_U2: np.ndarray) -> None:
        segment = stream.segment(name)
        number = next(i for i, one in enumerate(stream.segments) if one is segment)
        known = self.threshold(name, stream)
        if stream.intervals:
            missing = _WARM_UP - len(segment.warm_up)
            segment.warm_up += sums_U2[:missing, 1].tolist()
            sums_U2 = sums_U2[missing:] if missing > 0 else sums_U2
        stretch = max(1, -(-len(sums_U2) // _STRETCHES)) if name == ALL else max(1, len(sums_U2))
        for start in range(0, len(sums_U2), stretch):
            part_U2 = sums_U2[start : start + stretch]
            if known is not None:
                gain_U, prior = _gains(stream, segment, known, part_U2)
                level = self.level(name, number)
                segment.evidence = segment.evidence.after(
                    gain_U, known.value, level, prior, bool(stream.intervals)
                )
            top, bottom = part_U2.sum(0).tolist()
            segment.units += len(part_U2)
            segment.top, segment.bottom = segment.top + top, segment.bottom + bottom
            if name == ALL:
                stream.add(Point(segment.units, top, bottom, segment.evidence.now))

    def _measure(self, record: PartialRecord) -> str:
        """Chooses the watched ratio: the first that both the reference and the stream provide."""
        if self.measure is not None:
            return self.measure
        told = [name for name in MEASURES if record.sums(name) is not None]
        known = MEASURES if self.against is None else self.against.measures()
        common = [name for name in told if name in known]
        if not common:
            name = "the reference" if self.against is None else self.against.name
            raise UsageError(f"no ratio is told by both {name} and the answers, which tell {told or 'none'}")
        return common[0]

    @functools.cached_property
    def _tests(self) -> int:
        """Counts the segments with a reference that share the rate of false alarms."""
        assert self.against is not None
        fields = tuple(f"{field}=" for field in self.by)
        return 1 + sum(name.startswith(fields) for name in self.against.segments if fields and name != ALL)

    def level(self, segment: str, number: int) -> float:
        """Computes the evidence at which a segment's alarm is raised.

        The segments of a reference share the false alarm rate equally. With a bare rate, the total traffic
        gets one half and the segments share the other, in order of appearance. The segments' evidence may be
        arbitrarily dependent, since probabilities of alarms add up (Bonferroni).

        Args:
          number: of the segment, in order of appearance.
        """
        if self.against is not None:
            return 2 * self._tests / self.false_alarms  # the reference's interval uses the other half
        if not self.by:
            return 1 / self.false_alarms
        return 2 * (1 if segment == ALL else number * (number + 1)) / self.false_alarms

    def threshold(self, segment: str, stream: Stream) -> Threshold | None:
        """Returns the threshold of a stream's segment; None if the reference does not have the segment.

        Raises:
          UsageError: see `Reference.threshold`; or the block size differs from the reference's, which would
            change every ratio but the first.
        """
        measure, size = stream.measure or MEASURES[0], self.block_size or stream.block_size
        key = segment, measure, size, bool(stream.intervals)
        if key not in self._thresholds:
            self._thresholds[key] = self._threshold(*key)
        return self._thresholds[key]

    def _threshold(self, segment: str, measure: str, size: int | None, intervals: bool) -> Threshold | None:
        if self.against is None:
            assert self.at_least is not None
            return reference.of_rate(self.at_least, reference.scale_of(measure, size))
        own = self.against.block_size
        if measure != MEASURES[0] and None not in (own, size) and own != size:
            raise UsageError(
                f"{self.against.name} has {own} drafts a round, the answers {size}: {measure} of the two "
                "cannot be compared"
            )
        if segment not in self.against.segments:
            return None
        share = self.false_alarms / self._tests
        try:
            return self.against.threshold(segment, measure, self.margin, share, size, intervals)
        except UsageError:
            if segment == ALL:
                raise
            return None


def _gains(
    stream: Stream, segment: Segment, known: Threshold, sums_U2: np.ndarray
) -> tuple[np.ndarray, float]:
    """Computes the gains of some units, and the reference's variance of a block."""
    top_U, bottom_U = sums_U2[:, 0] / known.scale, sums_U2[:, 1]
    if stream.intervals:
        size = sum(segment.warm_up) / len(segment.warm_up)
        return alarm.gains(top_U, bottom_U, known.value, 2 * size), interval_variance(known, size)
    cap_U: Any = known.cap
    if cap_U is None:
        # Twice the mean of earlier texts and an imaginary first one; it must not depend on the text itself.
        before_U = segment.bottom + np.concatenate([[0.0], np.cumsum(bottom_U[:-1])])
        cap_U = 2 * (_FIRST_TEXT + before_U) / (1 + segment.units + np.arange(len(bottom_U)))
    return alarm.gains(top_U, bottom_U, known.value, cap_U), known.variance / alarm.BLOCK


def interval_variance(known: Threshold, size: float) -> float:
    """Computes the reference's variance of an interval's gain.

    Args:
      size: mean number of tested drafts per interval: half the number at which the weight saturates.
    """
    return 0.25 * known.spread * max(known.value * (1.0 - known.value), 1e-3) / max(size, 1.0)


_WARM_UP = 5
"""First intervals, which are not played but show how much one interval counts."""
_FIRST_TEXT = 32.0
"""Tested drafts of an imaginary text before the first."""


def of_lines(path: str, watch: Watch) -> Reference:
    """Makes a reference from lines of a time when acceptance was good.

    Raises:
      UsageError: the file has counters, which do not distinguish requests; or see `Watch.read`.
    """
    stream = Stream(path)
    units = dataclasses.replace(watch, against=None, at_least=None).read(stream, path)
    if stream.intervals:
        raise UsageError(f"{path}: counters do not tell requests apart: a reference needs answers")
    if not units:
        of_draft = "" if watch.draft is None else f" of the draft {watch.draft}"
        raise UsageError(f"{path} has no whole line{of_draft}")
    measure = watch.measure or next((n for n in MEASURES if all(u.record.sums(n) for u in units)), None)
    segments: dict[str, list[PartialRecord]] = {ALL: [unit.record for unit in units]}
    for unit in units:
        for field in watch.by:
            if field in unit.fields:
                segments.setdefault(f"{field}={unit.fields[field]}", []).append(unit.record)
    if measure is None:
        raise UsageError(f"{path}: its answers tell no ratio of {', '.join(MEASURES)}")
    sizes = {unit.block_size for unit in units}
    return Reference(
        path, segments, sampling=stream.sampling, block_size=sizes.pop() if len(sizes) == 1 else None
    )


def settings(watch: Watch) -> dict[str, Any]:
    """Returns everything that the evidence depends on, except for the served data."""
    against = watch.against
    digest = None
    if against is not None:
        counts = {
            name: [[one.sums(ratio) for ratio in MEASURES] for one in records]
            for name, records in against.segments.items()
        }
        digest = fingerprints.of_json([counts, against.block_size])
    return {
        "profile": digest,
        "at_least": watch.at_least,
        "margin": watch.margin,
        "false_alarms": watch.false_alarms,
        "by": list(watch.by),
        "measure": watch.measure,
        "temperature": watch.sampling.get("temperature"),
        "model": watch.model,
        **({} if watch.draft is None else {"draft": watch.draft}),  # as states of 0.2's first days had none
        "block_size": watch.block_size,
    }


def check_fields(by: Sequence[str], against: Reference | None) -> None:
    """Rejects a field by which the reference has no segments.

    Raises:
      UsageError: lists the fields that it has.
    """
    if against is None:
        return
    fields = {name.partition("=")[0] for name in against.segments if name != ALL}
    for field in by:
        if field not in fields:
            raise UsageError(f"--by={field}: {against.name} has no segments by it: {nearest(field, fields)}")
