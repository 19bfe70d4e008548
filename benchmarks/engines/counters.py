"""A recording beside itself: what `watch` reads of its counters, and of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.engines.recording import ANSWERS, SCRAPES
from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.evaluation.watch_state import Stream
from distillspec_jax.evaluation.watching import Watch

COUNTS = ("texts", "target_calls", "drafted", "accepted", "tested", "accepted_at")
"""The counts that `watch` reads of engines."""


def read(folder: Path, block_size: int | None = None) -> tuple[PartialRecord, PartialRecord]:
    """What `watch` reads of a recording: the sums of the answers, and the counters between the scrapes."""
    found = []
    for name in (ANSWERS, SCRAPES):
        units = Watch(block_size=block_size).read(Stream(name), str(folder / name))
        found.append(PartialRecord.total([unit.record for unit in units]))
    return found[0], found[1]


def differing(answers: PartialRecord, counters: PartialRecord) -> list[str]:
    """The counts that both tell, and tell differently."""
    told = {name: (getattr(answers, name), getattr(counters, name)) for name in COUNTS}
    return [name for name, pair in told.items() if None not in pair and pair[0] != pair[1]]


def print_counters(folder: Path) -> bool:
    """Prints what answers and counters say; returns whether they agree."""
    answers, counters = read(folder)
    print("\n| count | sum of the answers | counters |\n|---|---|---|")
    for name in COUNTS:
        cells = (shown(getattr(record, name)) for record in (answers, counters))
        print(f"| {name} | {' | '.join(cells)} |")
    parted = differing(answers, counters)
    print(f"\nanswers and counters {'differ in ' + ', '.join(parted) if parted else 'agree'}")
    return not parted


def shown(count: Any) -> str:
    """A count, or several, in a cell of a table; a dash for what is not told."""
    if count is None:
        return "–"
    return ", ".join(map(str, count)) if isinstance(count, tuple) else f"{count:,}"
