"""Acceptance records, and the sizes of samples, as tables on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console

from distillspec_jax.acceptance import Pace, Record
from distillspec_jax.evaluation.audit import Audit
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.evaluation.sample_size import Requirement
from distillspec_jax.reports.fitted import Column, print_table
from distillspec_jax.terminal import say

_UNKNOWN = "–"
_NUMBERS = (
    *("texts", "rounds", "drafted", "tested", "accepted", "emitted"),
    *("accepted/tested", "accepted/drafted", "accepted length", "tokens/call"),
    *("rounds by accepted drafts", "batch", "timed texts", "tokens/s", "p50 s", "p95 s"),
    *("MBSU, bytes", "MBSU, timed"),
)
"""The columns of `_line`."""


def print_audit(path: str, found: Audit, console: Console | None = None) -> None:
    """Prints the record of every row of a file, and of its outputs together; what is not known is `–`."""
    columns = [Column("drafter", True, True), *map(Column, _NUMBERS)]
    lines = [_line(_name(row), row.record, row.pace, (row.mbsu, row.measured_mbsu)) for row in found.rows]
    if found.outputs.texts:
        lines.append(_line("outputs", found.outputs, None, (None, None)))
    print_table(console or Console(highlight=False), columns, lines, title=path)


def _name(row: ResultRow) -> str:
    return f"{row.drafter}, T = {row.temperature:g}, γ = {row.block_size}, batch {row.batch_size}"


def _line(
    name: str, record: Record, pace: Pace | None, speedups: tuple[float | None, float | None]
) -> list[str]:
    counts = ("texts", "target_calls", "drafted", "tested", "accepted", "emitted_tokens")
    ratios = ("acceptance_tested", "acceptance_drafted", "accepted_length", "block_efficiency")
    histogram = record.histogram
    return [
        name,
        *(_number(getattr(record, count), ",") for count in counts),
        *(_number(record.value(ratio), ".3f") for ratio in ratios),
        _UNKNOWN if histogram is None else " ".join(map(str, histogram)),
        _UNKNOWN if pace is None else str(pace.concurrency),
        _UNKNOWN if pace is None else f"{pace.texts:,}",
        _number(None if pace is None else pace.tokens_per_second, ",.0f"),
        *(_number(None if pace is None else pace.latency(share), ".3g") for share in (0.5, 0.95)),
        *(_number(speedup, ".2f") for speedup in speedups),
    ]


def _number(value: float | None, form: str) -> str:
    return _UNKNOWN if value is None or math.isnan(value) else format(value, form)


def print_broken(broken: Sequence[str], used: int) -> None:
    """Prints what is wrong with the lines of results that were left out, and how many rows are used."""
    for said in broken:
        say(said)
    if broken:
        say(f"{len(broken):,} lines cannot be read and are left out, {used:,} rows are used")


def print_requirements(title: str, found: Sequence[Requirement], console: Console | None = None) -> None:
    """Prints how many prompts each comparison needs, and what the pilot's own could show."""
    columns = [Column("T", is_key=True), Column("γ", is_key=True), Column("drafter", True, True)]
    columns += map(Column, ("measure", "pilot's n", "spread", "shows +", "prompts needed", "at most"))
    lines = [
        [
            f"{one.temperature:g}",
            str(one.block_size),
            one.drafter,
            one.measure,
            f"{one.pilot.units * one.prompts_a_unit:,}",
            f"{one.pilot.spread:.0%}",
            f"{one.visible:.1%}",
            f"{one.needed:,}",
            f"{one.at_most:,}",
        ]
        for one in found
    ]
    print_table(console or Console(highlight=False), columns, lines, title=title)
