"""JSON objects as typed values: each file that a user may have touched is read by the fields of a dataclass.

msgspec checks the types (it is imported in milliseconds and knows dataclasses, so that the class that the
program computes with is the schema); this module says in one line which field of which file is wrong.
"""

from __future__ import annotations

import difflib
import functools
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from distillspec_jax import files
from distillspec_jax.errors import UsageError, shown

Value = TypeVar("Value")

COUNT_LIMIT = 2**40
"""Beyond all that decoding and training count; millions of them add up in 64 bits."""
_LARGEST = 1e30
"""Beyond all that is measured; products of several are still numbers."""

Count = Annotated[int, msgspec.Meta(ge=0, lt=COUNT_LIMIT)]
"""A whole number of things."""

Size = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
"""A whole number of at least one that is an axis of an array, or a position in it."""

Text = Annotated[str, msgspec.Meta(max_length=4096)]
"""A name or a path; a system's longest paths are as long."""

Id = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""A token."""

# What is written as a whole number stays one, so that a line that is written again is the same.
Number = (
    Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
    | Annotated[int, msgspec.Meta(gt=-(2**53), lt=2**53)]
)
"""A finite number."""

Amount = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)] | Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""A finite number of at least 0: seconds, a ratio."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)] | Annotated[int, msgspec.Meta(ge=0, le=1)]
"""A probability, or a part of a whole."""


def read_file(kind: type[Value], path: str | Path, what: str) -> Value:
    """Makes a dataclass of the JSON object that a file holds.

    Args:
      kind, what: see `read`.

    Raises:
      UsageError: the file cannot be read, is not JSON, or see `read`.
    """
    return read(kind, read_object(path, what), str(path), what)


def read_object(path: str | Path, what: str) -> dict[str, Any]:
    """Reads the JSON object that a file holds, for `read`.

    Raises:
      UsageError: the file cannot be read, or is not JSON.
    """
    try:
        return files.read_json(path)
    except UsageError as error:
        said = str(error)
        if not said.startswith(str(path)):  # it could not be opened
            raise
        raise UsageError(f"{path}: not {what}: {said.removeprefix(f'{path}: ')}") from error


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
        raise UsageError(f"{not_one}expected a JSON object, got {type(found).__name__}")
    parts = _parts(kind)  # type: ignore[arg-type]  # classes are hashable
    known = {name: entry for name, entry in found.items() if name in parts}
    for name, (part, several) in parts.items():
        entry = known.get(name)
        if part is None or entry is None:
            continue
        if not several:
            known[name] = read(part, entry, f"{place}, {name}", what)
        elif isinstance(entry, list):
            known[name] = [read(part, one, f"{place}, {name}[{i}]", what) for i, one in enumerate(entry)]
    strange = {name: entry for name, entry in found.items() if name not in parts}
    if "unknown" in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        known["unknown"] = strange
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{not_one}{_explained(error, found, strange=strange)}") from error


def value(kind: Any, found: Any, place: str, field: str) -> Any:
    """Checks one value by a type that msgspec knows.

    Raises:
      UsageError: another type; the message has place and field.
    """
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{place}: {_explained(error, {field: found}, f'.{field}')}") from error


@functools.cache
def _parts(kind: type) -> dict[str, tuple[type | None, bool]]:
    """The fields of a class that a file may have: the class of those that are objects with fields, else None,
    and whether such a field is a list of them.
    """
    hints = typing.get_type_hints(kind)
    found: dict[str, tuple[type | None, bool]] = {}
    for name in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        if name != "unknown":
            kinds = (hints[name], *typing.get_args(hints[name]))
            part = next((one for one in kinds if hasattr(one, "__dataclass_fields__")), None)
            found[name] = part, typing.get_origin(hints[name]) is list
    return found


def _explained(
    error: msgspec.ValidationError, found: Any, prefix: str = "", strange: Iterable[str] = ()
) -> str:
    """msgspec's message, with the field first and the value that was found last.

    Args:
      strange: fields that were found and are not known: one that is missing may be misspelt.
    """
    if isinstance(error.__cause__, UsageError):  # the class itself checks more
        return str(error.__cause__)
    said, _, path = str(error).partition(" - at `$")
    path = prefix + path.rstrip("`")
    if missing := re.fullmatch(r"Object missing required field `(.+)`", said):
        close = difflib.get_close_matches(missing[1], (name[:99] for name in strange), n=1)
        return f"it has no field {missing[1]!r}" + (f", but {close[0]!r}" if close else "")
    # msgspec does not tell which entry of a dict is wrong: then there is no value to show, but its type.
    own, got = re.fullmatch(r"(.*?)(, got `.+`)?", said).groups()  # type: ignore[union-attr]
    got = (got or "") if "[...]" in path else f", got {shown(_at(found, path))}"
    told = f"{own[:1].lower()}{own[1:]}{got}".replace("`", "")
    return f"field {path.lstrip('.') or 'it'}: {told}"


def _at(found: Any, path: str) -> Any:
    """The value at `.a.b[3]`; the innermost one that there is, where a key cannot be told (`[...]`)."""
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        try:
            found = found[key] if key else found[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return found
    return found
