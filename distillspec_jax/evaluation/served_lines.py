"""Acceptance in service, request by request: answers in JSON lines, of `generate` or of another engine."""

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
from distillspec_jax.evaluation.engines.registry import body, engine_of
from distillspec_jax.evaluation.paired import Interval

DUPLICATE = "lines that were there before"
LATE = "lines whose clock went back"
UNTOLD = "answers without counts"
OTHER_DRAFT = "answers of another draft"
OTHER_SAMPLING = "answers of another sampling distribution"

REMEMBERED = 4096
"""Lines among which a repetition is found."""
_TIMES = ("time", "timestamp", "created")
_SAMPLING = ("temperature", "top_k", "top_p")


@dataclasses.dataclass(frozen=True)
class Unit:
    """The answers to one prompt: several samples of a prompt, one after another, are not independent.

    Attributes:
      record: the counts of all of them.
      fields: of the line, to tell segments apart.
      block_size: drafts a round, where it is told.
      prompt: the field `inputs` as JSON, where there is one.
    """

    record: PartialRecord
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    block_size: int | None = None
    prompt: str | None = None


@dataclasses.dataclass
class Answers:
    """Reads answers, and sets aside what is not to be counted.

    Attributes:
      by: fields that tell segments apart.
      sampling: temperature, top_k and top_p that a line may state; others are set aside.
      draft: name of the draft that a line may state.
      block_size: drafts a round that the user vouches for.
      engine: whose answers they are, once one was read.
      latest: seconds of the latest line that told its time.
      seen: digests of the last lines that can be told from each other.
      notes: how many lines were set aside, or were remarkable, by reason.
    """

    by: Sequence[str] = ()
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
    draft: str | None = None
    block_size: int | None = None
    engine: str | None = None
    latest: float = -math.inf
    seen: dict[str, None] = dataclasses.field(default_factory=dict)
    notes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def units(self, lines: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[Unit]:
        """Yields the units of some lines.

        Raises:
          UsageError: a line that is no answer, is another engine's than those before it, or whose counts
            contradict each other; or several sampling distributions of which none was chosen; by place.
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
        if self.draft is not None and line.get("draft", self.draft) != self.draft:
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
        prompt = json.dumps(line["inputs"]) if "inputs" in line else None
        return Unit(answer.record, kept, answer.block_size, prompt)

    def _is_repeated(self, line: Mapping[str, Any], place: str) -> bool:
        """Whether a line was read before; lines without an id and a time cannot be told apart."""
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


def _merged(units: Sequence[Unit]) -> Unit:
    if len(units) == 1:
        return units[0]
    return dataclasses.replace(units[0], record=PartialRecord.total(one.record for one in units))


def time_of(line: Mapping[str, Any]) -> float | None:
    """When a line was written, in seconds since 1970; None where it does not tell."""
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
    """The counts of some units, added up prompt by prompt, since answers to one prompt are alike.

    Attributes:
      records: of each prompt.
    """

    records: Sequence[PartialRecord]

    @classmethod
    def of(cls, units: Sequence[Unit]) -> Served:
        """Adds units up; each without a prompt is one of its own."""
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
        """Tokens a target call."""
        return paired.of_records(self.records, "block_efficiency")

    @functools.cached_property
    def acceptance(self) -> Interval:
        """Accepted over tested drafts; NaN where none was tested, or nobody can tell."""
        return paired.of_records(self.records, "acceptance_tested")


def windows(units: Sequence[Unit], size: int | None) -> Iterator[tuple[str, Served]]:
    """Yields `FIRST–LAST` and counts of `size` units in a row (None: all); the last window may have fewer."""
    size = size or max(len(units), 1)
    for start in range(0, len(units), size):
        part = units[start : start + size]
        yield f"{start + 1:,}–{start + len(part):,}", Served.of(part)
