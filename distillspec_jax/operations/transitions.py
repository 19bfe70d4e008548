"""Transitions: every change of the drafts that a registry serves. The last one is the state in force."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from distillspec_jax import files, schema
from distillspec_jax.errors import UsageError
from distillspec_jax.schema import Amount, Share, Size, Text

VERSION = 1
_WHAT = "a registry's state"

Action = Literal["init", "promote", "roll back", "start", "advance", "withdraw", "escalate", "resume"]


@dataclasses.dataclass(frozen=True)
class ServingState:
    """The drafts in service.

    Attributes:
      stable: the version that serves.
      candidate: the version on trial; None: there is none.
      share: of the requests, in [0, 1], that the candidate serves.
      revision: number of the transition that led to this state, from 1.
    """

    stable: str
    candidate: str | None
    share: float
    revision: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transition:
    """A change of the serving drafts.

    Attributes:
      revision: its number, from 1.
      time: seconds since 1970.
      action: the kind of change.
      reason: in words.
      stable, candidate, share: in force from this transition on, see `ServingState`.
      details: for a rollout, its settings and the evidence for the step.
      unknown: fields of newer releases.

    Raises:
      UsageError: the share is outside [0, 1] or has no candidate, or the candidate is the stable version.
    """

    revision: Size
    time: Amount
    action: Action
    reason: str
    stable: Text
    candidate: Text | None = None
    share: Share = 0.0
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"share={self.share}: must lie in [0, 1]")
        if self.candidate is None and self.share:
            raise UsageError(f"share={self.share}: there is no candidate to have it")
        if self.candidate == self.stable:
            raise UsageError(f"version {self.stable} serves already: it cannot be its own candidate")

    @property
    def serving(self) -> ServingState:
        """The drafts in service from this transition on."""
        return ServingState(self.stable, self.candidate, float(self.share), self.revision)


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """All transitions of a registry, and its constant facts.

    Attributes:
      target, target_fingerprint, vocabulary: of the drafts' target; see `lineage.Lineage`.
      transitions: the last is in force.
      unknown: fields of newer releases.
    """

    target: Text
    target_fingerprint: Text
    vocabulary: Text | None
    transitions: list[Transition]
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def last(self) -> Transition:
        """The transition in force."""
        return self.transitions[-1]

    def before(self) -> str | None:
        """Returns the previous stable version, ignoring those rolled back from; None if there is none.

        Rolling back twice goes back two versions, never to the one just left.
        """
        stack: list[str] = []
        for one in self.transitions:
            if one.action == "roll back" and stack[-2:-1] == [one.stable]:
                stack.pop()
            elif stack[-1:] != [one.stable]:
                stack.append(one.stable)
        return stack[-2] if len(stack) > 1 else None

    def rollout(self) -> Sequence[Transition]:
        """Returns the transitions of the rollout in progress, its start first; empty if there is none."""
        if self.last.candidate is None:
            return ()
        start = max(i for i, one in enumerate(self.transitions) if one.action == "start")
        return self.transitions[start:]


def read(path: Path) -> History:
    """Reads a registry's state.

    Raises:
      UsageError: there is none, or it is damaged; names file and field.
    """
    found = schema.read_object(path, _WHAT)
    if (version := found.pop("registry_version", None)) != VERSION:
        raise UsageError(f"{path}: not {_WHAT}: registry version {version!r}, this release reads {VERSION}")
    history = schema.read(History, found, str(path), _WHAT)
    if not history.transitions:
        raise UsageError(f"{path}: not {_WHAT}: it has no transitions")
    for number, one in enumerate(history.transitions, start=1):
        if one.revision != number:
            raise UsageError(
                f"{path}, transitions[{number - 1}]: revision {one.revision}, must be {number}: somebody has "
                "changed the file"
            )
    if history.last.candidate is not None and not any(one.action == "start" for one in history.transitions):
        raise UsageError(f"{path}: not {_WHAT}: a candidate without a start")
    return history


def write(path: Path, history: History) -> None:
    """Writes a registry's state by one atomic rename."""
    fields = dataclasses.asdict(history)
    for one in (fields, *fields["transitions"]):
        one |= one.pop("unknown")
    files.write_json(path, {"registry_version": VERSION, **fields}, is_state)


def is_state(path: Path) -> bool:
    """Tells whether a file is a registry's state."""
    return "registry_version" in files.read_json(path)
