"""Commits: what a folder in a bucket holds, in one object that is written when all the others are there.

A bucket cannot rename a folder, so that its objects change one by one. `commit.json` lists those that belong
together, with their sizes and SHA-256. To publish new contents, a run

    1. writes the commit that is in force again, with the names of what it is about to write (`leftovers`)
    2. writes all objects under names that the commit in force does not list; an object that is to change goes
       to `distillspec_pending/SHA256`
    3. writes the commit that lists the new contents: from here on they are in force
    4. writes what changed under its own name, and removes what is listed no longer and what was pending

Whoever reads takes what the commit lists, and an object that is not as listed from where it is pending. So a
run that ends at any moment leaves the old contents or the new, and the next one knows what to clear away.

Every commit has another id. A run reads it before 1, before 3 and before it removes anything, and ends where
the id is not the one that it knows: another run has begun to publish. Between that look and the write it is
not protected, nor is an object under its own name that both are writing; who reads it finds out by its sum.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec

from distillspec_jax.errors import UsageError

NAME, PENDING = "commit.json", "distillspec_pending"

_Name = Annotated[str, msgspec.Meta(pattern=r"^(?!\.{0,2}(/|\Z))[^/\0]+(/(?!\.{0,2}(/|\Z))[^/\0]+)*\Z")]
"""A path below a folder: no part of it is empty, `.` or `..`."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An object: its size in bytes, and the SHA-256 of its content in hexadecimal digits."""

    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]

    @property
    def pending(self) -> str:
        """Where the object lies before it has its own name."""
        return f"{PENDING}/{self.sha256}"


@dataclasses.dataclass(frozen=True)
class Commit:
    """The content of a folder in a bucket.

    Attributes:
      files: what belongs to it, by names relative to the folder.
      leftovers: names that may be there and do not.
      id: another one for every commit.
      version: of this format.
    """

    files: dict[_Name, Entry] = dataclasses.field(default_factory=dict)
    leftovers: list[_Name] = dataclasses.field(default_factory=list)
    id: str = dataclasses.field(default_factory=lambda: secrets.token_hex(12))
    version: int = 1

    def encoded(self) -> bytes:
        """The commit as JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def decoded(content: bytes, place: str) -> Commit:
    """Reads a commit.

    Args:
      place: of the object, for errors.

    Raises:
      UsageError: it is none, or one of a release that is not known here.
    """
    try:
        found = msgspec.json.decode(content, type=Commit)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise UsageError(f"{place} is damaged, or no commit of ours: {error}") from error
    if found.version != 1:
        raise UsageError(f"{place} is a commit of version {found.version}; this release reads version 1")
    return found


def is_name(name: str) -> bool:
    """Whether a name stays below the folder that it is relative to."""
    try:
        msgspec.convert(name, _Name)
    except msgspec.ValidationError:
        return False
    return True


def entry(file: Path, size: int) -> Entry:
    """Describes the first `size` bytes of a file."""
    digest, left = hashlib.sha256(), size
    with file.open("rb") as opened:
        for block in iter(functools.partial(opened.read, 1 << 20), b""):
            digest.update(block[:left])
            left -= len(block[:left])
    return Entry(size - left, digest.hexdigest())


def fetch(get: Callable[[str, Path], bool], name: str, listed: Entry, to: Path) -> bool:
    """Copies an object as a commit lists it.

    Args:
      get: copies an object of a name to a file, and tells whether there is one.
      to: the file.

    Returns:
      Whether it lies under its own name. It may be pending.

    Raises:
      LookupError: it is nowhere as listed; `to` is what lies under its name, if anything does.
    """
    if get(name, to) and entry(to, to.stat().st_size) == listed:
        return True
    pending = to.with_name(to.name + ".pending")
    if get(listed.pending, pending) and entry(pending, pending.stat().st_size) == listed:
        pending.replace(to)
        return False
    pending.unlink(missing_ok=True)
    raise LookupError(name)
