"""Acceptance in service, request by request, from answers of `generate` or another engine in JSON lines."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.engines import distillspec
from distillspec_jax.evaluation.engines.engine import Engine
from distillspec_jax.evaluation.engines.registry import body, engine_of
from distillspec_jax.evaluation.paired import Interval

DUPLICATE = "lines that were there before"
LATE = "lines whose clock went back"
UNTOLD = "answers without counts"
OTHER_DRAFT = "answers of another draft"
OTHER_SAMPLING = "answers of another sampling distribution"

VERSION_FIELD = "draft_version"
"""The field in which `serve` states a line's draft."""
REQUEST_FIELD = "request"
"""The field in which `serve` names a prompt of a request; all its samples have it in common."""
REMEMBERED = 4096
"""Number of last lines in which duplicates are detected."""
_TIMES = ("time", "timestamp", "created")
_SAMPLING = ("temperature", "top_k", "top_p")


@dataclasses.dataclass(frozen=True)
class Unit:
    """The answers to one prompt, since consecutive samples of a prompt are not independent.

    Attributes:
      record: the counts of all answers.
      fields: of the line, to distinguish segments.
      block_size: drafts per round, if known.
      prompt: the field `inputs` as JSON, or what tells the samples of a prompt in its place, if there is one.
    """

    record: PartialRecord
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    block_size: int | None = None
    prompt: str | None = None


@dataclasses.dataclass
class Answers:
    """Reads answers and sets aside those that must not count.

    Attributes:
      by: fields that distinguish segments.
      sampling: temperature, top_k and top_p that a line may state; lines with others are set aside.
      draft: name of the draft that a line may state.
      version: the only draft to count, as a line states it in `draft_version` or `draft`; None: any, but
        lines of several versions must be told apart.
      served_by: the draft of the lines so far, if they state it.
      block_size: drafts per round, as asserted by the user.
      engine: name of the engine that gave the answers, once one is read.
      latest: time in seconds of the latest line with a time.
      seen: digests of the last distinguishable lines.
      notes: number of lines that were set aside or noted, by reason.
    """

    by: Sequence[str] = ()
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
    draft: str | None = None
    version: str | None = None
    served_by: str | None = None
    block_size: int | None = None
    engine: str | None = None
    latest: float = -math.inf
    seen: dict[str, None] = dataclasses.field(default_factory=dict)
    notes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def units(self, lines: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Unit]:
        """Yields the units of some lines.

        Raises:
          UsageError: a line is not an answer, is from another engine or draft than earlier lines, has
            contradictory counts, or has a sampling field that is not a number; names the place.
        """
        waiting: list[Unit] = []
        for place, line in lines:
            unit = self._unit(line, place)
            if unit is None:
                continue
            if waiting and (unit.prompt is None or unit.prompt != waiting[-1].prompt):
                yield _merged(waiting)
                waiting = []
            waiting.append(unit)
        if waiting:
            yield _merged(waiting)

    def _unit(self, line: dict[str, Any], place: str) -> Unit | None:
        engine = engine_of(line, place)
        if self.engine not in (None, engine.name):
            raise UsageError(f"{place}: an answer of {engine.name}, but those before are of {self.engine}")
        self.engine = engine.name
        if self._is_repeated(line, place):
            self.notes[DUPLICATE] += 1
            return None
        seconds = time_of(line)
        if seconds is not None:
            self.notes[LATE] += seconds < self.latest
            self.latest = max(self.latest, seconds)
        if not self._is_of_draft(line, place):
            self.notes[OTHER_DRAFT] += 1
            return None
        if not self._is_of_sampling(line, place):
            self.notes[OTHER_SAMPLING] += 1
            return None
        answer = engine.answer(body(line), place, self.block_size)
        if answer is None:
            self.notes[UNTOLD] += 1
            return None
        kept = {name: line[name] for name in self.by if name in line}
        return Unit(answer.record, kept, answer.block_size, _prompt(line, engine))

    def _is_repeated(self, line: Mapping[str, Any], place: str) -> bool:
        """Tells whether a line was read before; lines without id and time are indistinguishable."""
        inner = body(line)
        told = next((one["id"] for one in (line, inner) if isinstance(one.get("id"), (str, int))), None)
        if told is not None:
            identity: Any = [told, line.get("sample")]
        elif any(name in line for name in _TIMES):
            identity = line
        else:
            return False
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        if digest in self.seen:
            return True
        self.seen[digest] = None
        if len(self.seen) > REMEMBERED:
            del self.seen[next(iter(self.seen))]
        return False

    def _is_of_draft(self, line: Mapping[str, Any], place: str) -> bool:
        if self.version is not None:
            return line.get(VERSION_FIELD, line.get("draft", self.version)) == self.version
        if self.draft is not None and line.get("draft", self.draft) != self.draft:
            return False
        told = line.get(VERSION_FIELD)
        if isinstance(told, str) and VERSION_FIELD not in self.by:
            if self.served_by not in (None, told):
                raise UsageError(
                    f"{place}: an answer with the draft {told}, but those before had {self.served_by}: "
                    f"choose one by --draft, or tell them apart by --by={VERSION_FIELD}"
                )
            self.served_by = told
        return True

    def _is_of_sampling(self, line: Mapping[str, Any], place: str) -> bool:
        for name in _SAMPLING:
            value = line.get(name)
            if value is None or name in self.by or isinstance(value, bool):
                continue
            if not isinstance(value, (int, float)):
                raise UsageError(f"{place}: field {name!r} must be a number")
            if name not in self.sampling:
                self.sampling = {**self.sampling, name: value}
            elif not math.isclose(value, self.sampling[name], abs_tol=1e-9):
                return False
        return True


def _prompt(line: Mapping[str, Any], engine: Engine) -> str | None:
    """Returns what tells a line's prompt: its text, or in our own lines its `request`."""
    if "inputs" in line:
        return json.dumps(line["inputs"])
    request = line.get(REQUEST_FIELD)
    told = engine is distillspec.ENGINE and isinstance(request, str) and request
    return json.dumps({REQUEST_FIELD: request}) if told else None


def _merged(units: Sequence[Unit]) -> Unit:
    if len(units) == 1:
        return units[0]
    return dataclasses.replace(units[0], record=PartialRecord.total(one.record for one in units))


def time_of(line: Mapping[str, Any]) -> float | None:
    """Returns the time of a line, in seconds since 1970; None if it has none."""
    return next((at for at in map(_seconds, map(line.get, _TIMES)) if at is not None), None)


def _seconds(value: Any) -> float | None:
    """Reads a time: seconds since 1970, or ISO 8601."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            at = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
        return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()
    return None


@dataclasses.dataclass(frozen=True)
class Served:
    """The counts of some units, summed per prompt, since answers to the same prompt are correlated.

    Attributes:
      records: one per prompt.
    """

    records: Sequence[PartialRecord]

    @classmethod
    def of(cls, units: Sequence[Unit]) -> Served:
        """Sums units per prompt; a unit without a prompt counts separately."""
        by_prompt: dict[str | int, list[PartialRecord]] = {}
        for number, unit in enumerate(units):
            by_prompt.setdefault(number if unit.prompt is None else unit.prompt, []).append(unit.record)
        return cls([one[0] if len(one) == 1 else PartialRecord.total(one) for one in by_prompt.values()])

    @functools.cached_property
    def total(self) -> PartialRecord:
        """The counts of all lines."""
        return PartialRecord.total(self.records)

    @functools.cached_property
    def block_efficiency(self) -> Interval:
        """Tokens per target call."""
        return paired.of_records(self.records, "block_efficiency")

    @functools.cached_property
    def acceptance(self) -> Interval:
        """Accepted over tested drafts; NaN if none was tested or the counts are unknown."""
        return paired.of_records(self.records, "acceptance_tested")


def windows(units: Sequence[Unit], size: int | None) -> Iterator[tuple[str, Served]]:
    """Yields `FIRST–LAST` and counts of `size` consecutive units (None: all); the last may have fewer."""
    size = size or max(len(units), 1)
    for start in range(0, len(units), size):
        part = units[start : start + size]
        yield f"{start + 1:,}–{start + len(part):,}", Served.of(part)
