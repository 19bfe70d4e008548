"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.advice import Advice
from distillspec_jax.evaluation.draft_shapes import ACCEPTANCE, DraftShape
from distillspec_jax.evaluation.held_out import HeldOut
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.result_row import MEASURES, NO_DRAFTER, Measure, ResultRow
from distillspec_jax.evaluation.served_lines import Served
from distillspec_jax.reports import summary


def print_table(rows: Sequence[ResultRow], console: Console | None = None) -> None:
    """Prints a table for every group of comparable rows."""
    console = console or Console(highlight=False)
    for group in results.groups(rows):
        console.print(table(group))


def print_findings(rows: Sequence[ResultRow], console: Console | None = None) -> None:
    """Prints what every group says, a paragraph a temperature."""
    console = console or Console(highlight=False)
    for group in results.groups(rows):
        for temperature in summary.temperatures(group):
            console.print(summary.finding(group, temperature).sentence)


def table(rows: Sequence[ResultRow]) -> Table:
    """Makes the table of one group: a line a drafter, block size and temperature; intervals in brackets."""
    first = rows[0]
    metric = first.primary_metric or ""
    title = (
        f"{first.task}: {first.prompts} prompts, target {first.target}, "
        f"{first.verifier or 'token'} rule, batch {first.batch_size}"
    )
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for name in ("T", "γ"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("drafter", min_width=10, overflow="fold")
    for name in ("acceptance", "block efficiency", "speed-up", *([metric] if metric else [])):
        made.add_column(name, justify="right", no_wrap=True)
    for temperature in summary.temperatures(rows):
        lines = [row for row in rows if row.temperature == temperature]
        lines.sort(key=lambda row: row.block_size)  # stable: drafters stay in their order
        for i, row in enumerate(lines):
            last = i + 1 == len(lines) or lines[i + 1].block_size != row.block_size
            made.add_row(*_line(row, metric), end_section=last)
    return made


def print_advice(advice: Advice, console: Console | None = None) -> None:
    """Prints a cost table and what follows from it."""
    console = console or Console(highlight=False)
    title = (
        f"{advice.target} drafted by {advice.draft}: batch {advice.batch_size}, T = {advice.temperature:g}"
    )
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    for name in ("γ", "round ms", "draft ms", "verify ms", "tokens/round", "speed-up", "break-even"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_row("no draft", f"{advice.plain_ms:.2f}", "–", f"{advice.plain_ms:.2f}", "1.00", "1.00", "–")
    for size in advice.sizes:
        break_even = "never" if size.break_even is None else f"{size.break_even:.2f}"
        times = [f"{ms:.2f}" for ms in (size.round_ms, size.draft_ms, size.verify_ms)]
        numbers = [f"{size.tokens:.2f}", f"{size.speedup:.2f}", break_even]
        made.add_row(str(size.block_size), *times, *numbers)
    console.print(made)
    alone, both = advice.start_ms
    console.print(
        f"starting a batch, prompts read one by one: {alone:.1f} ms, with the draft's {both:.1f} ms; "
        f"acceptance from {advice.prompts} prompts, {advice.tokens} tokens; {advice.device}"
    )
    console.print(advice.sentence)


def print_drafts(target: str, shapes: Sequence[DraftShape], console: Console | None = None) -> None:
    """Prints what drafts of some of a target's layers cost, and could gain."""
    console = console or Console(highlight=False)
    title = f"drafts of {target}: c, and MBSU (at its best γ) by acceptance rate α"
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    made.add_column("draft", overflow="fold")
    for name in ("parameters", "c", *(f"α = {rate:g}" for rate in ACCEPTANCE)):
        made.add_column(name, justify="right", no_wrap=True)
    for shape in shapes:
        gains = [f"{gain:.2f} ({size})" for size, gain in shape.mbsu]
        made.add_row(shape.name, f"{shape.parameters:,}", f"{shape.cost_ratio:.2f}", *gains)
    console.print(made)


def print_held_out(what: str, found: Mapping[str, HeldOut], console: Console | None = None) -> None:
    """Prints models' losses on the same rows; the first is what the others are compared with."""
    console = console or Console(highlight=False)
    first = next(iter(found.values()))
    made = Table(
        title=f"{what}: {len(first.tokens)} rows",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_justify="left",
    )
    made.add_column("model", overflow="fold", min_width=12)
    beyond = ["beyond the first"] if len(found) > 1 else []
    for name in ("tokens", "nats a token", "perplexity", *beyond, *first.corpus):
        made.add_column(name, justify="right")  # an interval may stand below its number
    for name, one in found.items():
        paired = one is not first and np.array_equal(one.tokens, first.tokens)
        more = [_interval(one.loss_beyond(first), ".3f") if paired else "–"] if beyond else []
        more += [f"{value:.1f}" for value in one.corpus.values()]
        loss, perplexity = _interval(one.loss, ".3f"), _interval(one.perplexity, ".4g")
        made.add_row(name, f"{one.tokens.sum():,}", loss, perplexity, *more)
    console.print(made)


def _interval(of: Interval, form: str) -> str:
    value = format(of.value, form)
    return value if of.ends is None else f"{value} ({of.low:{form}}–{of.high:{form}})"


def with_interval(row: ResultRow, measure: Measure) -> str:
    """Writes a number as `2.82 (2.75–2.90)`; `–` where the row has no such number."""
    found = row.interval(measure)
    if np.isnan(found.value):
        return "–"
    if found.ends is None or found.low == found.high:
        return f"{found.value:.2f}"
    return _interval(found, ".2f")


def _line(row: ResultRow, metric: str) -> list[str]:
    draft = row.drafter != NO_DRAFTER
    line = [
        f"{row.temperature:g}",
        str(row.block_size) if draft else "–",
        row.drafter if draft else "no draft",
        *(with_interval(row, measure) for measure in MEASURES),
    ]
    return [*line, f"{row.quality[metric]:.1f}"] if metric else line


def print_served(found: Mapping[str, Sequence[tuple[str, Served]]], console: Console | None = None) -> None:
    """Prints acceptance and block efficiency of files of outputs, window by window."""
    console = console or Console(highlight=False)
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    made.add_column("served", overflow="fold", min_width=12)
    for name in ("lines", "prompts", "tokens", "acceptance", "tokens a call"):
        made.add_column(name, justify="right", no_wrap=True)
    for label, windows in found.items():
        for lines, one in windows:
            rate = _interval(one.acceptance, ".3f") if np.isfinite(one.acceptance.value) else "–"
            numbers = (
                f"{len(one.counts_NC):,}",
                f"{one.tokens:,}",
                rate,
                _interval(one.block_efficiency, ".2f"),
            )
            made.add_row(label, lines, *numbers)
    console.print(made)
