"""Checks that the counts of a file are consistent: rows of a sweep, or lines of `generate`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

from distillspec_jax import files
from distillspec_jax.acceptance import Record, memory_bound_speedup
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.engines import distillspec
from distillspec_jax.evaluation.result_row import ResultRow

_DIGITS = 1e-9
"""Relative tolerance between two floating-point sums."""


@dataclasses.dataclass(frozen=True)
class Audit:
    """The findings in a file.

    Attributes:
      rows: of a sweep.
      outputs: the counts of all lines of `generate`; a line is a text.
      violations: identities that the counts of a line violate, each with its place.
      broken: lines of neither kind, each with its place and the reason.
    """

    rows: list[ResultRow]
    outputs: Record
    violations: list[str]
    broken: list[str]

    @property
    def lines(self) -> int:
        """The number of readable lines."""
        return len(self.rows) + self.outputs.texts

    @property
    def texts(self) -> int:
        """The number of texts counted."""
        return self.outputs.texts + sum(row.prompts for row in self.rows)


def audit(path: str | Path) -> Audit:
    """Checks every line of a file; reports unreadable lines and uses the rest.

    Raises:
      UsageError: the file cannot be read, or has no line of either kind.
    """
    rows: list[ResultRow] = []
    served: list[Record] = []
    violations: list[str] = []
    broken: list[str] = []
    first: dict[Hashable, str] = {}
    for place, found in files.json_lines_apart(path, _read):
        if isinstance(found, UsageError):
            broken.append(str(found))
        elif isinstance(found, ResultRow):
            rows.append(found)
            violations += [f"{place}: {said}" for said in of_row(found)]
            there = first.setdefault((found.identity, found.fingerprint), place)
            if found.fingerprint is not None and there != place:
                violations.append(f"{place}: fingerprint {found.fingerprint} repeats that of {there}")
        else:
            served.append(found)
            violations += [f"{place}: {said}" for said in found.violations()]
    if not rows and not served:
        example = f": {broken[0]}" if broken else ""
        raise UsageError(f"{path} has neither rows of a sweep nor lines of generate{example}")
    return Audit(rows, Record.total(served), violations, broken)


def _read(line: dict[str, Any], place: str) -> ResultRow | Record:
    if "schema_version" in line:
        return ResultRow.from_json(line, place)
    return distillspec.record(distillspec.counted(line, place))


def of_row(row: ResultRow) -> Iterator[str]:
    """Yields a row's inconsistencies: in its counts, prompt by prompt, and in numbers derived from them."""
    records, own = row.per_prompt.records, row.record
    found = False
    for i, record in enumerate(records):
        for said in record.violations(row.block_size):
            found = True
            yield f"prompt {i}: {said}"
    if not found:
        yield from own.violations(row.block_size)
    for name in ("emitted_tokens", "target_calls", "tested", "accepted", "drafted"):
        told, summed = getattr(row, name), getattr(own, name)
        if told is not None and summed is not None and told != summed:
            yield f"{name} is {told:,}, but {summed:,} over prompts"
    if row.max_new_tokens is not None and (longest := max(row.per_prompt.emitted)) > row.max_new_tokens:
        yield f"a prompt emitted {longest:,} tokens of at most {row.max_new_tokens:,}"
    for name, told, formed in _numbers(row, own):
        same = told is None and math.isnan(formed)
        if not same and (told is None or not math.isclose(told, formed, rel_tol=_DIGITS)):
            shown = "null" if told is None else f"{told:g}"
            yield f"{name} is {shown}, but its counts give {formed:g}"


def _numbers(row: ResultRow, record: Record) -> Iterator[tuple[str, float | None, float]]:
    """Yields each number of a row with the value computed from its counts."""
    yield "acceptance_tested", row.acceptance_tested, record.value("acceptance_tested")
    yield "block_efficiency", row.block_efficiency, record.value("block_efficiency")
    if row.overlap is not None:
        yield "overlap", row.overlap, record.value("overlap")
    shares = zip(row.acceptance_joint, record.acceptance_joint or (), strict=False)
    for i, (told, formed) in enumerate(shares):
        yield f"acceptance_joint[{i}]", told, formed
    if row.mbsu is not None and row.cost_ratio is not None:
        mbsu = memory_bound_speedup(row.block_efficiency, row.cost_ratio, row.block_size)
        yield "mbsu", row.mbsu, mbsu
    if row.timing is not None and row.speedup is not None and row.is_drafted:
        timed = row.timing
        plain = math.fsum(timed.baseline_seconds) * sum(timed.emitted)
        ours = math.fsum(timed.seconds) * sum(timed.baseline_emitted)
        yield "speedup", row.speedup, plain / ours if ours else math.nan
