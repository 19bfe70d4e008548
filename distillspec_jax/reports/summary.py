"""From rows to what they say: who beats whom, by how much, and whether that is more than chance."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillspec_jax import files
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, results
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.results import Row

WIN, LOSS, NO_DIFFERENCE, UNKNOWN = "win", "loss", "no difference", "cannot tell"
DISTILLED, SUPERVISED = "distilled", "supervised"
BLOCK_SIZE = 5
"""The block size that verdicts are about; the nearest one measured stands in for it."""

_REPORTED = ("acceptance_tested", "block_efficiency", "speedup")
_IN_WORDS = {WIN: "a win", LOSS: "a loss", NO_DIFFERENCE: "no difference", UNKNOWN: "too few prompts to tell"}
_OUTCOME = ("temperature", "block_size", "outcome")


class Verdict(NamedTuple):
    """What was found at one temperature, whatever it is.

    Attributes:
      block_size: the one that it is about; None if no drafter was measured.
      outcome: `WIN`, `LOSS`, `NO_DIFFERENCE` or `UNKNOWN`, of block efficiency against the other drafter, or,
        where there is no other, of speed against no draft.
      ratio: the interval that decides it.
      sentence: all of it in words.
    """

    temperature: float
    block_size: int | None
    outcome: str
    ratio: Interval
    sentence: str


class Pair(NamedTuple):
    """A drafter and the one that it is compared with."""

    drafter: str
    against: str


def summarise(rows: Sequence[Row], block_size: int = BLOCK_SIZE) -> dict[str, Any]:
    """The content of `summary.json`.

    Args:
      rows: of one group (`results.groups`).
      block_size: which one the verdicts are about.

    Returns:
      `{"task", "rows", "ratios", "outcomes", "verdicts"}`: the three headline numbers of each row with their
      intervals; for each pair `"distilled/supervised"` the ratios of block efficiency and of speed-up by
      temperature and block size; for each temperature what came out, `{"temperature", "block_size",
      "outcome"}`, and the sentence that says so.

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
    verdicts = [verdict(rows, temperature, block_size) for temperature in temperatures(rows)]
    return {
        "task": rows[0]["task"],
        "rows": [_headline(row) for row in rows],
        "ratios": {f"{pair.drafter}/{pair.against}": ratios(rows, pair) for pair in pairs(rows)},
        "outcomes": [{field: v._asdict()[field] for field in _OUTCOME} for v in verdicts],
        "verdicts": [v.sentence for v in verdicts],
    }


def write(path: str | Path, summary: dict[str, Any]) -> None:
    """Writes `summary.json`, whole or not at all."""
    path = Path(path)
    with files.saving(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".tmp")
        partial.write_text(json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
        os.replace(partial, path)


def temperatures(rows: Sequence[Row]) -> list[float]:
    """The temperatures that were measured, rising."""
    return sorted({float(row["temperature"]) for row in rows})


def block_sizes(rows: Sequence[Row]) -> list[int]:
    """The block sizes that were measured, rising, the baseline's 0 apart."""
    return sorted({int(row["block_size"]) for row in rows} - {0})


def find(rows: Sequence[Row], drafter: str, temperature: float, block_size: int) -> Row | None:
    """The row of a cell, if it was measured."""
    wanted = (drafter, temperature, block_size)
    found = [row for row in rows if (row["drafter"], row["temperature"], row["block_size"]) == wanted]
    return found[-1] if found else None


def pairs(rows: Sequence[Row]) -> list[Pair]:
    """Every drafter against every one before it in the results; the distilled one counts as the last."""
    labels = sorted(results.drafters(rows), key=lambda label: label == DISTILLED)
    return [Pair(later, earlier) for i, later in enumerate(labels) for earlier in labels[:i]]


def ratios(rows: Sequence[Row], pair: Pair) -> list[dict[str, Any]]:
    """Block efficiency and speed-up of the drafter over those of `pair.against`, cell by cell."""
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


def block_efficiency_ratio(ours: Row, theirs: Row) -> Interval:
    """tau of one row over tau of another on the same prompts, paired."""
    columns = [row["per_prompt"][field] for row in (ours, theirs) for field in ("emitted", "target_calls")]
    return paired.ratio_of_ratios(*columns)


def speedup_ratio(ours: Row, theirs: Row) -> Interval | None:
    """Speed-up of one row over that of another, paired by timed batch; None where either was not timed.

    Each is first taken relative to its own baseline: in rows that were timed in turns it is the same and
    cancels, in rows of two runs it takes out how fast the machine was.
    """
    if not ours["timing"] or not theirs["timing"]:
        return None
    fields = ("baseline_seconds", "baseline_emitted", "seconds", "emitted")
    columns = [row["timing"][field] for row in (ours, theirs) for field in fields]
    if len(set(map(len, columns))) != 1:
        return None
    return paired.interval(
        columns, lambda s: (s[..., [0, 3, 5, 6]]).prod(-1) / (s[..., [1, 2, 4, 7]]).prod(-1)
    )


def outcome(interval: Interval) -> str:
    """What an interval of a ratio says about 1."""
    if not math.isfinite(interval.low) or not math.isfinite(interval.high):
        return UNKNOWN
    return WIN if interval.low > 1 else LOSS if interval.high < 1 else NO_DIFFERENCE


def main_pair(rows: Sequence[Row]) -> Pair | None:
    """What the results are about: distilled against supervised, else the last drafter against the first."""
    labels = results.drafters(rows)
    if DISTILLED in labels and SUPERVISED in labels:
        return Pair(DISTILLED, SUPERVISED)
    return Pair(labels[-1], labels[0]) if len(labels) > 1 else None


def nearest_block_size(rows: Sequence[Row], wanted: int) -> int | None:
    """The measured block size nearest to the wanted one, the smaller of two."""
    return min(block_sizes(rows), key=lambda size: (abs(size - wanted), size), default=None)


def verdict(rows: Sequence[Row], temperature: float, block_size: int = BLOCK_SIZE) -> Verdict:
    """What the rows say at one temperature: win, loss or no difference, decided by intervals."""
    size = nearest_block_size(rows, block_size)
    labels, pair = results.drafters(rows), main_pair(rows)
    ours = find(rows, pair.drafter if pair else labels[-1], temperature, size) if labels and size else None
    if ours is None:
        nothing = Interval(math.nan, math.nan, math.nan)
        return Verdict(
            temperature, None, UNKNOWN, nothing, f"At T = {temperature:g} no drafter was measured."
        )
    ratio = stored(ours, "speedup")
    said = f"At T = {temperature:g} and γ = {size}, {ours['drafter']} emits {ours['block_efficiency']:.2f}"
    sentences = [f"{said} tokens a target call."]
    theirs = find(rows, pair.against, temperature, ours["block_size"]) if pair else None
    if pair and theirs is not None:
        ratio = block_efficiency_ratio(ours, theirs)
        sentences = [
            f"{said} tokens a target call where {pair.against} emits {theirs['block_efficiency']:.2f}: "
            f"{times(ratio)}, {_IN_WORDS[outcome(ratio)]}."
        ]
        for other in labels:
            row = find(rows, other, temperature, ours["block_size"])
            if other not in pair and row is not None:
                against = block_efficiency_ratio(ours, row)
                sentences.append(f"Against {other}: {times(against)}, {_IN_WORDS[outcome(against)]}.")
    sentences += [_speed_sentence(ours), _fastest_sentence(rows, ours)]
    return Verdict(temperature, size, outcome(ratio), ratio, " ".join(filter(None, sentences)))


def times(interval: Interval) -> str:
    """`×1.17 (95 % interval 1.13 to 1.21)`."""
    if interval.ends is None:
        return f"×{interval.value:.2f} (no interval)"
    return f"×{interval.value:.2f} (95\u00a0% interval {interval.low:.2f} to {interval.high:.2f})"


def _speed_sentence(row: Row) -> str:
    speed = stored(row, "speedup")
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


def _fastest_sentence(rows: Sequence[Row], ours: Row) -> str:
    """Names a drafter that made the same cell faster, if one did."""
    cell = [find(rows, label, ours["temperature"], ours["block_size"]) for label in results.drafters(rows)]
    speeds = {row["drafter"]: stored(row, "speedup") for row in cell if row is not None}
    timed = [label for label, speed in speeds.items() if math.isfinite(speed.value)]
    fastest = max(timed, key=lambda label: speeds[label].value, default=ours["drafter"])
    return "" if fastest == ours["drafter"] else f"Fastest: {fastest}, {times(speeds[fastest])}."


def stored(row: Row, field: str) -> Interval:
    """A row's number and its interval; NaN where the row has none."""
    value, ends = row[field], row.get(f"{field}_ci95")
    low, high = ends or (math.nan, math.nan)
    return Interval(math.nan if value is None else value, low, high)


def _headline(row: Row) -> dict[str, Any]:
    kept = {field: row[field] for field in ("drafter", "temperature", "block_size")}
    for field in _REPORTED:
        kept |= {field: row[field], f"{field}_ci95": row.get(f"{field}_ci95")}
    return kept
