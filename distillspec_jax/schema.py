"""Reads JSON objects as dataclasses: every file that a user may have edited is checked field by field.

msgspec checks the types (it imports in milliseconds and supports dataclasses, so that the program's own
classes are the schema); this module reports in one line which field of which file is wrong.
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
"""Larger than any count in decoding and training; the sum of millions of them fits in 64 bits."""
_LARGEST = 1e30
"""Larger than any measurement; products of several are still finite."""

Count = Annotated[int, msgspec.Meta(ge=0, lt=COUNT_LIMIT)]
"""A non-negative integer count."""

Size = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]
"""An integer of at least 1: the size of an array's axis, or a position in it."""

Text = Annotated[str, msgspec.Meta(max_length=4096)]
"""A name or a path; the limit is the system's maximum path length."""

Id = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
"""A token id."""

# Integers stay integers, so that rewriting a line does not change it.
Number = (
    Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]
    | Annotated[int, msgspec.Meta(gt=-(2**53), lt=2**53)]
)
"""A finite number."""

Amount = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)] | Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
"""A finite number of at least 0: seconds, a ratio."""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)] | Annotated[int, msgspec.Meta(ge=0, le=1)]
"""A probability, or a fraction."""


def read_file(kind: type[Value], path: str | Path, what: str) -> Value:
    """Makes a dataclass from the JSON object in a file.

    Args:
      kind, what: see `read`.

    Raises:
      UsageError: the file cannot be read, is not JSON, or see `read`.
    """
    return read(kind, read_object(path, what), str(path), what)


def read_object(path: str | Path, what: str) -> dict[str, Any]:
    """Reads the JSON object in a file, for `read`.

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
    """Makes a dataclass from a JSON object.

    Args:
      kind: the class; fields without a default are required. Unknown fields (of a newer release) go into its
        field `unknown` if it has one; otherwise they are dropped.
      found: the parsed object.
      place: its location (`file:line`), for errors.
      what: description of the expected object, e.g. `a row of a sweep`.

    Raises:
      UsageError: a field is missing or has the wrong type; gives the first, its value and the valid values.
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
    """Checks one value against a type that msgspec supports.

    Raises:
      UsageError: the value does not match; the message has place and field.
    """
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{place}: {_explained(error, {field: found}, f'.{field}')}") from error


@functools.cache
def _parts(kind: type) -> dict[str, tuple[type | None, bool]]:
    """Maps each field that a file may have to its dataclass, if any, and whether it is a list of them."""
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
    """Rewrites msgspec's message, with the field first and the found value last.

    Args:
      strange: unknown fields that were found: one may be the misspelt name of a missing field.
    """
    if isinstance(error.__cause__, UsageError):  # raised by the class's own checks
        return str(error.__cause__)
    said, _, path = str(error).partition(" - at `$")
    path = prefix + path.rstrip("`")
    if missing := re.fullmatch(r"Object missing required field `(.+)`", said):
        close = difflib.get_close_matches(missing[1], (name[:99] for name in strange), n=1)
        return f"it has no field {missing[1]!r}" + (f", but {close[0]!r}" if close else "")
    # msgspec does not report which entry of a dict is wrong; then only the value's type can be shown.
    own, got = re.fullmatch(r"(.*?)(, got `.+`)?", said).groups()  # type: ignore[union-attr]
    got = (got or "") if "[...]" in path else f", got {shown(_at(found, path))}"
    told = f"{own[:1].lower()}{own[1:]}{got}".replace("`", "")
    return f"field {path.lstrip('.') or 'it'}: {told}"


def _at(found: Any, path: str) -> Any:
    """Returns the value at `.a.b[3]`; if a key is unknown (`[...]`), the innermost value before it."""
    for key, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        try:
            found = found[key] if key else found[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            return found
    return found
