"""`results.jsonl`: one measured cell per line, complete lines only, each self-contained."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path

from distillspec_jax import files, locks, outputs
from distillspec_jax.buckets import copies
from distillspec_jax.errors import Unavailable, UsageError
from distillspec_jax.evaluation.result_row import ResultRow

RESULTS = "results.jsonl"
"""The name of the file in a sweep's folder."""

_BEGINNING = '{"schema_version": '
"""The start of every line."""


def read(paths: Sequence[str | Path]) -> list[ResultRow]:
    """Reads every row of some files, or of sweeps' folders, in their order.

    Raises:
      UsageError: an unreadable file, a malformed line or one of another schema (by file and line); no rows.
    """
    paths = [file_of(path) for path in paths]
    for path in paths:
        outputs.reads(path)
    found = [row for path in paths for row in _rows(path, files.read_lines(path))]
    if not found:
        raise UsageError(f"no results in {', '.join(map(str, paths)) or 'no files'}")
    return found


def file_of(path: str | Path) -> str | Path:
    """Returns the file of results in a sweep's folder, a copy of a bucket's; any other path as it is."""
    inside = copies.local(path) / RESULTS
    return inside if inside.is_file() else path


def usable(paths: Sequence[str | Path]) -> tuple[list[ResultRow], list[str]]:
    """Reads every readable row of some files or folders, and reports what is wrong with each other line.

    Raises:
      UsageError: a file is unreadable, or there are no rows.
    """
    found, broken = [], []
    paths = [file_of(path) for path in paths]
    for path in paths:
        for _, row in files.json_lines_apart(path, ResultRow.from_json):
            if isinstance(row, UsageError):
                broken.append(str(row))
            else:
                found.append(row)
    if not found:
        lines = f", and {len(broken):,} lines that are none: {broken[0]}" if broken else ""
        raise UsageError(f"no results in {', '.join(map(str, paths))}{lines}")
    return found, broken


def reopen(path: Path) -> list[ResultRow]:
    """Reads a file to resume; removes a last line that was truncated by a kill, or ends one that is whole.

    Raises:
      UsageError: see `read`; or the file cannot be written.
    """
    if not outputs.check(path, lambda _: True).exists():  # the lines show which command wrote the file
        return []
    with files.saving(path.parent), path.open("r+b") as file:
        content = file.read()  # bytes: a kill may end them within a character
        size = content.rfind(b"\n") + 1
        *whole, _ = files.decoded_lines(content[:size], path)
        rows = _rows(path, whole)  # rejects another command's file before changing it
        if cut_short := content[size:]:
            place, beginning = f"{path}:{len(whole) + 1}", _BEGINNING.encode()
            if not cut_short.startswith(beginning[: len(cut_short)]):
                raise UsageError(f"{place}: neither a row of a sweep nor the beginning of one")
            try:
                text = cut_short.decode()
                rows.append(ResultRow.from_json(files.parse_json_object(text, place), place))
                file.write(b"\n")
            except (UnicodeDecodeError, UsageError):
                file.truncate(size)
    return rows


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Makes and locks the folder of results: of two sweeps each would measure the other's cells again.

    Raises:
      Unavailable: another process writes there.
    """
    with contextlib.ExitStack() as made:
        with files.saving(path.parent):
            files.make_parents(path, made)  # removed at the end if nothing was written
        if made.enter_context(locks.locked(path.parent)) is False:
            raise Unavailable(f"{path.parent}: another sweep is writing there")
        yield


def append(path: Path, row: ResultRow) -> None:
    """Appends one complete line.

    Raises:
      UsageError: it cannot be written (a full disk); a partly written line is removed.
    """
    line = as_line(row)
    outputs.check(path)
    with files.saving(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError:
            with contextlib.suppress(OSError), path.open("r+b") as file:
                file.truncate(size)
            raise
    if (found := outputs.published(path)) is not None:
        found.publish_some()


def as_line(row: ResultRow) -> str:
    """Formats a row as a line, including the newline."""
    return json.dumps(row.to_json(), ensure_ascii=False, allow_nan=False) + "\n"


def latest(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Keeps the last of several measurements of a cell (of a draft that was trained again)."""
    found: dict[Hashable, ResultRow] = {}
    for row in rows:
        found.pop(row.identity, None)  # to move it to its new position
        found[row.identity] = row
    return list(found.values())


def groups(rows: Iterable[ResultRow]) -> list[list[ResultRow]]:
    """Groups rows by the conditions they were measured under; only the latest measurements are kept.

    Different drafts that files or sweeps gave the same label get their paths beside it.

    Raises:
      UsageError: two rows with the same digest of prompts have different numbers of them.
    """
    found: dict[Hashable, list[ResultRow]] = {}
    for row in latest(_told_apart(list(rows))):
        found.setdefault(row.group, []).append(row)
        if (first := found[row.group][0]).prompts != row.prompts:
            raise UsageError(
                f"results on {row.task}, prompts {row.prompts_digest}: {first.drafter} was measured on "
                f"{first.prompts} of them and {row.drafter} on {row.prompts}: they cannot be the same prompts"
            )
    return list(found.values())


def _told_apart(rows: list[ResultRow]) -> Iterator[ResultRow]:
    paths: dict[Hashable, dict[str | None, None]] = {}
    for row in rows:
        paths.setdefault((row.group, row.drafter), {})[row.drafter_path] = None
    for row in rows:
        several = len(paths[row.group, row.drafter]) > 1
        yield dataclasses.replace(row, drafter=f"{row.drafter} ({row.drafter_path})") if several else row


def drafters(rows: Iterable[ResultRow]) -> list[str]:
    """Lists the labels of the drafters, in order of their first appearance."""
    return list(dict.fromkeys(row.drafter for row in rows if row.is_drafted))


def _rows(path: str | Path, lines: Iterable[str]) -> list[ResultRow]:
    return [ResultRow.from_json(found, place) for place, found in files.json_lines(lines, path)]
