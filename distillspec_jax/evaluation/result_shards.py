"""Merges the rows of a sweep's shards into the rows of one sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from distillspec_jax import files, shards
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import ResultRow


def merge_rows(folders: Sequence[Path], path: Path) -> list[ResultRow]:
    """Writes the rows of all shards of a sweep to one file and returns them.

    It also compares outputs with the baseline of greedy cells whose shard did not have the baseline.

    Args:
      folders: from `shards.find`.
      path: of the file.

    Raises:
      UsageError: a row is damaged (names file and line), two shards measured the same cell, or the file
        exists with other rows.
    """
    found: dict[tuple[object, ...], tuple[Path, ResultRow]] = {}
    for folder in folders:
        for row in results.read([folder / path.name]):
            there, _ = found.setdefault(row.identity, (folder, row))
            if there != folder:
                raise UsageError(f"{folder} overlaps with {there}: both measured {row.drafter} at one cell")
    rows = [row for _, row in found.values()]
    baselines = {(*row.group, row.temperature): row for row in rows if not row.is_drafted}
    merged = [_as_of_whole(row, baselines.get((*row.group, row.temperature))) for row in rows]
    content = "".join(map(results.as_line, merged)).encode()
    files.write_whole(path, content, lambda there: there.read_bytes() == content)
    return merged


def _as_of_whole(row: ResultRow, baseline: ResultRow | None) -> ResultRow:
    """Makes the row that an unsharded sweep would have written."""
    matches = row.same_outputs(baseline) if row.temperature == 0 and baseline is not None else None
    command = shards.whole_command(row.command)
    return dataclasses.replace(row, matches_autoregressive=matches, command=command)
