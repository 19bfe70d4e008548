"""New folders appear whole or not at all, and what a killed run left of one goes with the next.

They are written under a name that begins with `.partial-`: beside the place, or inside of it where an empty
folder is there, which stays the same folder (it may be a mount, or somebody's current one).
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
"""Beside a partial folder that is whole: the inodes of what is on its way from there into the folder around.

It goes last: as long as it is there, what it lists is no finished folder.
"""
_LONGEST_NAME = 60
"""Characters of a folder's name that its partial one's has; a file name has at most 255 bytes."""


@contextlib.contextmanager
def new_folder(path: str | Path, ours: outputs.Recognise | None = None) -> Iterator[Path]:
    """Makes a folder that appears under its name only when the context ends well.

    Args:
      path: there is nothing yet, an empty folder, or what a killed run left of one.
      ours: tells an earlier output of the same kind, which is there until the new one takes its place.

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
    """Refuses a place for a new folder that holds anything yet.

    Args:
      path, ours: see `new_folder`.

    Returns:
      The path to write: of a link, the folder that it leads to.

    Raises:
      UsageError: names it.
    """
    real = outputs.check_folder(path)
    if not set(_entries(real)) <= set(_left(real)) and not (ours and ours(real)):
        raise UsageError(f"{path} holds something already: choose an empty directory")
    return real


def _begun(real: Path) -> str:
    """How the names of a folder's partial ones begin."""
    return f".partial-{real.name[:_LONGEST_NAME]}-"


def _left(real: Path) -> list[Path]:
    """Lists what runs that were killed left of a folder, in it and beside it."""
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
    """Picks the entries of a folder that a record lists, if they are what was moved there."""
    inodes = read_json(record)
    return [entry for entry in entries if inodes.get(entry.name) == entry.lstat().st_ino]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:  # nothing there, or whoever writes will hear why not
        return []


def _is_dead(partial: Path) -> bool:
    """Whether nobody is writing a partial folder any more; True only where locks can tell."""
    if partial.is_symlink() or not partial.is_dir():
        return False
    try:
        with locked(partial) as free:
            return free is True
    except OSError:
        return False


def _move_up(place: Path) -> None:
    """Moves all that a folder holds into the folder around it, its files last: a card is one."""
    entries = sorted(place.iterdir(), key=lambda entry: (not entry.is_dir(), entry.name))
    record = place.with_name(place.name + _MOVING)
    write_json(place / _MOVING, {entry.name: entry.lstat().st_ino for entry in entries})
    (place / _MOVING).rename(record)
    for entry in entries:
        if os.path.lexists(place.parent / entry.name):  # somebody was faster
            record.unlink()
            raise UsageError(f"cannot save to {place.parent}: somebody has put {entry.name} there")
        entry.rename(place.parent / entry.name)
    place.rmdir()
    record.unlink()
