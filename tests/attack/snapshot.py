"""A tree of files as it was, to see afterwards what a command did to it."""

from __future__ import annotations

import hashlib
import os
import stat
from fnmatch import fnmatch
from pathlib import Path

DEVICES = ("/dev/null", "/dev/full", "/dev/zero", "/dev/random", "/dev/urandom")
Tree = dict[str, str]


def take(root: Path) -> Tree:
    """What lies under every path: its kind, mode, and content (a digest), target or device number."""
    found = {name: _described(name) for name in DEVICES if os.path.lexists(name)}
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            path = os.path.join(folder, name)
            found[os.path.relpath(path, root)] = _described(path)
    return found


def _described(path: str) -> str:
    status = os.lstat(path)
    kind, mode = stat.S_IFMT(status.st_mode), oct(stat.S_IMODE(status.st_mode))
    if kind == stat.S_IFLNK:
        return f"link to {os.readlink(path)}"
    if kind == stat.S_IFDIR:
        return f"folder {mode}"
    if kind != stat.S_IFREG:
        return f"device {oct(kind)} {status.st_rdev} {mode}"
    with open(path, "rb") as file:
        return f"file {mode} {hashlib.file_digest(file, 'sha1').hexdigest()}"


def lost(before: Tree, after: Tree, but: tuple[str, ...]) -> list[str]:
    """What was there and is gone or another, unless it matches one of `but`."""
    return [
        f"{name}: {what} is {after.get(name, 'gone')}"
        for name, what in before.items()
        if after.get(name) != what and not _matches(name, but)
    ]


def added(before: Tree, after: Tree, but: tuple[str, ...]) -> list[str]:
    """What is there and was not."""
    return [name for name in after if name not in before and not _matches(name, but)]


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
