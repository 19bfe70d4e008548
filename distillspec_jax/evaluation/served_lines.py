"""Acceptance in service, from the counts that every line of `distillspec generate` carries."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillspec_jax import bounds, buckets, files, schema
from distillspec_jax.acceptance import COUNTS, REQUIRED, Record
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval


@dataclasses.dataclass(frozen=True)
class Served:
    """The counts of some lines, added up prompt by prompt: several samples of a prompt are not independent.

    Attributes:
      records: of each prompt.
    """

    records: Sequence[Record]

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> Served:
        """Adds up lines as `read` gives them."""
        by_prompt: dict[str, list[Record]] = {}
        for number, line in enumerate(lines):
            by_prompt.setdefault(json.dumps(line.get("inputs", number)), []).append(record(line))
        of_prompts = by_prompt.values()
        return cls([one[0] if len(one) == 1 else Record.total(one) for one in of_prompts])

    @functools.cached_property
    def total(self) -> Record:
        """The counts of all lines."""
        return Record.total(self.records)

    @functools.cached_property
    def block_efficiency(self) -> Interval:
        """Tokens a target call."""
        return paired.of_records(self.records, "block_efficiency")

    @functools.cached_property
    def acceptance(self) -> Interval:
        """Accepted over tested drafts; NaN where none was tested."""
        return paired.of_records(self.records, "acceptance_tested")


def record(line: Mapping[str, Any]) -> Record:
    """The counts of a line as `read` gives it."""
    return Record(**{name: line[name] for name in COUNTS if name in line})


def read(path: str) -> list[dict[str, Any]]:
    """Reads the lines that `generate` wrote or is writing; a last line that is not whole yet is left out.

    Raises:
      UsageError: no such file, no lines, or one that has no such counts; named by its number.
    """
    if not buckets.local(path).is_file():
        raise UsageError(f"there is no file {path}")
    found = list(_lines(path))
    if not found:
        raise UsageError(f"{path} has no whole line")
    return found


def _lines(path: str) -> Iterator[dict[str, Any]]:
    content = buckets.local(path).read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    for place, line in files.json_lines(files.decoded_lines(whole, path), path):
        yield counted(line, place)


def counted(line: dict[str, Any], place: str) -> dict[str, Any]:
    """Hands a line through that has the counts of `generate`.

    Raises:
      UsageError: it has not; by place and count.
    """
    for name in COUNTS:
        if name not in line and name not in REQUIRED:
            continue
        count = line.get(name)
        counts = count if isinstance(count, list) and name.endswith("_at") else [count]
        if len(counts) > bounds.BLOCK_SIZE or not all(map(_is_count, counts)):
            raise UsageError(f"{place} has no count {name!r}, as lines of generate have")
    return line


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < schema.COUNT_LIMIT


def windows(lines: Sequence[dict[str, Any]], size: int | None) -> Iterator[tuple[str, Served]]:
    """Yields `FIRST–LAST` and counts of `size` lines in a row (None: all); the last window may have fewer."""
    size = size or len(lines)
    for start in range(0, len(lines), size):
        part = lines[start : start + size]
        yield f"{start + 1:,}–{start + len(part):,}", Served.of(part)


def latest_whole(windows: Sequence[tuple[str, Served]]) -> tuple[str, Served]:
    """Chooses which of `windows` to judge by: a tail that is still growing says little beside a whole one."""
    growing = len(windows) > 1 and windows[-1][1].total.texts < windows[0][1].total.texts
    return windows[-2] if growing else windows[-1]
