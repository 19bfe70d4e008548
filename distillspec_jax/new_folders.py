"""Atomic creation of folders; each one also removes what a killed run left in its place.

They are written under a name that begins with `.partial-`: next to the final path, or inside it if an empty
folder exists there, which is kept (it may be a mount point, or a process's working directory).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from distillspec_jax import outputs
from distillspec_jax.errors import UsageError
from distillspec_jax.files import make_parents, read_json, saving, write_json
from distillspec_jax.locks import locked

_MOVING = ".json"
"""Suffix of a record next to a complete partial folder: inodes of entries being moved to the parent folder.

The record is removed last: while it exists, the entries that it lists are not a finished folder.
"""
_LONGEST_NAME = 60
"""Characters of a folder's name to use in its partial name; a file name has at most 255 bytes."""


@contextlib.contextmanager
def new_folder(path: str | Path, ours: outputs.Recognise | None = None) -> Iterator[Path]:
    """Makes a folder that gets its name only when the context exits without an error.

    Args:
      path: does not exist, is an empty folder, or holds the remains of a killed run.
      ours: recognises an earlier output of the same kind, which remains until the new one replaces it.

    Yields:
      The folder to write in.

    Raises:
      UsageError: the place cannot be written; nothing is left behind.
    """
    real = check_new_folder(path, ours)
    with contextlib.ExitStack() as made:
        with saving(path):
            make_parents(real, made)
            for left in _left(real):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            earlier = bool(_entries(real))
            inside = real.is_dir() and not earlier
            place = (real if inside else real.parent) / f"{_begun(real)}{secrets.token_hex(6)}"
            place.mkdir()
            made.callback(shutil.rmtree, place, ignore_errors=True)
            made.enter_context(locked(place))
        outputs.made(place)
        outputs.made(real)
        yield place
        with saving(path):
            if inside:
                _move_up(place)
            else:
                if earlier:
                    old = real.with_name(f"{_begun(real)}{secrets.token_hex(6)}")
                    made.callback(shutil.rmtree, old, ignore_errors=True)
                    real.rename(old)
                place.rename(real)
        outputs.publish(real)


def check_new_folder(path: str | Path, ours: outputs.Recognise | None = None) -> Path:
    """Rejects a path for a new folder that is not empty.

    Args:
      path, ours: see `new_folder`.

    Returns:
      The path to write; for a link, the folder that it points to.

    Raises:
      UsageError: names the path.
    """
    real = outputs.check_folder(path)
    if not set(_entries(real)) <= set(_left(real)) and not (ours and ours(real)):
        raise UsageError(f"{path} holds something already: choose an empty directory")
    return real


def _begun(real: Path) -> str:
    """Returns the prefix of the names of a folder's partial folders."""
    return f".partial-{real.name[:_LONGEST_NAME]}-"


def _left(real: Path) -> list[Path]:
    """Lists the remains of killed runs of a folder, in it and next to it."""
    found = []
    for around in (real, real.parent):
        entries = _entries(around)
        for partial in entries:
            if not re.fullmatch(f"{re.escape(_begun(real))}[0-9a-f]{{12}}(\\.json)?", partial.name):
                continue
            if partial.suffix == _MOVING and not partial.with_suffix("").is_dir():
                found += [partial, *_moved(partial, entries)]
            elif _is_dead(partial):
                record = partial.with_name(partial.name + _MOVING)
                found += [partial, *([record, *_moved(record, entries)] if record.is_file() else [])]
    return found


def _moved(record: Path, entries: list[Path]) -> list[Path]:
    """Selects the entries of a folder that a record lists, if they still have the recorded inodes."""
    inodes = read_json(record)
    return [entry for entry in entries if inodes.get(entry.name) == entry.lstat().st_ino]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # it does not exist, or a later write will report the reason
        return []


def _is_dead(partial: Path) -> bool:
    """Whether no process is writing a partial folder any more; True only if a lock proves it."""
    if partial.is_symlink() or not partial.is_dir():
        return False
    try:
        with locked(partial) as free:
            return free is True
    except OSError:
        return False


def _move_up(place: Path) -> None:
    """Moves all entries of a folder into its parent, files last, because the card is a file."""
    entries = sorted(place.iterdir(), key=lambda entry: (not entry.is_dir(), entry.name))
    record = place.with_name(place.name + _MOVING)
    write_json(place / _MOVING, {entry.name: entry.lstat().st_ino for entry in entries})
    (place / _MOVING).rename(record)
    for entry in entries:
        if os.path.lexists(place.parent / entry.name):  # another process has made it
            record.unlink()
            raise UsageError(f"cannot save to {place.parent}: somebody has put {entry.name} there")
        entry.rename(place.parent / entry.name)
    place.rmdir()
    record.unlink()
