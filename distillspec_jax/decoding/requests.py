"""Request files: JSON lines in, JSON lines out, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distillspec_jax.checkpoint import saving
from distillspec_jax.decoding.text import Generation
from distillspec_jax.errors import UsageError, nearest


@dataclasses.dataclass(frozen=True)
class Request:
    """A line of a request file.

    Attributes:
      inputs: the raw text.
      where: `file:line`, for errors.
      extra: the line's other fields, handed through to the output.
    """

    inputs: str
    where: str
    extra: dict[str, Any]


def read_requests(path: str, field: str = "inputs") -> list[Request]:
    """Reads `{"inputs": ...}` lines from a file, or from standard input if `path` is `-`.

    Raises:
      UsageError: names the file and line of malformed JSON, a missing field, or a field that is no text.
    """
    try:
        content = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text (byte {error.start})") from error
    found = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{where}: malformed JSON ({error.msg}, column {error.colno})") from error
        if not isinstance(row, dict):
            raise UsageError(f"{where}: expected a JSON object, got {type(row).__name__}")
        if field not in row:
            raise UsageError(f"{where}: no field {field!r}: {nearest(field, map(str, row))}")
        if not isinstance(row[field], str):
            raise UsageError(f"{where}: field {field!r} must be text, got {type(row[field]).__name__}")
        found.append(Request(row.pop(field), where, row))
    if not found:
        raise UsageError(f"{path}: holds no requests (one JSON object a line is expected)")
    return found


def write_line(request: Request, generation: Generation) -> str:
    """One line of output: the request's own fields, then the generation's."""
    return json.dumps({**request.extra, **dataclasses.asdict(generation)}, ensure_ascii=False)


@contextlib.contextmanager
def output_lines(path: str) -> Iterator[Callable[[str], None]]:
    """A writer of lines to a file or, for `-`, to standard output.

    A file appears under its own name only when every line is written; until then it is `PATH.partial`.
    """
    if path == "-":
        yield lambda line: print(line, flush=True)
        return
    partial = Path(path + ".partial")
    with saving(path):
        with partial.open("w", encoding="utf-8") as file:

            def write(line: str) -> None:
                file.write(line + "\n")
                file.flush()

            yield write
        os.replace(partial, path)
