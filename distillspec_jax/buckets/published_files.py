"""Single files in buckets: each appears when it is whole, as an object does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from distillspec_jax.buckets.publications import Publication
from distillspec_jax.buckets.stores import Part, told
from distillspec_jax.errors import UsageError

_SUFFIXES = (".partial.settings", ".partial", "")
"""The names of a file's objects end so; in the order in which they are written."""


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
        if not any(self._versions.values()):
            self._place.check_bucket()
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

    def _publish(self, names: Mapping[str, Part]) -> None:
        if self._found() != self._versions:
            raise UsageError(
                f"{self._what}: another run has written there since this one began: end one of the two, or "
                "choose another name"
            )
        for suffix, part in names.items():  # the file itself last
            self._place.put({suffix: part})
        self._place.remove([suffix for suffix in _SUFFIXES if suffix not in names])
        self._versions = self._found()
        with told(self._what):
            self._note(self._noted())

    def _found(self) -> dict[str, str | None]:
        return {suffix: self._place.version(suffix) for suffix in _SUFFIXES}

    def _noted(self) -> str:
        return json.dumps(self._versions)
