"""Reads the new part of files that grow and may be rotated, copied and overwritten.

A file is identified by the bytes already read: a file that begins with exactly these bytes is read from there
on, whatever its name. An incomplete last line is left for the next time.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillspec_jax import files, outputs, schema
from distillspec_jax.buckets import copies
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.engines import scrapes
from distillspec_jax.evaluation.engines.engine import Engine
from distillspec_jax.evaluation.engines.scrapes import Scrape

KEPT = 16
"""Number of files to remember."""


@dataclasses.dataclass(frozen=True)
class Beginning:
    """The part of a file that was read: numbers of bytes and lines, with their digest."""

    size: schema.Count
    lines: schema.Count
    digest: str


@dataclasses.dataclass(frozen=True)
class News:
    """The new part of a file.

    Attributes:
      name: of the file.
      lines: complete new lines, numbered from `first` in the file.
      first: number of the first line.
      before, now: the part read earlier, and the part read by now.
    """

    name: str
    lines: Sequence[str]
    first: int
    before: Beginning
    now: Beginning


def news(path: str, known: Sequence[Beginning]) -> News:
    """Reads the new part of a file.

    Raises:
      UsageError: there is no such file, or it is not UTF-8.
    """
    place = copies.local(path)
    if not place.is_file():
        raise UsageError(f"there is no file {path}")
    outputs.reads(path)
    content = place.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content) and _is_query(content):
        content = whole = content + b"\n"  # Prometheus writes JSON without a final newline
    start = Beginning(0, 0, "")
    for one in known:
        if start.size < one.size <= len(whole) and _digest(whole[: one.size]) == one.digest:
            start = one
    lines = files.decoded_lines(whole[start.size :], path, start.lines + 1)[:-1]
    now = Beginning(len(whole), start.lines + len(lines), _digest(whole))
    return News(path, lines, start.lines + 1, start, now)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def remembered(known: Sequence[Beginning], found: News) -> list[Beginning]:
    """Replaces a file's earlier beginning by the one just read; drops the oldest of too many files."""
    others = (one for one in known if one not in (found.before, found.now))
    return [*others, found.now][-KEPT:]


def objects(found: News) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields place and object of every line.

    Raises:
      UsageError: the JSON is malformed; names file and line.
    """
    for number, line in enumerate(found.lines, start=found.first):
        if line.strip():
            place = f"{found.name}:{number}"
            yield place, files.parse_json_object(line, place)


def counters(found: News, model: str | None) -> tuple[Engine, list[Scrape]] | None:
    """Reads scrapes of counters; None for a file of answers.

    Args:
      model: see `scrapes.of_text`.

    Raises:
      UsageError: see `scrapes`.
    """
    first = next((line.strip() for line in found.lines if line.strip()), "")
    if not first:
        return None
    if not first.startswith(("{", "[")):
        return scrapes.of_text(found.lines, found.name, model, found.first)
    query = _query("\n".join(found.lines))
    return None if query is None else scrapes.of_query(query, found.name, model)


def _query(text: str) -> Mapping[str, Any] | None:
    """Parses a range query's JSON, on one or several lines; None for JSON lines, which are several values."""
    try:
        whole = files.parse_json(text, "")
    except UsageError:
        return None
    return whole if isinstance(whole, dict) and scrapes.is_query(whole) else None


def _is_query(content: bytes) -> bool:
    return content[:1] == b"{" and _query(content.decode("utf-8", "replace")) is not None
