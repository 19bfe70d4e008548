"""Our own: lines that `distillspec generate` and `serve` write with every output, and counters of `serve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillspec_jax import bounds, schema
from distillspec_jax.acceptance import COUNTS, REQUIRED, PartialRecord, Record
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.engines.engine import (
    Answer,
    Counters,
    Deltas,
    Engine,
    by_position,
    whole,
)


def record(line: Mapping[str, Any]) -> Record:
    """The counts of a line that was `counted`."""
    return Record(**{name: line[name] for name in COUNTS if name in line})


def counted(line: dict[str, Any], place: str) -> dict[str, Any]:
    """Hands a line through that has the counts of `generate`.

    Raises:
      UsageError: it has not; by place and count.
    """
    for name in COUNTS:
        if name not in line and name not in REQUIRED:
            continue
        count = line.get(name)
        counts = count if isinstance(count, list) else [count]
        is_kind = isinstance(count, list) == name.endswith("_at")
        if not is_kind or len(counts) > bounds.BLOCK_SIZE or not all(map(_is_count, counts)):
            raise UsageError(f"{place} has no count {name!r}, as lines of generate have")
    return line


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < schema.COUNT_LIMIT


def _recognises(line: Mapping[str, Any]) -> bool:
    return not set(REQUIRED).isdisjoint(line)


def _answer(line: Mapping[str, Any], place: str, block_size: int | None) -> Answer:
    found = record(counted(dict(line), place))
    if found.accepted > found.tested:
        raise UsageError(f"{place}: {found.accepted:,} drafts accepted of {found.tested:,} that were tested")
    return Answer(found, block_size)


def _interval(deltas: Deltas, block_size: int | None) -> Answer:
    """Makes an interval's counts: ours are told whole."""
    accepted_at, tested_at = (by_position(deltas, name) for name in ("accepted_at", "tested_at"))
    told = {name: whole(deltas, name) for name in ("texts", *COUNTS) if not name.endswith("_at")}
    record = PartialRecord(**told, accepted_at=accepted_at, tested_at=tested_at)
    return Answer(record, len(accepted_at) if accepted_at else block_size)


COUNTERS = Counters(
    {name: f"distillspec:{name}" for name in ("texts", *COUNTS)}, "position", _interval, chosen_by="draft"
)
"""The counters of `serve`, which has them for every draft; the names are those of a record."""

ENGINE = Engine("distillspec", _recognises, _answer, COUNTERS)
