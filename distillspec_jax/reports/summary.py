"""Findings from rows: who beats whom, by how much, and whether that is more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillspec_jax import files
from distillspec_jax.acceptance import expected_block_efficiency
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, results
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.result_row import MEASURES, ResultRow

WIN, LOSS, NO_DIFFERENCE, UNKNOWN = "win", "loss", "no difference", "cannot tell"
DISTILLED, SUPERVISED = "distilled", "supervised"
BLOCK_SIZE = 5
"""The block size that findings are about; the nearest one measured stands in for it."""

_IN_WORDS = {WIN: "a win", LOSS: "a loss", NO_DIFFERENCE: "no difference", UNKNOWN: "too few prompts to tell"}
_OUTCOME = ("temperature", "block_size", "outcome")


class Finding(NamedTuple):
    """A finding at one temperature, win or loss.

    Attributes:
      block_size: the one that it is about; None if no drafter was measured.
      outcome: `WIN`, `LOSS`, `NO_DIFFERENCE` or `UNKNOWN`, of block efficiency against the other drafter, or,
        where there is no other at this block size, of speed against no draft.
      ratio: the interval that decides it.
      measure: the ratio in words; empty if no drafter was measured.
      sentences: all of it in words; the first says what came out.
    """

    temperature: float
    block_size: int | None
    outcome: str
    ratio: Interval
    measure: str
    sentences: Sequence[str]

    @property
    def sentence(self) -> str:
        """All of it in words, as one paragraph."""
        return " ".join(self.sentences)


class Pair(NamedTuple):
    """A drafter and the one that it is compared with."""

    drafter: str
    against: str


def summarise(rows: Sequence[ResultRow], block_size: int = BLOCK_SIZE) -> dict[str, Any]:
    """Makes the content of `summary.json`.

    Args:
      rows: of one group (`results.groups`).
      block_size: which one the findings are about.

    Returns:
      `{"task", "prompts", "rows", "ratios", "outcomes", "verdicts"}`: how many prompts; the three headline
      numbers of each row with their intervals; for each pair `"distilled/supervised"` the ratios of block
      efficiency and of speed-up by temperature and block size; for each temperature what came out,
      `{"temperature", "block_size", "outcome"}`, and the sentence that says so.

    Raises:
      UsageError: no rows, or rows of several groups.
    """
    found = results.groups(rows)
    if len(found) != 1:
        raise UsageError(
            f"{len(found)} sets of results that cannot be compared (another task, target, set of prompts, "
            "distribution or device): summarise one at a time"
        )
    rows = found[0]
    findings = [finding(rows, temperature, block_size) for temperature in temperatures(rows)]
    return {
        "task": rows[0].task,
        "prompts": rows[0].prompts,
        "rows": [_headline(row) for row in rows],
        "ratios": {f"{pair.drafter}/{pair.against}": ratios(rows, pair) for pair in pairs(rows)},
        "outcomes": [{field: found._asdict()[field] for field in _OUTCOME} for found in findings],
        "verdicts": [found.sentence for found in findings],
    }


def write(path: str | Path, summary: dict[str, Any]) -> None:
    """Writes `summary.json`, whole or not at all."""
    files.write_json(path, summary)


def temperatures(rows: Sequence[ResultRow]) -> list[float]:
    """Lists the temperatures that were measured, rising."""
    return sorted({float(row.temperature) for row in rows})


def block_sizes(rows: Sequence[ResultRow]) -> list[int]:
    """Lists the block sizes that were measured, rising, the baseline's 0 apart."""
    return sorted({row.block_size for row in rows if row.is_drafted})


def find(rows: Sequence[ResultRow], drafter: str, temperature: float, block_size: int) -> ResultRow | None:
    """Finds the row of a cell, if it was measured."""
    wanted = (drafter, temperature, block_size)
    found = [row for row in rows if (row.drafter, row.temperature, row.block_size) == wanted]
    return found[-1] if found else None


def pairs(rows: Sequence[ResultRow]) -> list[Pair]:
    """Pairs every drafter with every one before it in the results; the distilled one counts as the last."""
    labels = sorted(results.drafters(rows), key=lambda label: label == DISTILLED)
    return [Pair(later, earlier) for i, later in enumerate(labels) for earlier in labels[:i]]


def ratios(rows: Sequence[ResultRow], pair: Pair) -> list[dict[str, Any]]:
    """Divides block efficiency and speed-up of the drafter by those of `pair.against`, cell by cell."""
    found = []
    for temperature in temperatures(rows):
        for block_size in block_sizes(rows):
            ours, theirs = (find(rows, label, temperature, block_size) for label in pair)
            if ours is None or theirs is None:
                continue
            tau, speed = block_efficiency_ratio(ours, theirs), speedup_ratio(ours, theirs)
            found.append(
                {
                    "temperature": temperature,
                    "block_size": block_size,
                    "block_efficiency": tau.value,
                    "block_efficiency_ci95": tau.ends,
                    "speedup": speed.value if speed else None,
                    "speedup_ci95": speed.ends if speed else None,
                }
            )
    return found


def block_efficiency_ratio(ours: ResultRow, theirs: ResultRow) -> Interval:
    """Divides the block efficiency of one row by that of another on the same prompts, paired."""
    return paired.quotient_of_records(
        ours.per_prompt.records,
        theirs.per_prompt.records,
        "block_efficiency",
        clusters=ours.per_prompt.cluster,
    )


def speedup_ratio(ours: ResultRow, theirs: ResultRow) -> Interval | None:
    """Divides the speed-up of one row by that of another, paired by timed batch; None if one was not timed.

    Each is first taken relative to its own baseline: in rows that were timed in turns it is the same and
    cancels, in rows of two runs it takes out how fast the machine was.
    """
    if not ours.timing or not theirs.timing:
        return None
    columns: list[Sequence[float]] = []
    for timed in (ours.timing, theirs.timing):
        columns += [timed.baseline_seconds, timed.baseline_emitted, timed.seconds, timed.emitted]
    if len(set(map(len, columns))) != 1:
        return None
    return paired.interval(
        columns,
        lambda s: paired.divide(s[..., [0, 3, 5, 6]].prod(-1), s[..., [1, 2, 4, 7]].prod(-1)),
        clusters=ours.timed_clusters,
    )


def if_independent(row: ResultRow) -> float | None:
    """The block efficiency that the acceptance would give if drafts were accepted independently."""
    accepted = row.acceptance_tested
    return None if accepted is None else expected_block_efficiency(accepted, row.block_size)


def outcome(interval: Interval) -> str:
    """Says how the interval of a ratio lies to 1."""
    if not math.isfinite(interval.low) or not math.isfinite(interval.high):
        return UNKNOWN
    return WIN if interval.low > 1 else LOSS if interval.high < 1 else NO_DIFFERENCE


def main_pair(rows: Sequence[ResultRow]) -> Pair | None:
    """Chooses what the results are about: distilled against supervised, else the last against the first."""
    labels = results.drafters(rows)
    if DISTILLED in labels and SUPERVISED in labels:
        return Pair(DISTILLED, SUPERVISED)
    return Pair(labels[-1], labels[0]) if len(labels) > 1 else None


def nearest_block_size(rows: Sequence[ResultRow], wanted: int) -> int | None:
    """Finds the measured block size nearest to the wanted one, the smaller of two."""
    return min(block_sizes(rows), key=lambda size: (abs(size - wanted), size), default=None)


def finding(rows: Sequence[ResultRow], temperature: float, block_size: int = BLOCK_SIZE) -> Finding:
    """Says what the rows show at one temperature: win, loss or no difference, decided by intervals."""
    labels, pair = results.drafters(rows), main_pair(rows)
    ours, theirs = _headline_rows(rows, pair, temperature, block_size)
    if ours is None:
        said = f"At T = {temperature:g} no drafter was measured."
        return Finding(temperature, None, UNKNOWN, paired.UNKNOWN, "", [said])
    ratio, measure = ours.interval("speedup"), f"measured speed-up of {ours.drafter} over no draft"
    said = f"At T = {temperature:g} and γ = {ours.block_size}, {ours.drafter} emits"
    said += f" {ours.block_efficiency:.2f}"
    missing = [label for label in pair or () if label != ours.drafter]
    apart = f"; {' and '.join(missing)} cannot be compared with it at any block size" if missing else ""
    sentences = [f"{said} tokens a target call{apart}."]
    if pair and theirs is not None:
        measure = f"block efficiency (tokens per target call), {pair.drafter} over {pair.against}"
        ratio = block_efficiency_ratio(ours, theirs)
        sentences = [
            f"{said} tokens a target call where {pair.against} emits {theirs.block_efficiency:.2f}: "
            f"{times(ratio)}, {_IN_WORDS[outcome(ratio)]}."
        ]
        for other in labels:
            row = find(rows, other, temperature, ours.block_size)
            if other not in pair and row is not None:
                against = block_efficiency_ratio(ours, row)
                sentences.append(f"Against {other}: {times(against)}, {_IN_WORDS[outcome(against)]}.")
    sentences += [_speed_sentence(ours), _fastest_sentence(rows, ours)]
    told = list(filter(None, sentences))
    return Finding(temperature, ours.block_size, outcome(ratio), ratio, measure, told)


def _headline_rows(
    rows: Sequence[ResultRow], pair: Pair | None, temperature: float, wanted: int
) -> tuple[ResultRow | None, ResultRow | None]:
    """Chooses the row that a temperature's finding is about, and the row to compare it with.

    Both have the block size nearest to the wanted one among those that both drafters of the pair were
    measured at. If there is none, it is the row of a single drafter: of the pair, else the last.
    """
    here = [row for row in rows if row.is_drafted and row.temperature == temperature]
    if pair:
        of_both = [{row.block_size for row in here if row.drafter == label} for label in pair]
        shared = of_both[0] & of_both[1]
        size = nearest_block_size([row for row in here if row.block_size in shared], wanted)
        if size is not None:
            return find(here, pair.drafter, temperature, size), find(here, pair.against, temperature, size)
    for label in (*(pair or ()), *reversed(results.drafters(here))):
        size = nearest_block_size([row for row in here if row.drafter == label], wanted)
        if size is not None:
            return find(here, label, temperature, size), None
    return None, None


def times(interval: Interval) -> str:
    """Writes a ratio as `×1.17 (95 % interval 1.13 to 1.21)`."""
    if interval.ends is None:
        return f"×{interval.value:.2f} (no interval)"
    return f"×{interval.value:.2f} (95\u00a0% interval {interval.low:.2f} to {interval.high:.2f})"


def _speed_sentence(row: ResultRow) -> str:
    speed = row.interval("speedup")
    if not math.isfinite(speed.value):
        return ""
    said = f"Measured speed-up over no draft: {times(speed)}"
    return (
        said
        + {
            WIN: ".",
            LOSS: "; speculation does not pay here.",
            NO_DIFFERENCE: "; no measurable difference.",
            UNKNOWN: "; too few timed prompts to tell.",
        }[outcome(speed)]
    )


def _fastest_sentence(rows: Sequence[ResultRow], ours: ResultRow) -> str:
    """Names a drafter that made the same cell faster, if one did."""
    cell = [find(rows, label, ours.temperature, ours.block_size) for label in results.drafters(rows)]
    speeds = {row.drafter: row.interval("speedup") for row in cell if row is not None}
    timed = [label for label, speed in speeds.items() if math.isfinite(speed.value)]
    fastest = max(timed, key=lambda label: speeds[label].value, default=ours.drafter)
    return "" if fastest == ours.drafter else f"Fastest: {fastest}, {times(speeds[fastest])}."


def _headline(row: ResultRow) -> dict[str, Any]:
    fields = ["drafter", "temperature", "block_size"]
    fields += [name for measure in MEASURES for name in (measure, f"{measure}_ci95")]
    return {field: getattr(row, field) for field in fields}
