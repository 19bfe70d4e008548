"""Acceptance in service, from the counts that every line of `distillspec generate` carries."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillspec_jax import files, schema
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval

COUNTS = ("emitted_tokens", "target_calls", "tested", "accepted")


@dataclasses.dataclass(frozen=True)
class Served:
    """The counts of some lines, added up prompt by prompt: several samples of a prompt are not independent.

    Attributes:
      lines: how many.
      counts_NC: of each prompt, in the order of `COUNTS`.
    """

    lines: int
    counts_NC: np.ndarray

    @classmethod
    def of(cls, lines: Sequence[Mapping[str, Any]]) -> Served:
        """Adds up lines as `read` gives them."""
        by_prompt: dict[str, np.ndarray] = {}
        for number, line in enumerate(lines):
            prompt = json.dumps(line.get("inputs", number))
            counts_C = np.array([line[name] for name in COUNTS], np.int64)
            by_prompt[prompt] = by_prompt.get(prompt, 0) + counts_C
        return cls(len(lines), np.stack(list(by_prompt.values())))

    @property
    def tokens(self) -> int:
        return int(self.counts_NC[:, 0].sum())

    @property
    def tested(self) -> int:
        return int(self.counts_NC[:, 2].sum())

    @functools.cached_property
    def block_efficiency(self) -> Interval:
        """Tokens a target call."""
        return paired.ratio(self.counts_NC[:, 0], self.counts_NC[:, 1])

    @functools.cached_property
    def acceptance(self) -> Interval:
        """Accepted over tested drafts; NaN where none was tested."""
        return paired.ratio(self.counts_NC[:, 3], self.counts_NC[:, 2])


def read(path: str) -> list[dict[str, Any]]:
    """Reads the lines that `generate` wrote or is writing; a last line that is not whole yet is left out.

    Raises:
      UsageError: no such file, no lines, or one that has no such counts; named by its number.
    """
    if not Path(path).is_file():
        raise UsageError(f"there is no file {path}")
    found = list(_lines(path))
    if not found:
        raise UsageError(f"{path} has no whole line")
    return found


def _lines(path: str) -> Iterator[dict[str, Any]]:
    content = Path(path).read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    for place, line in files.json_lines(files.decoded_lines(whole, path), path):
        for name in COUNTS:
            count = line.get(name)
            if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < schema.COUNT_LIMIT:
                raise UsageError(f"{place} has no count {name!r}, as lines of generate have")
        yield line


def windows(lines: Sequence[dict[str, Any]], size: int | None) -> Iterator[tuple[str, Served]]:
    """Yields `FIRST–LAST` and counts of `size` lines in a row (None: all); the last window may have fewer."""
    size = size or len(lines)
    for start in range(0, len(lines), size):
        part = lines[start : start + size]
        yield f"{start + 1:,}–{start + len(part):,}", Served.of(part)


def latest_whole(windows: Sequence[tuple[str, Served]]) -> tuple[str, Served]:
    """Chooses which of `windows` to judge by: a tail that is still growing says little beside a whole one."""
    growing = len(windows) > 1 and windows[-1][1].lines < windows[0][1].lines
    return windows[-2] if growing else windows[-1]
