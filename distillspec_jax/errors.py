"""The error class for mistakes that the user can fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Value = TypeVar("Value")

_LONGEST_NAME = 1_000
_LISTED = 12
"""Choices that a message lists."""
_SHOWN = 100
"""Characters of a value that a message quotes."""


class UsageError(ValueError):
    """An invalid input: one line that names it and the nearest valid choice.

    Command-line tools print its message and exit with status 2, without a traceback.
    """


class Unavailable(UsageError):
    """Something that may pass: a store does not answer, another process is at work in a folder.

    Command-line tools exit with status 75, as a preempted run does, so that launchers start them again.
    """

    exit_status = 75


def shown(found: Any) -> str:
    """Formats a value for an error message."""
    if isinstance(found, (Mapping, list)):
        return "an object" if isinstance(found, Mapping) else f"a list of {len(found)}"
    try:
        text = repr(found)
    except ValueError:  # an integer with more digits than Python converts
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"


def nearest(name: str, choices: Iterable[str]) -> str:
    """Makes the end of an error about an unknown name.

    It is `did you mean 'x'? (valid: a, x)`; where none is near `valid are a, x`; for no name `(valid: a, x)`.
    """
    valid = sorted(set(choices))
    begun = [choice for choice in valid if choice.startswith(name)] if name.strip("-") else []
    # The comparison's time is the product of the lengths: too slow if the name is mistakenly a whole file.
    near = difflib.get_close_matches(name[:_LONGEST_NAME], valid, n=1, cutoff=0.5)
    close = sorted(begun, key=len) or near
    if len(valid) > _LISTED:
        closest = sorted(valid, key=lambda choice: -_closeness(name, choice))[:_LISTED]
        listed = ", ".join([*sorted(closest), "…"])
    else:
        listed = ", ".join(valid)
    if not valid:
        return "there are none"
    if not close:
        return f"valid {'is' if len(valid) == 1 else 'are'} {listed}" if name else f"(valid: {listed})"
    return f"did you mean {close[0]!r}? (valid: {listed})"


def _closeness(name: str, choice: str) -> float:
    return difflib.SequenceMatcher(None, name[:_LONGEST_NAME], choice).ratio()


def find(kind: str, name: str, known: Mapping[str, Value]) -> Value:
    """Looks up a name in a registry; the error calls the name a `kind`.

    Raises:
      UsageError: there is no such name; suggests the nearest.
    """
    if name not in known:
        raise UsageError(f"unknown {kind} {shown(name)}: {nearest(name, known)}")
    return known[name]


def check_number(
    name: str, value: Any, minimum: float, *, most: float | None = None, whole: bool = True
) -> None:
    """Rejects values that are not numbers (or not integers), NaN, and numbers out of bounds.

    Raises:
      UsageError: gives name and value.
    """
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise UsageError(f"{name}={value!r}: must be a {'whole ' if whole else ''}number")
    if not value >= minimum:
        raise UsageError(f"{name}={value}: must be at least {minimum}")
    if most is not None and value > most:
        raise UsageError(f"{name}={value}: must be at most {most}")
