"""Outputs in buckets: written in a folder of this machine, and published from there.

What a run writes lies in `~/.cache/distillspec/outputs` (`stores.cache`), in one folder an address, so
that the code that writes folders and files need not know of buckets. When a part is whole, the run publishes:
a folder by a commit (`commits`), a single file as one object. A run that is started again finds what was
published last; what it had written since lies on this machine, and is gone on with only if nobody else has
published in between.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from distillspec_jax.buckets import stores
from distillspec_jax.buckets.stores import Part, Place, told
from distillspec_jax.errors import Unavailable, UsageError
from distillspec_jax.locks import locked

PERIOD = 60.0
"""Least seconds between two times that growing files are published, which takes all of their bytes."""


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
    _suffix = ""

    def __init__(self, address: str) -> None:
        self.address, self._what = address, f"cannot save to {address}"
        self._place = Place(address, self._what, self._between)
        digest = hashlib.sha256(address.encode()).hexdigest()[:24]
        self._root = stores.cache() / "outputs" / f"{digest}{self._suffix}"
        self.path = self._root / address.rpartition("/")[2]
        self._behind: threading.Thread | None = None
        self._failed: UsageError | None = None
        self._last = time.monotonic()
        self._held = contextlib.ExitStack()
        with told(self._what), self._held:
            self._root.mkdir(parents=True, exist_ok=True)
            if self._held.enter_context(locked(self._root)) is False:
                raise Unavailable(f"{self._what}: another process is writing there")
            for left in self._root.glob(".snapshot-*"):
                shutil.rmtree(left, ignore_errors=True)
            self._fetch()
            stores.stage(address, self.path)
            self._held.callback(stores.stage, address, None)
            self._held = self._held.pop_all()

    def follow(self) -> None:  # noqa: B027  (of one host there is nothing to do)
        """Takes over what the first of several hosts has published, where this is another one."""

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
    def _snapshot(self) -> Iterator[dict[str, Part]]:
        """Links to all files, by name, with their sizes now: a file grows or is replaced, not less."""
        place = self._root / f".snapshot-{secrets.token_hex(6)}"
        with told(self._what):
            place.mkdir()
        try:
            with told(self._what):
                found: dict[str, Part] = {}
                for name, path in self._files().items():
                    link, size = place / str(len(found)), path.stat().st_size
                    try:
                        os.link(path, link)
                    except OSError:  # a file system without links
                        shutil.copyfile(path, link)
                    found[name] = Part(link, size)
            yield found
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @abc.abstractmethod
    def _files(self) -> dict[str, Path]:
        """Finds what there is to publish, by names below the address."""

    @abc.abstractmethod
    def _publish(self, names: dict[str, Part]) -> None:
        """Publishes files."""

    @abc.abstractmethod
    def _fetch(self) -> None:
        """Makes the files on this machine those that are published, or goes on with those that came after."""

    def _known(self) -> str | None:
        """Reads what was published when this machine's files were last the same; None: they never were."""
        try:
            noted = json.loads((self._root / "state.json").read_text(encoding="utf-8"))
            return str(noted["published"]) if noted["address"] == self.address else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _note(self, published: str) -> None:
        new = self._root / "state.json.new"
        new.write_text(json.dumps({"address": self.address, "published": published}), encoding="utf-8")
        new.replace(self._root / "state.json")
