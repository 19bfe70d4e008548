"""Files and folders that a run has read, known by device and inode: another name of one is the same file."""

from __future__ import annotations

import dataclasses
import os
import stat
from pathlib import Path
from typing import NamedTuple

_Inode = tuple[int, int]


class _Input(NamedTuple):
    """An input as it was when it was read."""

    name: str
    path: Path
    modified: int


@dataclasses.dataclass
class RunInputs:
    """Either files or folders.

    A file system gives the inode of a file that is gone to a new one. So an input counts as long as its path
    leads to it, and elsewhere while it was not modified, as when it was moved.
    """

    _known: dict[_Inode, _Input] = dataclasses.field(default_factory=dict)

    def note(self, path: Path, name: str) -> None:
        """Adds what is there, if anything is; of two names the first is kept."""
        found = status_of(path)
        if found is not None and self.name_of(path) is None:
            self._known[_inode(found)] = _Input(name, path.absolute(), found.st_mtime_ns)

    def note_standard_input(self) -> None:
        """Adds it where it is a plain file."""
        path = Path("/dev/fd/0")
        try:
            found = os.fstat(0)
        except OSError:
            return
        if stat.S_ISREG(found.st_mode):
            self._known[_inode(found)] = _Input("standard input", path, found.st_mtime_ns)

    def name_of(self, path: Path) -> str | None:
        """The name by which the run knows what is there; None: it has not read it."""
        found = status_of(path)
        read = self._known.get(_inode(found)) if found is not None else None
        if found is None or read is None:
            return None
        there = status_of(read.path)
        same = there is not None and _inode(there) == _inode(found)
        return read.name if same or found.st_mtime_ns == read.modified else None


def status_of(path: Path) -> os.stat_result | None:
    """The status of what is there; None where nothing is, or where whoever opens it will hear why not."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _inode(found: os.stat_result) -> _Inode:
    return (found.st_dev, found.st_ino)
