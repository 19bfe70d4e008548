"""Training logs: `metrics.jsonl`, one line a report, as training writes it and reports read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from distillspec_jax import files, outputs, schema
from distillspec_jax.errors import UsageError

_VALUE = float | Annotated[int, msgspec.Meta(gt=-(2**53), lt=2**53)] | None
"""A loss may grow as large as it likes."""


@dataclasses.dataclass(frozen=True)
class _Report:
    """The fields of a line that are no values of metrics."""

    step: schema.Count
    split: str = ""


def line(step: int, split: str, values: Mapping[str, float]) -> str:
    """Writes a report as a line, without its end; what is no number is null."""
    return files.as_json({"step": step, "split": split, **values})


def parse(line: str, place: str) -> dict[str, Any]:
    """Reads a line; what is no number (NaN, in lines that 0.1 wrote) is None.

    Args:
      place: where it stands (`file:line`), for errors.

    Raises:
      UsageError: it is no such line, or a value is no number.
    """
    found = files.parse_json_object(line, place, gaps=True)
    _ = schema.read(_Report, found, place, "a line of metrics.jsonl")
    for name, value in found.items():
        if name not in _Report.__dataclass_fields__:
            schema.value(_VALUE, value, place, name)
    return found


def read(path: str | Path) -> list[dict[str, Any]]:
    """Reads a log, which may be that of a run under way: a last line that is not whole is left out.

    Raises:
      UsageError: it cannot be read, or see `parse`.
    """
    outputs.reads(path)
    *whole, last = files.read_lines(path)
    found = [parse(one, f"{path}:{number}") for number, one in enumerate(whole, start=1) if one.strip()]
    try:
        return [*found, parse(last, "")]
    except UsageError:  # cut short by a kill, or nothing
        return found
