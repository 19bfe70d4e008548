"""Outputs in buckets: written in a folder of this machine, and published from there.

What a run writes lies in `~/.cache/distillspec/outputs` (`object_stores.cache`), in one folder an address, so
that the code that writes folders and files need not know of buckets. When a part is whole, the run publishes:
a folder by a commit (`commits`), a single file as one object. A run that is started again finds what was
published last; what it had written since lies on this machine, and is gone on with only if nobody else has
published in between.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from distillspec_jax import commits, object_stores
from distillspec_jax.commits import Commit, Entry
from distillspec_jax.errors import UsageError
from distillspec_jax.locks import locked
from distillspec_jax.object_stores import Place, told

PERIOD = 60.0
"""Least seconds between two times that growing files are published, which takes all of their bytes."""

_SUFFIXES = (".partial.settings", ".partial", "")
"""What ends the names of a file's objects, in the order in which they are written."""
_UNFINISHED = (".partial-", ".orbax-checkpoint-tmp")
"""In names of what somebody is writing, or was when he was killed: it belongs to no output."""


class Publication(abc.ABC):
    """An output in a bucket, from when a run takes the address until it closes it.

    Args:
      address: of the file or folder.

    Attributes:
      address: the same.
      path: where the run writes it on this machine.

    Raises:
      UsageError: a bucket that is not there or cannot be read, another run of this machine that writes to the
        address; in any method, a connection that was lost and did not come back. What is published stays.
    """

    _between = "/"

    def __init__(self, address: str) -> None:
        self.address, self._what = address, f"cannot save to {address}"
        self._place = Place(address, self._what, self._between)
        digest = hashlib.sha256(address.encode()).hexdigest()[:24]
        self._root = object_stores.cache() / "outputs" / digest
        self.path = self._root / address.rpartition("/")[2]
        self._behind: threading.Thread | None = None
        self._failed: UsageError | None = None
        self._last = time.monotonic()
        self._held = contextlib.ExitStack()
        with told(self._what), self._held:
            self._root.mkdir(parents=True, exist_ok=True)
            if self._held.enter_context(locked(self._root)) is False:
                raise UsageError(f"{self._what}: another process is writing there")
            for left in self._root.glob(".snapshot-*"):
                shutil.rmtree(left, ignore_errors=True)
            self._fetch()
            object_stores.stage(address, self.path)
            self._held.callback(object_stores.stage, address, None)
            self._held = self._held.pop_all()

    def publish(self) -> None:
        """Publishes what is there, and returns when it is in the bucket."""
        self.finish()
        with self._snapshot() as names:
            self._publish(names)
        self._last = time.monotonic()

    def publish_some(self) -> None:
        """Does so if the last time is `PERIOD` ago."""
        if time.monotonic() - self._last > PERIOD:
            self.publish()

    @abc.abstractmethod
    def written(self) -> None:
        """Is called when a file is whole; a folder's are published together, when its writer says so."""

    def publish_behind(self) -> None:
        """Publishes what is there now, in the background; the next call waits, and says how it went."""
        self.finish()
        held = contextlib.ExitStack()
        names = held.enter_context(self._snapshot())

        def job() -> None:
            with held:
                try:
                    self._publish(names)
                except UsageError as error:
                    self._failed = error

        # Ended at any moment, it leaves the bucket whole.
        self._behind = threading.Thread(target=job, name=f"publish {self.address}", daemon=True)
        self._behind.start()

    def check(self) -> None:
        """Raises what has gone wrong in the background, without waiting."""
        if self._behind is not None and not self._behind.is_alive():
            self.finish()

    def finish(self) -> None:
        """Waits for what is published in the background."""
        if self._behind is not None:
            self._behind.join()
            self._behind = None
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed

    def close(self, wait: bool = True) -> None:
        """Ends the run's hold of the address, whatever became of what is published in the background."""
        if self._behind is not None and wait:
            self._behind.join()
        self._held.close()

    @contextlib.contextmanager
    def _snapshot(self) -> Iterator[dict[str, _Part]]:
        """Links to all files, by name, with their sizes now: a file grows or is replaced, not less."""
        place = self._root / f".snapshot-{secrets.token_hex(6)}"
        with told(self._what):
            place.mkdir()
        try:
            with told(self._what):
                found = {}
                for name, path in self._files().items():
                    link, size = place / str(len(found)), path.stat().st_size
                    try:
                        os.link(path, link)
                    except OSError:  # a file system without links
                        shutil.copyfile(path, link)
                    found[name] = _Part(link, size)
            yield found
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @abc.abstractmethod
    def _files(self) -> dict[str, Path]:
        """What there is to publish, by names below the address."""

    @abc.abstractmethod
    def _publish(self, names: dict[str, _Part]) -> None:
        """Publishes files."""

    @abc.abstractmethod
    def _fetch(self) -> None:
        """Makes the files on this machine those that are published, or goes on with those that came after."""

    def _known(self) -> str | None:
        """What was published when this machine's files were last the same; None: they never were."""
        try:
            noted = json.loads((self._root / "state.json").read_text(encoding="utf-8"))
            return str(noted["published"]) if noted["address"] == self.address else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _note(self, published: str) -> None:
        new = self._root / "state.json.new"
        new.write_text(json.dumps({"address": self.address, "published": published}), encoding="utf-8")
        new.replace(self._root / "state.json")


@dataclasses.dataclass(frozen=True)
class _Part:
    """The first `size` bytes of a file; it may have grown since."""

    file: Path
    size: int

    def whole(self) -> Path:
        """A file of these bytes alone."""
        if self.file.stat().st_size == self.size:
            return self.file
        cut = self.file.with_name(self.file.name + ".cut")
        with self.file.open("rb") as long, cut.open("wb") as short:
            left = self.size
            while left and (block := long.read(min(left, 1 << 20))):
                short.write(block)
                left -= len(block)
        return cut


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

    def _publish(self, names: dict[str, _Part]) -> None:
        with told(self._what):
            new = {name: self._entry(part) for name, part in names.items()}
        before = self._commit or Commit()
        if self._commit is not None and new == self._listed == before.files:
            return
        there = self._committed()
        if (there and there.id) != (self._commit and self._commit.id):
            raise UsageError(f"{self._what}: another run has saved there since this one began")
        changed = [name for name in new if new[name] != self._listed.get(name)]
        direct = {name: names[name] for name in changed if name not in self._listed}
        late = {name: names[name] for name in changed if name in self._listed}
        pending = {new[name].pending: part for name, part in late.items()}
        leftovers = {*before.leftovers, *direct, *pending}
        self._write(Commit(before.files, sorted(leftovers - before.files.keys())))
        self._put(direct | pending)
        leftovers |= self._listed.keys() | before.files.keys()
        self._write(Commit(new, sorted(leftovers - new.keys())))
        self._put(late)
        self._listed = new
        self._place.remove(sorted(leftovers - new.keys()))
        self._commit = dataclasses.replace(self._commit, leftovers=[])

    def _write(self, commit: Commit) -> None:
        self._place.write(commits.NAME, commit.encoded())
        self._commit = commit
        with told(self._what):
            self._note(commit.id)

    def _put(self, parts: dict[str, _Part]) -> None:
        with told(self._what):
            files = {name: part.whole() for name, part in parts.items()}
        self._place.put(files)

    def _entry(self, part: _Part) -> Entry:
        found = part.file.stat()
        key = (found.st_ino, found.st_mtime_ns, part.size)
        if key not in self._entries:
            self._entries[key] = commits.entry(part.file, part.size)
        return self._entries[key]


class PublishedFile(Publication):
    """A single file, and beside it the lines and settings of a run that is not finished: an object each.

    Raises:
      UsageError: as `Publication`; the address is a bucket's, or another run has written there since this one
        began.
    """

    _between = ""

    def __init__(self, address: str) -> None:
        if address.count("/") < 3:
            raise UsageError(f"cannot save to {address}: it is a bucket: add the name of a file")
        super().__init__(address)

    def written(self) -> None:
        """See `Publication.written`."""
        self.publish()

    def _fetch(self) -> None:
        self._versions = self._found()
        if any(self._versions.values()) and self._known() == self._noted():
            return
        for suffix, version in self._versions.items():
            path = self.path.with_name(self.path.name + suffix)
            path.unlink(missing_ok=True)
            if version is not None:
                self._place.get(suffix, path)
        self._note(self._noted())

    def _files(self) -> dict[str, Path]:
        places = {suffix: self.path.with_name(self.path.name + suffix) for suffix in _SUFFIXES}
        return {suffix: path for suffix, path in places.items() if path.is_file()}

    def _publish(self, names: Mapping[str, _Part]) -> None:
        if self._found() != self._versions:
            raise UsageError(f"{self._what}: another run has written there since this one began")
        for suffix, part in names.items():  # the file itself last
            with told(self._what):
                whole = part.whole()
            self._place.put({suffix: whole})
        self._place.remove([suffix for suffix in _SUFFIXES if suffix not in names])
        self._versions = self._found()
        with told(self._what):
            self._note(self._noted())

    def _found(self) -> dict[str, str | None]:
        return {suffix: self._place.version(suffix) for suffix in _SUFFIXES}

    def _noted(self) -> str:
        return json.dumps(self._versions)
