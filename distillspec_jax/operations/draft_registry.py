"""A registry of drafts: a folder of immutable versions, and one file that records which of them serve.

    DIR/registry.json        every transition, the last in force; replaced by one atomic rename
    DIR/versions/NAME/       a draft's checkpoint directory, with profile.json and lineage.json
    DIR/prompts.jsonl        earlier prompts, which `redistill` mixes with new ones

Servers poll `state`, which costs a stat and rarely the read of a small file. Writers hold a lock that ends
with their process, so a dead process never blocks others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distillspec_jax import locks, new_folders, outputs
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.operations import lineage, transitions
from distillspec_jax.operations.lineage import Lineage
from distillspec_jax.operations.transitions import Action, History, ServingState, Transition

STATE, VERSIONS, PROMPTS = "registry.json", "versions", "prompts.jsonl"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PARTIAL = ".partial-"
_PATIENCE, _COPYING = 10.0, 600.0
"""Seconds to wait for another process that changes the state, and for one that copies a version."""

Write = Callable[[Path], Lineage]
"""Writes a draft's files into a new folder and returns its lineage."""


class DraftRegistry:
    """An existing registry; `create` makes one.

    Args:
      path: of its folder.

    Raises:
      UsageError: there is none.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: tuple[tuple[int, ...], History] | None = None
        if not (self.path / STATE).is_file():
            there = "" if self.path.is_dir() else " (no such folder)"
            raise UsageError(
                f"{path} is no registry of drafts: it has no {STATE}{there}; `distillspec registry init` "
                "makes one"
            )

    @property
    def history(self) -> History:
        """All transitions; read again only if the file has changed.

        Raises:
          UsageError: it cannot be read.
        """
        path = self.path / STATE
        try:
            found = path.stat()
        except OSError as error:
            raise UsageError(f"cannot read {str(path)!r}: {error.strerror}") from error
        # The status is taken before the read, so a change in between is noticed next time.
        status = (found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
        if self._known is None or self._known[0] != status:
            self._known = status, transitions.read(path)
        return self._known[1]

    def state(self) -> ServingState:
        """Returns the drafts currently in service.

        Raises:
          UsageError: the state cannot be read.
        """
        return self.history.last.serving

    def versions(self) -> list[str]:
        """Lists the complete versions, in the order in which they were added."""
        found = [
            entry
            for entry in _entries(self.path / VERSIONS)
            if _NAME.fullmatch(entry.name) and (entry / lineage.FILE).is_file()
        ]
        return [path.name for path in sorted(found, key=lambda path: (lineage.read(path).added, path.name))]

    def named(self) -> list[str]:
        """Lists all versions, including serving ones whose folder is missing."""
        found, state = self.versions(), self.state()
        return [*found, *(one for one in (state.stable, state.candidate) if one and one not in found)]

    def path_of(self, version: str) -> Path:
        """Returns the folder of a version, for `models.pretrained.load`.

        Raises:
          UsageError: there is no such version; names the nearest.
        """
        folder = self.path / VERSIONS / version
        if not _NAME.fullmatch(version) or not (folder / lineage.FILE).is_file():
            names = [entry.name for entry in _entries(self.path / VERSIONS) if entry.name[0] != "."]
            raise UsageError(f"{self.path} has no version {version!r}: {nearest(version, names)}")
        return folder

    def lineage(self, version: str) -> Lineage:
        """Reads the lineage of a version.

        Raises:
          UsageError: there is no such version, or its lineage is damaged.
        """
        return lineage.read(self.path_of(version))

    def check(self, version: str) -> Lineage:
        """Checks that a version is complete, unchanged, and a draft of this registry's target.

        Raises:
          UsageError: it is not; says what is wrong.
        """
        found, known = lineage.check(self.path_of(version)), self.history
        if found.target_fingerprint != known.target_fingerprint:
            raise UsageError(
                f"version {version} is a draft of another target, {found.target} "
                f"({found.target_fingerprint}), than this registry's, {known.target} "
                f"({known.target_fingerprint})"
            )
        if found.vocabulary != known.vocabulary and None not in (found.vocabulary, known.vocabulary):
            raise UsageError(
                f"version {version} has another vocabulary than this registry's target "
                f"(tokenizer {str(found.vocabulary)[:12]} against {str(known.vocabulary)[:12]})"
            )
        return found

    def change(
        self,
        action: Action,
        reason: str,
        *,
        stable: str | None = None,
        candidate: str | None = None,
        share: float = 0.0,
        expected: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Transition:
        """Adds a transition, which takes effect at once.

        Args:
          action, reason, candidate, share, details: see `Transition`.
          stable: default: the current one.
          expected: the revision that this decision is based on; None: any.

        Raises:
          UsageError: the revision has changed, which keeps a step from being taken twice; the share is out of
            range; or a version is missing.
        """
        with self._alone(self.path, _PATIENCE) as history:
            last = history.last
            if expected is not None and expected != last.revision:
                raise UsageError(
                    f"{self.path} is at revision {last.revision} by now ({last.action}: {last.reason}), and "
                    f"this was decided at {expected}: look again"
                )
            made = Transition(
                revision=last.revision + 1,
                time=time.time(),
                action=action,
                reason=reason,
                stable=last.stable if stable is None else stable,
                candidate=candidate,
                share=share,
                details=dict(details or {}),
            )
            for version in filter(None, (made.stable, made.candidate)):
                self.path_of(version)
            for left in self.path.glob(f"{_PARTIAL}*{Path(STATE).suffix}"):  # left by a killed process
                left.unlink(missing_ok=True)
            after = dataclasses.replace(history, transitions=[*history.transitions, made])
            transitions.write(self.path / STATE, after)
        return made

    def promote(self, version: str, reason: str, expected: int | None = None) -> Transition:
        """Makes a version the stable one, for all requests.

        Raises:
          UsageError: it already is, is damaged, or another version is being rolled out.
        """
        self.check(version)
        last = self.history.last
        if version == last.stable:
            raise UsageError(f"version {version} is the stable one already")
        if last.candidate not in (None, version):
            raise UsageError(
                f"version {last.candidate} is being rolled out: end that first (`distillspec rollout abort`)"
            )
        expected = last.revision if expected is None else expected
        return self.change("promote", reason, stable=version, expected=expected)

    def roll_back(self, reason: str) -> Transition:
        """Withdraws the candidate if there is one, else returns to the previous stable version.

        Raises:
          UsageError: there is no previous version.
        """
        history = self.history
        if history.last.candidate is not None:
            return self.change("withdraw", reason, expected=history.last.revision)
        before = history.before()
        if before is None:
            raise UsageError(
                f"version {history.last.stable} is the first of {self.path}: nothing was before it"
            )
        return self.change("roll back", reason, stable=before, expected=history.last.revision)

    def add(self, write: Write, version: str | None = None) -> str:
        """Adds a version that does not serve yet.

        Args:
          write: writes it.
          version: its name; default: the next of v1, v2, ...

        Returns:
          Its name.

        Raises:
          UsageError: the name is taken or invalid; or see `write`.
        """
        folder = self.path / VERSIONS
        with self._alone(folder, _COPYING):
            for left in folder.glob(f"{_PARTIAL}*"):
                shutil.rmtree(left, ignore_errors=True)
            names = [entry.name for entry in _entries(folder)]
            version = version or next_name(names)
            if check_name(version) in names:
                raise UsageError(f"version {version} is there already, and versions are never changed")
            _write_version(folder / version, write)
        return version

    @contextlib.contextmanager
    def _alone(self, folder: Path, patience: float) -> Iterator[History]:
        """Locks a folder against changes by other processes; yields the history at that time."""
        until = time.monotonic() + patience
        while True:
            if not folder.is_dir():
                raise UsageError(f"{self.path} is no whole registry: there is no folder {folder}")
            with locks.locked(folder) as free:
                if free:
                    yield transitions.read(self.path / STATE)
                    return
            if free is None:
                raise UsageError(f"{folder} lies on a file system without locks: no place for a registry")
            if time.monotonic() > until:
                raise UsageError(f"{folder}: another process has been changing it for {patience:.0f} seconds")
            time.sleep(0.02)


def create(
    path: str | Path,
    write: Write,
    vocabulary: str | None = None,
    version: str | None = None,
) -> DraftRegistry:
    """Creates a registry with one version, which serves.

    Args:
      path: of the folder, which does not exist or is empty.
      write: writes the version; the registry's target is that of its lineage.
      vocabulary: of the target.
      version: the version's name.

    Raises:
      UsageError: the folder is not empty, or the draft cannot be written.
    """
    version = check_name(version or next_name(()))
    with new_folders.new_folder(path) as folder:
        (folder / VERSIONS).mkdir()
        found = _write_version(folder / VERSIONS / version, write)
        first = Transition(revision=1, time=time.time(), action="init", reason="the first", stable=version)
        history = History(
            target=found.target,
            target_fingerprint=found.target_fingerprint,
            vocabulary=vocabulary,
            transitions=[first],
        )
        transitions.write(folder / STATE, history)
    return DraftRegistry(outputs.resolved(path))


def check_name(version: str) -> str:
    """Returns a version's name after checking it.

    Raises:
      UsageError: it is not a valid folder name.
    """
    if not _NAME.fullmatch(version):
        raise UsageError(
            f"version {version[:100]!r}: a name has up to 64 letters, digits, dots, dashes and underscores, "
            "and begins with a letter or a digit"
        )
    return version


def next_name(names: Iterable[str]) -> str:
    """Returns the next of v1, v2, ... after all existing names."""
    numbers = [int(found[1]) for found in (re.fullmatch(r"v(\d{1,9})", name) for name in names) if found]
    return f"v{max(numbers, default=0) + 1}"


def _write_version(folder: Path, write: Write) -> Lineage:
    with new_folders.new_folder(folder) as partial:
        found = write(partial)
        lineage.write(partial, found)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []
