"""Training logs: `metrics.jsonl`, one line per report, which training writes and reports read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from distillspec_jax import files, outputs, schema
from distillspec_jax.errors import UsageError

_VALUE = float | Annotated[int, msgspec.Meta(gt=-(2**53), lt=2**53)] | None
"""Floats are unbounded, because a loss may become arbitrarily large."""


@dataclasses.dataclass(frozen=True)
class _Report:
    """The fields of a line that are not metrics."""

    step: schema.Count
    split: str = ""


def line(step: int, split: str, values: Mapping[str, float]) -> str:
    """Formats a report as a line, without a newline; NaN and infinities become null."""
    return files.as_json({"step": step, "split": split, **values})


def parse(line: str, place: str) -> dict[str, Any]:
    """Parses a line; NaN and infinities (which 0.1 wrote) become None.

    Args:
      place: its location (`file:line`), for errors.

    Raises:
      UsageError: the line is malformed, or a value is not a number.
    """
    found = files.parse_json_object(line, place, gaps=True)
    _ = schema.read(_Report, found, place, "a line of metrics.jsonl")
    for name, value in found.items():
        if name not in _Report.__dataclass_fields__:
            schema.value(_VALUE, value, place, name)
    return found


def read(path: str | Path) -> list[dict[str, Any]]:
    """Reads a log, also of a running job: an incomplete last line is skipped.

    Raises:
      UsageError: the log cannot be read, or see `parse`.
    """
    outputs.reads(path)
    *whole, last = files.read_lines(path)
    found = [parse(one, f"{path}:{number}") for number, one in enumerate(whole, start=1) if one.strip()]
    try:
        return [*found, parse(last, "")]
    except UsageError:  # truncated by a kill, or empty
        return found
