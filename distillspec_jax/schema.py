"""JSON objects as typed values: each file that a user may have touched is read by the fields of a dataclass.

msgspec checks the types (it is imported in milliseconds and knows dataclasses, so that the class that the
program computes with is the schema); this module says in one line which field of which file is wrong.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import msgspec

from distillspec_jax.errors import UsageError, nearest

Value = TypeVar("Value")

COUNT_LIMIT = 2**40
"""Beyond all that decoding and training count; millions of them add up in 64 bits."""

Count = Annotated[int, msgspec.Meta(ge=0, lt=COUNT_LIMIT)]
"""A whole number of things."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""A probability, or a part of a whole."""

_SHOWN = 60
"""Characters of a value that a message quotes."""


def read(kind: type[Value], found: Any, place: str, what: str = "") -> Value:
    """Makes a dataclass of a JSON object.

    Args:
      kind: the class; fields without a default must be there. Those that it does not know (of a newer
        release) go to its field `unknown` where it has one, else they are left out.
      found: the parsed object.
      place: where it stands (`file:line`), for errors.
      what: the thing that it should have been, `a row of a sweep`.

    Raises:
      UsageError: the first field that is missing or of another type, with what was found there and what is
        allowed.
    """
    not_one = f"{place}: not {what}: " if what else f"{place}: "
    if not isinstance(found, Mapping):
        raise UsageError(f"{not_one}expected a JSON object, got {_shown(found)}")
    fields = _fields(kind)
    known = {name: value for name, value in found.items() if name in fields and name != "unknown"}
    if "unknown" in fields:
        known["unknown"] = {name: value for name, value in found.items() if name not in known}
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:
        raise UsageError(not_one + _explained(str(error), found)) from error
    except UsageError as error:  # the class itself checks more
        raise UsageError(f"{place}: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{not_one}it is nested too deeply") from error


def value(kind: Any, found: Any, place: str, field: str) -> Any:
    """Checks one value by a type that msgspec knows.

    Raises:
      UsageError: another type; the message has place and field.
    """
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{place}: " + _explained(str(error), {field: found}, f".{field}")) from error


@functools.cache
def _fields(kind: type) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind))  # type: ignore[arg-type]


def _explained(message: str, found: Any, prefix: str = "") -> str:
    """msgspec's message, with the field first and the value that was found last."""
    said, _, path = message.partition(" - at `$")
    path = prefix + path.rstrip("`")
    if missing := re.fullmatch(r"Object missing required field `(.+)`", said):
        inside = f" in {path.lstrip('.')}" if path else ""
        there = _at(found, path)
        near = f": {nearest(missing[1], map(str, there))}" if isinstance(there, Mapping) and there else ""
        return f"it has no field {missing[1]!r}{inside}{near}"
    said = re.sub(r", got `\w+`$", "", said).replace("`", "")
    name = path.lstrip(".") or "it"
    return f"field {name}: {said[:1].lower()}{said[1:]}, got {_shown(_at(found, path))}"


def _at(found: Any, path: str) -> Any:
    """The value at `.a.b[3]`; the innermost one that there is, where a key cannot be told (`[...]`)."""
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        try:
            found = found[key] if key else found[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return found
    return found


def _shown(found: Any) -> str:
    if isinstance(found, (dict, list)):
        return "an object" if isinstance(found, dict) else f"a list of {len(found)}"
    try:
        text = repr(found)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text):,} characters)"
