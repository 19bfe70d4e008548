"""`results.jsonl`: one measured cell a line, whole lines only, each saying all that is needed to read it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillspec_jax import files
from distillspec_jax.errors import UsageError

SCHEMA_VERSION = 1

Row = dict[str, Any]

_REQUIRED = (
    *(
        "schema_version",
        "task",
        "target",
        "drafter",
        "temperature",
        "block_size",
        "prompts",
        "prompts_digest",
    ),
    *("acceptance_tested", "acceptance_joint", "block_efficiency", "speedup", "quality", "per_prompt"),
    *("top_k", "top_p", "batch_size", "device"),
)
_GROUP = (
    *("task", "split", "target", "verifier", "top_k", "top_p", "batch_size", "prompts_digest"),
    *("device", "dtype"),  # rows of the first releases have no dtype: all were float32
)
_IDENTITY = (*_GROUP, "drafter", "temperature", "block_size")


def read(paths: Sequence[str | Path]) -> list[Row]:
    """Every row of some files, in their order.

    Raises:
      UsageError: an unreadable file, a malformed line or a line of another schema, by file and line.
    """
    return [row for path in paths for row in _parse(Path(path), _lines(Path(path)))]


def reopen(path: Path) -> list[Row]:
    """The rows of a file that is to be continued; a last line that a kill cut short is cut off the file."""
    if not path.exists():
        return []
    lines = _lines(path)
    if lines and not lines[-1].endswith("\n"):
        with files.saving(path.parent), path.open("r+b") as file:
            file.truncate(sum(len(line.encode()) for line in lines[:-1]))
        lines = lines[:-1]
    return _parse(path, lines)


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Adds one whole line.

    Raises:
      UsageError: it cannot be written (a full disk); what was written of the line is taken back.
    """
    line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    with files.saving(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            with contextlib.suppress(OSError), path.open("r+b") as file:
                file.truncate(size)
            raise


def latest(rows: Iterable[Row]) -> list[Row]:
    """Of several measurements of one cell (a draft that was trained again), the last."""
    found: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = tuple(row.get(field) for field in _IDENTITY)
        found.pop(key, None)  # so that it moves to its new place
        found[key] = row
    return list(found.values())


def groups(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows by what they were measured on, so that those of one group compare; latest ones only."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in latest(rows):
        found.setdefault(tuple(row.get(field) for field in _GROUP), []).append(row)
    return list(found.values())


def drafters(rows: Iterable[Row]) -> list[str]:
    """The labels of the drafters, in order of their first appearance."""
    return list(dict.fromkeys(row["drafter"] for row in rows if row["block_size"] > 0))


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", newline="\n") as file:  # at \n alone: JSON strings may hold U+2028
            return file.readlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text, so no results.jsonl") from error
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _parse(path: Path, lines: list[str]) -> list[Row]:
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            row = json.loads(line.rstrip("\n"))
        except json.JSONDecodeError as error:
            raise UsageError(f"{place}: malformed JSON ({error.msg}, column {error.colno})") from error
        if not isinstance(row, dict):
            raise UsageError(f"{place}: expected a JSON object, got {type(row).__name__}")
        missing = [field for field in _REQUIRED if field not in row]
        if missing:
            raise UsageError(f"{place}: not a row of a sweep: it has no field {missing[0]!r}")
        if row["schema_version"] != SCHEMA_VERSION:
            raise UsageError(
                f"{place}: schema version {row['schema_version']!r}, this release reads {SCHEMA_VERSION}"
            )
        rows.append(row)
    return rows
