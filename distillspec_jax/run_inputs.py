"""Files and folders that a run has read, identified by device and inode, so that aliases are recognised."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path
from typing import NamedTuple

_Inode = tuple[int, int]


class _Input(NamedTuple):
    """An input at the time of reading."""

    name: str
    path: Path
    modified: int


@dataclasses.dataclass
class RunInputs:
    """A set of files, or of folders.

    A file system may reuse the inode of a deleted file. So an inode counts as an input only while the input's
    path still leads to it or, e.g. after a move, while its modification time is unchanged.
    """

    _known: dict[_Inode, _Input] = dataclasses.field(default_factory=dict)

    def note(self, path: Path, name: str) -> None:
        """Adds the path if it exists; if the file is already known, it keeps its first name."""
        found = status_of(path)
        if found is not None and self.name_of(path) is None:
            self._known[_inode(found)] = _Input(name, path.absolute(), found.st_mtime_ns)

    def note_standard_input(self) -> None:
        """Adds standard input if it is a regular file."""
        path = Path("/dev/fd/0")
        try:
            found = os.fstat(0)
        except OSError:
            return
        if stat.S_ISREG(found.st_mode):
            self._known[_inode(found)] = _Input("standard input", path, found.st_mtime_ns)

    def name_of(self, path: Path) -> str | None:
        """Returns the run's name for the file at a path; None if the run has not read it."""
        found = status_of(path)
        read = self._known.get(_inode(found)) if found is not None else None
        if found is None or read is None:
            return None
        there = status_of(read.path)
        same = there is not None and _inode(there) == _inode(found)
        return read.name if same or found.st_mtime_ns == read.modified else None


def status_of(path: Path) -> os.stat_result | None:
    """Returns the status of a path; None if it does not exist, or if opening it will report an error."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _inode(found: os.stat_result) -> _Inode:
    return (found.st_dev, found.st_ino)
