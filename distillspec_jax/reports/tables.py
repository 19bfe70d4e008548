"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.console import Console

from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.advice import Advice
from distillspec_jax.evaluation.draft_shapes import ACCEPTANCE, DraftShape
from distillspec_jax.evaluation.held_out import HeldOut
from distillspec_jax.evaluation.result_row import MEASURES, NO_DRAFTER, Measure, ResultRow
from distillspec_jax.evaluation.roofline import Prediction
from distillspec_jax.evaluation.served_lines import Served
from distillspec_jax.evaluation.verdicts import Verdict
from distillspec_jax.reports import summary
from distillspec_jax.reports.fitted import Column, print_text
from distillspec_jax.reports.fitted import print_table as print_fitted


def print_table(rows: Sequence[ResultRow], console: Console | None = None) -> None:
    """Prints a table for every group of comparable rows: a line a cell, intervals in brackets."""
    console = console or _console()
    for group in results.groups(rows):
        _print_group(group, console)


def print_findings(
    rows: Sequence[ResultRow], console: Console | None = None, *, block_size: int = summary.BLOCK_SIZE
) -> None:
    """Prints what every group says at one block size, a paragraph a temperature."""
    console = console or _console()
    for group in results.groups(rows):
        for temperature in summary.temperatures(group):
            print_text(console, summary.finding(group, temperature, block_size).sentence)


def _print_group(rows: Sequence[ResultRow], console: Console) -> None:
    first = rows[0]
    metric = first.primary_metric or ""
    timed = f", {min(first.timing_prompts or 0, first.prompts)} timed" if first.timing else ""
    failed = max(row.failed for row in rows)
    timed += f", {failed} failed" if failed else ""
    title = (
        f"{first.task}: {first.prompts} prompts{timed}, target {first.target}, "
        f"{first.verifier or 'token'} rule, batch {first.batch_size}"
    )
    columns = [Column("T", is_key=True), Column("γ", is_key=True), Column("drafter", True, True)]
    columns += map(Column, ("acceptance", "block efficiency", "speed-up", *([metric] if metric else [])))
    # Stable: drafters stay in their order.
    ordered = sorted(rows, key=lambda row: (row.temperature, row.block_size))
    sections = [(row.temperature, row.block_size) for row in ordered]
    ends = [i for i, section in enumerate(sections[:-1]) if sections[i + 1] != section]
    print_fitted(console, columns, [_line(row, metric) for row in ordered], title=title, ends=ends)


def print_advice(advice: Advice, console: Console | None = None) -> None:
    """Prints a cost table and what follows from it."""
    console = console or _console()
    title = (
        f"{advice.target} drafted by {advice.draft}: batch {advice.batch_size}, T = {advice.temperature:g}"
    )
    numbers = ("round ms", "draft ms", "verify ms", "tokens/round", "speed-up", "break-even")
    columns = [Column("γ", is_key=True), *map(Column, numbers)]
    lines = [["no draft", f"{advice.plain_ms:.2f}", "–", f"{advice.plain_ms:.2f}", "1.00", "1.00", "–"]]
    for size in advice.sizes:
        break_even = "never" if size.break_even is None else f"{size.break_even:.2f}"
        times = [f"{ms:.2f}" for ms in (size.round_ms, size.draft_ms, size.verify_ms)]
        lines.append([str(size.block_size), *times, f"{size.tokens:.2f}", f"{size.speedup:.2f}", break_even])
    print_fitted(console, columns, lines, title=title)
    alone, both = advice.start_ms
    print_text(
        console,
        f"starting a batch, prompts read one by one: {alone:.1f} ms, with the draft's {both:.1f} ms; "
        f"acceptance from {advice.prompts} prompts, {advice.tokens} tokens; {advice.device}",
    )
    print_text(console, advice.sentence)


def print_predictions(
    found: Sequence[Prediction], title: str, told: str, console: Console | None = None
) -> None:
    """Prints what a pair would do on a device, by batch size."""
    console = console or _console()
    names = (
        "c",
        "verify cost",
        "no draft, tokens/s",
        "best γ",
        "speed-up",
        "tokens/s",
        "break-even",
        "GB/chip",
    )
    columns = [Column("batch", is_key=True), *map(Column, names)]
    lines = [
        [
            f"{one.batch_size:,}",
            f"{one.cost_ratio:.3f}",
            f"{one.verify_ratio:.2f}",
            f"{one.plain_tokens_per_s:,.0f}",
            str(one.best),
            f"{one.speedup:.2f}",
            f"{one.tokens_per_s:,.0f}",
            "never" if one.break_even is None else f"{one.break_even:.2f}",
            f"{one.memory / 1e9:,.2f}",
        ]
        for one in found
    ]
    print_fitted(console, columns, lines, title=title)
    print_text(console, f"{told}. Rates are the most that memory, products and wires allow.")


def print_drafts(target: str, shapes: Sequence[DraftShape], console: Console | None = None) -> None:
    """Prints what drafts of some of a target's layers cost, and could gain."""
    title = f"drafts of {target}: c, and MBSU (at its best γ) by acceptance rate α"
    columns = [Column("draft", True, True), Column("parameters"), Column("c")]
    columns += [Column(f"α = {rate:g}") for rate in ACCEPTANCE]
    lines = [
        [
            shape.name,
            f"{shape.parameters:,}",
            f"{shape.cost_ratio:.2f}",
            *(f"{gain:.2f} ({size})" for size, gain in shape.mbsu),
        ]
        for shape in shapes
    ]
    print_fitted(console or _console(), columns, lines, title=title)


def print_held_out(what: str, found: Mapping[str, HeldOut], console: Console | None = None) -> None:
    """Prints models' losses on the same rows; the first is what the others are compared with."""
    first = next(iter(found.values()))
    beyond = ["beyond the first"] if len(found) > 1 else []
    columns = [Column("model", True, True)]
    columns += map(Column, ("tokens", "nats a token", "perplexity", *beyond, *first.corpus))
    lines = []
    for name, one in found.items():
        paired = one is not first and one.shares_tokens(first)
        more = [format(one.loss_beyond(first), ".3f") if paired else "–"] if beyond else []
        more += [f"{value:.1f}" for value in one.corpus.values()]
        loss, perplexity = format(one.loss, ".3f"), format(one.perplexity, ".4g")
        lines.append([name, f"{one.tokens.sum():,}", loss, perplexity, *more])
    print_fitted(console or _console(), columns, lines, title=f"{what}: {len(first.tokens)} rows")


def _console() -> Console:
    return Console(highlight=False)


def with_interval(row: ResultRow, measure: Measure) -> str:
    """Writes a number as `2.82 (2.75–2.90)`; `–` where the row has no such number."""
    found = row.interval(measure)
    if np.isnan(found.value):
        return "–"
    if found.ends is None or found.low == found.high:
        return f"{found.value:.2f}"
    return format(found, ".2f")


def _line(row: ResultRow, metric: str) -> list[str]:
    draft = row.drafter != NO_DRAFTER
    line = [
        f"{row.temperature:g}",
        str(row.block_size) if draft else "–",
        row.drafter if draft else "no draft",
        *(with_interval(row, measure) for measure in MEASURES),
    ]
    score = f"{row.quality[metric]:.1f}" if metric in row.quality else "–"
    return [*line, score] if metric else line


def print_served(found: Mapping[str, Sequence[tuple[str, Served]]], console: Console | None = None) -> None:
    """Prints acceptance and block efficiency of streams, window by window; nothing of none."""
    columns = [Column("served", True, True), Column("requests", is_key=True)]
    columns += map(Column, ("prompts", "tokens", "acceptance", "tokens a call"))
    lines = []
    for label, windows in found.items():
        for place, one in windows:
            rate, efficiency = (
                format(interval, form) if np.isfinite(interval.value) else "–"
                for interval, form in ((one.acceptance, ".3f"), (one.block_efficiency, ".2f"))
            )
            tokens = one.total.emitted_tokens
            told = "–" if tokens is None else f"{tokens:,}"
            lines.append([label, place, f"{len(one.records):,}", told, rate, efficiency])
    if lines:
        print_fitted(console or _console(), columns, lines)


def print_segments(found: Sequence[Verdict], console: Console | None = None) -> None:
    """Prints what is said of every segment of streams that have some."""
    columns = [Column("stream", True, True), Column("segment", True, True)]
    columns += map(Column, ("requests", "value", "alarm below", "evidence", "needed", "outcome"))
    lines = []
    for one in found:
        for part in one.segments if len(one.segments) > 1 else ():
            known = part.threshold
            value = "–" if np.isnan(part.value) else f"{part.value:.3f}"
            limit = "–" if known is None else f"{known.shown:.3f}"
            evidence = "–" if known is None else f"{part.evidence:.3g}"
            level = "–" if known is None else f"{part.level:.3g}"
            told = part.outcome or "new"
            lines.append([one.label, part.name, f"{part.units:,}", value, limit, evidence, level, told])
    if lines:
        print_fitted(console or _console(), columns, lines)
