"""The state of `watch` between two calls: one file, written atomically as the last step, by one process.

A killed call leaves the file unchanged, and the next call reads the same lines again with the same result: no
line is lost or counted twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distillspec_jax import files, locks, outputs, schema
from distillspec_jax.errors import UsageError, shown
from distillspec_jax.evaluation.alarm import Evidence
from distillspec_jax.evaluation.served_files import Beginning

VERSION = 1
_WHAT = "the state of a watch"
POINTS = 200
"""Maximum points of a history; beyond it, neighbouring points are merged."""


@dataclasses.dataclass
class Segment:
    """A part of the traffic.

    Attributes:
      name: `field=value`, or `all`.
      evidence: against it.
      units: number with drafts; they are played if there is something to compare with.
      top, bottom: sums of the measure's numerator and denominator.
      warm_up: denominators of the first intervals, which are not played.
    """

    name: str
    evidence: Evidence = dataclasses.field(default_factory=Evidence)
    units: int = 0
    top: float = 0.0
    bottom: float = 0.0
    warm_up: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Point:
    """A section of a stream: units at its end, sums within it, and evidence at its end."""

    units: int
    top: float
    bottom: float
    evidence: float


@dataclasses.dataclass
class Stream:
    """A stream as read so far; see `served_lines.Answers`, `differences.Differences`.

    Attributes:
      intervals: whether units are intervals between scrapes; None before the first.
      measure: the watched ratio; None before the first unit.
      block_size: drafts per round, if known.
      texts: number answered, as far as known.
      values: of counters, by series.
      draft: version that the answers state, if they do and all must have it.
    """

    label: str
    beginnings: list[Beginning] = dataclasses.field(default_factory=list)
    engine: str | None = None
    intervals: bool | None = None
    measure: str | None = None
    block_size: int | None = None
    texts: int = 0
    sampling: dict[str, float] = dataclasses.field(default_factory=dict)
    draft: str | None = None
    latest: float | None = None
    seen: list[str] = dataclasses.field(default_factory=list)
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: dict[str, int] = dataclasses.field(default_factory=dict)
    segments: list[Segment] = dataclasses.field(default_factory=list)
    history: list[Point] = dataclasses.field(default_factory=list)

    def segment(self, name: str) -> Segment:
        """Returns a segment, adding it if necessary."""
        found = next((one for one in self.segments if one.name == name), None)
        if found is None:
            found = Segment(name)
            self.segments.append(found)
        return found

    def add(self, point: Point) -> None:
        """Adds a point to the history."""
        self.history.append(point)
        if len(self.history) > POINTS:
            pairs = zip(self.history[::2], self.history[1::2], strict=False)
            joined = [
                Point(b.units, a.top + b.top, a.bottom + b.bottom, max(a.evidence, b.evidence))
                for a, b in pairs
            ]
            self.history = [*joined, *self.history[len(joined) * 2 :]]


@dataclasses.dataclass
class State:
    """All streams of a watch, and the settings that their evidence depends on."""

    settings: dict[str, Any]
    streams: list[Stream] = dataclasses.field(default_factory=list)

    def stream(self, label: str) -> Stream:
        """Returns a stream, adding it if necessary."""
        found = next((one for one in self.streams if one.label == label), None)
        if found is None:
            found = Stream(label)
            self.streams.append(found)
        return found


@contextlib.contextmanager
def kept(path: str | None, settings: dict[str, Any]) -> Iterator[State]:
    """Opens the state in a file, and writes it when the context exits without error.

    Args:
      path: of the file, which need not exist; None: the state is not kept.
      settings: must equal those that the file was created with.

    Raises:
      UsageError: another process uses the file, another command wrote it, or the settings differ.
    """
    if path is None:
        yield State(settings)
        return
    real = outputs.check(path, is_state)
    if outputs.is_special(path):
        raise UsageError(f"{path}: the state must be a file, since it is read again")
    with files.saving(path):
        descriptor = os.open(real, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        taken = locks.lock(descriptor) is False
        if taken or not os.path.samestat(os.fstat(descriptor), real.stat()):
            raise UsageError(f"{path}: another watch is using it")
        state = _read(path) if os.fstat(descriptor).st_size else State(settings)
        for name, value in settings.items():
            if state.settings.get(name) != value:
                raise UsageError(
                    f"{path} was begun with {name} {shown(state.settings.get(name))}, not {shown(value)}: "
                    "move it away to begin anew"
                )
        yield state
        fields = {"watch_version": VERSION, **dataclasses.asdict(state)}
        files.write_whole(path, files.as_json(fields) + "\n", is_state)
    finally:
        if not os.fstat(descriptor).st_size:  # created here but not written
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), real.stat()):
                    real.unlink()
        os.close(descriptor)


def _read(path: str) -> State:
    found = schema.read_object(path, _WHAT)
    if (version := found.pop("watch_version", None)) != VERSION:
        raise UsageError(f"{path}: not {_WHAT}: version {shown(version)}, this release reads {VERSION}")
    return schema.read(State, found, path, _WHAT)


def is_state(path: Path) -> bool:
    """Tells whether a file is the state of a watch."""
    return "watch_version" in files.read_json(path)
