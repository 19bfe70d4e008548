"""One self-contained HTML page from any number of results files."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.resources
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from distillspec_jax import files, training_log
from distillspec_jax.acceptance import Record
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import NO_DRAFTER, ResultRow
from distillspec_jax.generation.trace import Round
from distillspec_jax.reports import figures, summary, tables
from distillspec_jax.reports.series import series_of

_TEMPLATE, _SCRIPT = "report.html.j2", "report.js"
MOST_DRAWN = 2_200_000
"""Characters of drawings, beyond which groups have their tables alone: a page is to be sent by mail."""
_SIGNATURE = '<meta name="generator" content="distillspec_jax">'


@dataclasses.dataclass(frozen=True)
class TracedPrompt:
    """A prompt decoded round by round, to be shown with its accepted tokens marked.

    Attributes:
      drafter: whose drafts these are.
      inputs: the raw input.
      rounds: of `generation.trace`.
    """

    drafter: str
    inputs: str
    rounds: Sequence[Round]

    @property
    def tokens_per_call(self) -> float:
        """Block efficiency of this one prompt; 0 where nothing was emitted."""
        record = Record.of_rounds(round_.counts for round_ in self.rounds)
        return record.value("block_efficiency") if self.rounds else 0.0


def report(
    rows: Sequence[ResultRow],
    output: str | Path,
    *,
    training: Mapping[str, str | Path] | None = None,
    examples: Sequence[TracedPrompt] = (),
    broken: Sequence[str] = (),
    title: str | None = None,
    block_size: int = summary.BLOCK_SIZE,
) -> Path:
    """Writes the page; it needs nothing beside itself, neither files nor a network.

    Args:
      rows: of any number of files (`results.read`), at least one; rows that cannot be compared get sections
        of their own, and of several measurements of one cell the last counts.
      output: the page.
      training: label to `metrics.jsonl` of training runs.
      examples: decoded prompts.
      broken: what is wrong with each line of the files that could not be read (`results.usable`).
      title: heading of the page.
      block_size: which one the headline is about; the nearest one measured stands in for it.

    Returns:
      The path of the page.

    Raises:
      UsageError: an unreadable training file, a malformed line of it by file and line, a full disk.
    """
    curves = {label: training_log.read(path) for label, path in (training or {}).items()}
    groups = results.groups(rows)
    script = _resource(_SCRIPT)
    text = (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            title=title or "Speculative decoding: " + ", ".join(dict.fromkeys(g[0].task for g in groups)),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            sections=_sections(groups, block_size),
            fronts=figures.of_fronts(groups),
            curves=figures.of_training(curves, series_of(groups[0], block_size)),
            examples=examples,
            broken=broken,
        )
    )
    files.write_whole(output, text, is_report)
    return Path(output)


def is_report(path: Path) -> bool:
    """Whether a file is a page of ours, of 0.1 too (which did not sign them)."""
    with path.open(encoding="utf-8") as file:
        head = file.read(4096)
    return _SIGNATURE in head or (head.startswith("<!doctype html>") and "--series-0: #0072b2" in head)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({_TEMPLATE: _resource(_TEMPLATE)}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["interval"] = lambda row, field: tables.with_interval(row, field)
    return environment


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _sections(groups: Sequence[Sequence[ResultRow]], block_size: int) -> list[dict[str, Any]]:
    """Collects the sections in order, with figures as long as there is room for them."""
    sections: list[dict[str, Any]] = []
    room = MOST_DRAWN
    for rows in groups:
        section = _section(rows, block_size)
        size = section["block_size"]
        drawn = figures.figures(rows, size) if size and room > 0 else []
        length = sum(len(plot.svg) for figure in drawn for plot in figure.plots)
        fits = not sections or length <= room  # one group is always drawn
        room -= length if fits else room
        sections.append(
            {**section, "figures": drawn if fits else [], "undrawn": size and not (drawn and fits)}
        )
    return sections


def _section(rows: Sequence[ResultRow], block_size: int) -> dict[str, Any]:
    """Collects all that the page shows of one group of comparable rows."""
    temperatures = summary.temperatures(rows)
    findings = [summary.finding(rows, t, block_size) for t in temperatures]
    pair = summary.main_pair(rows)
    return {
        "first": rows[0],
        "metric": rows[0].primary_metric,
        "series": series_of(rows, block_size),
        "timed": any(row.speedup is not None for row in rows),
        "pair": pair,
        "block_size": summary.nearest_block_size(rows, block_size),
        "findings": list(map(_card, findings)),
        "headline": [
            (f.temperature, f.block_size, _lines(rows, f.temperature, [0, f.block_size or 0]))
            for f in findings
        ],
        "full": [(t, None, _lines(rows, t, [0, *summary.block_sizes(rows)])) for t in temperatures],
        "matches": _matches(rows),
        "provenance": _provenance(rows),
    }


def _card(finding: summary.Finding) -> dict[str, Any]:
    """Shows a finding as the big number at the top."""
    known = math.isfinite(finding.ratio.value)
    return {
        "temperature": finding.temperature,
        "outcome": finding.outcome,
        "measure": finding.measure,
        "number": f"×{finding.ratio.value:.2f}" if known else "–",
        "interval": f"{finding.ratio.low:.2f} to {finding.ratio.high:.2f}" if finding.ratio.ends else None,
        "first": finding.sentences[0],
        "rest": finding.sentences[1:],
    }


def _lines(rows: Sequence[ResultRow], temperature: float, sizes: Sequence[int]) -> list[dict[str, Any]]:
    lines = []
    for size in dict.fromkeys(sizes):
        for label in [NO_DRAFTER] if size == 0 else results.drafters(rows):
            row = summary.find(rows, label, temperature, size)
            if row is not None:
                lines.append({"row": row, "if_independent": summary.if_independent(row)})
    return lines


def _matches(rows: Sequence[ResultRow]) -> str | None:
    """Says whether greedy speculative outputs are the baseline's; failed prompts are neither, and named."""
    baseline = summary.find(rows, NO_DRAFTER, 0.0, 0)
    found = [
        (row, *_same_outputs(row, baseline or row))
        for row in rows
        if row.temperature == 0 and row.is_drafted and row.matches_autoregressive is not None
    ]  # an unmerged shard may not have the baseline
    if not found:
        return None
    compared = [whole for _, _, whole in found]
    failed = rows[0].prompts - min(compared)
    apart = (
        f" Up to {failed} of {rows[0].prompts} prompts a cell failed to decode, with or without the draft, "
        "and are not compared."
        if failed
        else ""
    )
    differing = [one for one in found if one[1] != one[2]]
    if not differing:
        told = f"{'at least ' if len(set(compared)) > 1 else ''}{min(compared)} prompts"
        return (
            f"At T = 0 every drafted output equals the output without a draft, token for token: "
            f"{told} in {f'each of {len(found)} cells' if found[1:] else 'one cell'}.{apart}"
        )
    worst, equal, whole = max(differing, key=lambda one: one[2] - one[1])
    return (
        f"At T = 0 outputs differ from those without a draft in {len(differing)} of {len(found)} cells, "
        f"most in {worst.drafter} at γ = {worst.block_size}: {equal} of {whole} prompts are equal.{apart}"
    )


def _same_outputs(row: ResultRow, baseline: ResultRow) -> tuple[int, int]:
    """Counts the equal outputs of a greedy row, and all outputs, without prompts that failed in either row.

    A row's own count has those that failed at one token as equal, which is no evidence of equal outputs.
    """
    both = row.per_prompt, baseline.per_prompt
    failed = {i for one in both for i, why in enumerate(one.finish_reason or ()) if why == "failed"}
    alike = sum(both[0].output_digest[i] == both[1].output_digest[i] for i in failed)
    return (row.matches_autoregressive or 0) - alike, row.prompts - len(failed)


def _provenance(rows: Sequence[ResultRow]) -> list[tuple[str, str]]:
    """Says how the numbers came about."""
    first = rows[0]

    def all_of(field: str) -> str:
        return (
            "; ".join(dict.fromkeys(str(x) for row in rows if (x := getattr(row, field)) is not None))
            or "unknown"
        )

    timed, most = first.timing is not None, max(row.failed for row in rows)
    failed = f", {most} failed: the target's logits were not finite" if most else ""
    paths = {row.drafter: row.drafter_path for row in rows if row.drafter_path}
    return [
        ("Command", all_of("command")),
        ("Source", f"distillspec_jax {all_of('version')}, git revision {all_of('git_revision')}"),
        ("Device", all_of("device")),
        ("Target", first.target),
        ("Drafters", "; ".join(f"{label}: {path}" for label, path in paths.items()) or "none"),
        ("Prompts", f"{first.task}, {first.split or 'file'}: the first {first.prompts}{failed}"),
        (
            "Decoding",
            f"{first.verifier or 'token'} rule, up to {first.max_new_tokens} tokens, "
            f"batch size {first.batch_size}, seed {first.seed}",
        ),
        (
            "Timing",
            f"the first {min(first.timing_prompts or first.prompts, first.prompts)} prompts, best of "
            f"{first.repeats} runs in turns with the baseline, compilation apart"
            if timed
            else "none",
        ),
        ("Intervals", "95 %, paired BCa bootstrap over prompts"),
    ]
