"""Folders in buckets, published by commits (`commits`)."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from distillspec_jax.buckets import commits
from distillspec_jax.buckets.commits import Commit, Entry
from distillspec_jax.buckets.publications import Publication
from distillspec_jax.buckets.stores import Part, told
from distillspec_jax.errors import UsageError

_UNFINISHED = (".partial-", ".orbax-checkpoint-tmp")
"""In names of what somebody is writing, or was when he was killed: it belongs to no output."""


class PublishedFolder(Publication):
    """A folder, whose contents change from one commit to the next.

    Raises:
      UsageError: as `Publication`; the bucket holds something there that no run has committed, another run
        has committed since this one began, or a commit that cannot be read.
    """

    def written(self) -> None:
        """See `Publication.written`."""

    def _fetch(self) -> None:
        self._entries: dict[tuple[int, int, int], Entry] = {}
        self._commit = self._committed()
        if self._commit is None:
            self._place.check_bucket()
            there = self._place.entries()
            if there:
                raise UsageError(
                    f"{self._what}: it holds {there[0]}, but no {commits.NAME}, by which a run knows its "
                    "own: choose another folder"
                )
            shutil.rmtree(self.path, ignore_errors=True)
            self._listed: dict[str, Entry] = {}
            return
        left = set(self._commit.leftovers)  # of a run that was killed before all lay under their own names
        self._listed = {name: one for name, one in self._commit.files.items() if one.pending not in left}
        if self._known() != self._commit.id:
            self._equalise(self._commit)
            self._note(self._commit.id)

    def _equalise(self, commit: Commit) -> None:
        """Makes the folder on this machine what a commit lists.

        What is damaged in the bucket is taken as it is: whoever reads it finds out, as in a folder.
        """
        for name, path in self._files(unfinished=True).items():
            if name not in commit.files or commits.entry(path, path.stat().st_size) != commit.files[name]:
                path.unlink()
        for name, entry in commit.files.items():
            path = self.path / name
            if path.is_file():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                commits.fetch(self._place.get, name, entry, path)
            except LookupError:
                self._listed.pop(name, None)
        for folder in sorted(self.path.rglob("*"), reverse=True):
            with contextlib.suppress(OSError):  # a file, or it holds something
                folder.rmdir()

    def _files(self, unfinished: bool = False) -> dict[str, Path]:
        found = sorted(path for path in self.path.rglob("*") if path.is_file())
        names = {path.relative_to(self.path).as_posix(): path for path in found}
        return {
            name: path
            for name, path in names.items()
            if unfinished or not any(mark in name for mark in _UNFINISHED)
        }

    def _committed(self) -> Commit | None:
        content = self._place.read(commits.NAME)
        return None if content is None else commits.decoded(content, f"{self.address}/{commits.NAME}")

    def _publish(self, names: dict[str, Part]) -> None:
        with told(self._what):
            new = {name: self._entry(part) for name, part in names.items()}
        before = self._commit or Commit()
        unchanged = self._commit is not None and new == self._listed == before.files
        if unchanged and not before.leftovers:
            return
        self._check_alone()
        if unchanged:
            self._write(Commit(before.files, before.leftovers))  # who still writes them will see it
            self._clear(before.leftovers)
            return
        changed = [name for name in new if new[name] != self._listed.get(name)]
        late = {name: names[name] for name in changed if new[name] != before.files.get(name, new[name])}
        direct = {name: names[name] for name in changed if name not in late}
        pending = {new[name].pending: part for name, part in late.items()}
        leftovers = {*before.leftovers, *direct, *pending}
        self._write(Commit(before.files, sorted(leftovers - before.files.keys())))
        self._place.put(direct | pending)
        leftovers |= self._listed.keys() | before.files.keys()
        commit = Commit(new, sorted(leftovers - new.keys()))
        self._check_alone()  # another run may have cleared away what was put
        self._write(commit)
        self._place.put(late)
        self._listed = new
        self._clear(commit.leftovers)

    def _check_alone(self) -> None:
        """Refuses to go on where the commit in force is not this run's last, or the one it began with."""
        there = self._committed()
        if (there and there.id) != (self._commit and self._commit.id):
            raise UsageError(
                f"{self._what}: another run has saved there since this one began: end one of the two; this "
                "command, run again, goes on from what is saved there"
            )

    def _clear(self, leftovers: list[str]) -> None:
        """Removes what belongs to no contents; the commit in the bucket may go on to name it."""
        assert self._commit is not None
        if leftovers:
            self._check_alone()  # they may be another run's by now
        self._place.remove([name for name in leftovers if name not in self._commit.files])
        self._commit = Commit(self._commit.files, id=self._commit.id)

    def _write(self, commit: Commit) -> None:
        self._place.write(commits.NAME, commit.encoded())
        self._commit = commit
        with told(self._what):
            self._note(commit.id)

    def _entry(self, part: Part) -> Entry:
        found = part.file.stat()
        key = (found.st_ino, found.st_mtime_ns, part.size)
        if key not in self._entries:
            self._entries[key] = commits.entry(part.file, part.size)
        return self._entries[key]
