"""A run's checkpoint directory: a folder, or a bucket, from which the next run goes on on another machine."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from distillspec_jax.buckets import copies
from distillspec_jax.shapes import Params
from tests import emulators
from tests.training import toy

KINDS = ("folder", "memory", *emulators.EMULATED)


def everywhere(*values: Any, also: Sequence[Any] = ()) -> pytest.MarkDecorator:
    """Runs a test with each value in a folder and in every kind of bucket.

    Args:
      also: the values that are run with the bucket in memory every day; the others are slow tests.
    """
    return pytest.mark.parametrize(
        ("home", "value"),
        [
            pytest.param(
                kind, value, marks=[pytest.mark.slow] if kind != "folder" and value not in also else []
            )
            for kind in KINDS
            for value in values
        ],
        indirect=["home"],
    )


class Folder:
    """A folder.

    Attributes:
      address: what a run is told.
    """

    def __init__(self, path: Path) -> None:
        self.address: str | Path = path

    def found(self) -> Path:
        """The directory as the next run finds it."""
        return Path(self.address)

    def damage(self, action: Callable[[Path], None]) -> None:
        """Changes what lies there, as a person or a disk would."""
        action(self.found())


def assert_same_as(uninterrupted: tuple[Params, list[Any]], params: Params, home: Folder) -> None:
    """Compares a run in a home with the one that nothing interrupted: arrays and reports, bit for bit."""
    toy.assert_equal(uninterrupted[0], params)
    assert toy.lines(home.found()) == uninterrupted[1]


class Bucket(Folder):
    """A folder in a bucket; what is left on this machine is never used again."""

    def __init__(self, address: str, scratch: Path, patch: pytest.MonkeyPatch) -> None:
        self.address = address
        self._scratch, self._patch, self._machines = scratch, patch, itertools.count()
        self._store = fsspec.filesystem(address.partition(":")[0])
        self._leave()

    def found(self) -> Path:
        """See `Folder.found`."""
        self._leave()
        return copies.local(str(self.address))

    def damage(self, action: Callable[[Path], None]) -> None:
        """See `Folder.damage`."""
        copy = self._scratch / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        self._store.invalidate_cache()
        self._store.get(str(self.address), str(copy), recursive=True)
        before = _contents(copy)
        action(copy)
        after = _contents(copy)
        for name in before.keys() - after.keys():
            self._store.rm_file(f"{self.address}/{name}")
        for name, content in after.items():
            if content != before.get(name):
                self._store.pipe_file(f"{self.address}/{name}", content)
        self._leave()

    def _leave(self) -> None:
        """Goes on on another machine."""
        self._patch.setenv("DISTILLSPEC_CACHE", str(self._scratch / f"machine-{next(self._machines)}"))
        copies._copied.cache_clear()


def _contents(folder: Path) -> dict[str, bytes]:
    files = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
