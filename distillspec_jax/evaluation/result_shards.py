"""The rows of a sweep's shards, joined into the rows of one sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from distillspec_jax import files, shards
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import ResultRow


def merge_rows(folders: Sequence[Path], path: Path) -> list[ResultRow]:
    """Writes the rows of all shards of a sweep to one file, and returns them.

    A shard without the baseline of a greedy cell could not compare outputs with it; that is done here.

    Args:
      folders: as `shards.find` gives them.
      path: of the file.

    Raises:
      UsageError: a damaged row, by file and line; two shards that measured one cell; a file that is there and
        holds other rows.
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
    """A row as the whole sweep would have written it."""
    matches = row.same_outputs(baseline) if row.temperature == 0 and baseline is not None else None
    command = shards.whole_command(row.command)
    return dataclasses.replace(row, matches_autoregressive=matches, command=command)
