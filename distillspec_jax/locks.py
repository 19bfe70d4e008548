"""Locks that end with the process that holds them."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def lock(descriptor: int) -> bool | None:
    """Locks an open file or folder until it is closed, or its process ends.

    Returns:
      Whether it is locked now; False: another process holds it; None: its file system knows no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool | None]:
    """Locks a folder as long as the context lasts and this process lives; yields what `lock` says."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield lock(descriptor)
    finally:
        os.close(descriptor)
