"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from distillspec_jax.evaluation import results, summary
from distillspec_jax.evaluation.cells import NO_DRAFTER
from distillspec_jax.evaluation.results import Row


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Prints a table for every group of comparable rows, each followed by its verdicts."""
    console = console or Console(highlight=False)
    for group in results.groups(rows):
        console.print(table(group))
        for temperature in summary.temperatures(group):
            console.print(summary.verdict(group, temperature)["sentence"])


def table(rows: Sequence[Row]) -> Table:
    """One group: a line a drafter, block size and temperature; intervals in brackets."""
    first = rows[0]
    metric = next(iter(first["quality"]), None) if first["quality"] else None
    made = Table(title=f"{first['task']}: {first['prompts']} prompts, target {first['target']}")
    for name in ("T", "γ"):
        made.add_column(name, justify="right")
    made.add_column("drafter")
    for name in ("acceptance", "block efficiency", "speed-up", "MBSU"):
        made.add_column(name, justify="right")
    if metric:
        made.add_column(metric, justify="right")
    for temperature in summary.temperatures(rows):
        lines = [row for row in rows if row["temperature"] == temperature]
        lines.sort(key=lambda row: row["block_size"])  # stable: drafters stay in their order
        for i, row in enumerate(lines):
            last = i + 1 == len(lines) or lines[i + 1]["block_size"] != row["block_size"]
            made.add_row(*_line(row, metric), end_section=last)
    return made


def bracketed(row: Row, field: str) -> str:
    """`2.82 [2.75, 2.90]`; `–` where the row has no such number."""
    value, ends = row[field], row.get(f"{field}_ci95")
    if value is None:
        return "–"
    exact = ends is None or ends[0] == ends[1]
    return f"{value:.2f}" if exact else f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"


def _line(row: Row, metric: str | None) -> list[str]:
    draft = row["drafter"] != NO_DRAFTER
    cells: list[Any] = [
        f"{row['temperature']:g}",
        str(row["block_size"]) if draft else "–",
        row["drafter"] if draft else "no draft",
        bracketed(row, "acceptance_tested"),
        bracketed(row, "block_efficiency"),
        bracketed(row, "speedup"),
        f"{row['mbsu']:.2f}",
    ]
    return [*cells, f"{row['quality'][metric]:.1f}"] if metric else cells
