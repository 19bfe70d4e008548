"""Object stores: their addresses, the libraries that speak to them, and what goes wrong there in one line.

What all of them promise is all that is built on here: an object appears whole or not at all, and is read as
it was written last. Nothing can be renamed, nothing can be locked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from distillspec_jax.errors import Unavailable, UsageError

LIBRARIES = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
"""Schemes, and what speaks them; the last is a bucket of this process alone, for tests."""

WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds before another try of what a lost connection has ended; the libraries have tried again by then."""
_AT_ONCE = 8
"""Objects that are written at the same time."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""How an address begins; `pathlib` makes one slash of two."""
_MISTYPED = re.compile(r"(gs|s3):(?!/+[^/])")
"""An address of a bucket without its slashes, or without the bucket."""

_PASSING_STATUS = frozenset({408, 429, *range(500, 600)})
"""HTTP's time-out, too many requests, and whatever is wrong on the server's side."""
_PASSING_CODES = frozenset(
    getattr(errno, name)
    for name in (
        *("EAGAIN", "EBUSY", "ECONNABORTED", "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH"),
        *("ENETDOWN", "ENETRESET", "ENETUNREACH", "EPIPE", "ETIMEDOUT"),
    )
)
"""Codes of the system's errors about networks, and s3fs's for a store that asks to slow down."""
_PASSING_CLASSES = frozenset(
    {
        *("ClientConnectionError", "ClientPayloadError"),  # aiohttp
        *("HTTPClientError", "IncompleteReadError", "ResponseStreamingError"),  # botocore
        *("ChecksumError", "TransportError"),  # gcsfs, google.auth
        *("ChunkedEncodingError", "ConnectionError", "ProxyError", "Timeout"),  # requests
    }
)
"""Classes, by name, of a connection that was lost or never made: the libraries share no class, and need not
be installed."""

Result = TypeVar("Result")


class _Lost(Exception):
    """The last try of an action has failed, too, as its cause tells."""


_staged: dict[str, Path] = {}
"""Addresses that runs of this process write, and where on this machine they write before they publish."""
_names: dict[str, str] = {}
"""Places on this machine that stand for addresses."""


def is_bucket(path: str | Path) -> bool:
    """Whether a path names an object store, `gs://BUCKET/NAME` or the like (`zoo:NAME` does not).

    Raises:
      UsageError: it lacks the slashes or the bucket, and would be a folder of this machine called `gs:`.
    """
    found = str(path)
    if mistyped := _MISTYPED.match(found):
        rest = found[mistyped.end() :].lstrip("/")
        meant = f"did you mean {mistyped[1]}://{rest}" if rest else f"write {mistyped[1]}://BUCKET/NAME"
        raise UsageError(f"{found!r} names no bucket: {meant}")
    return bool(_SCHEME.match(found))


def address(path: str | Path) -> str:
    """The path as its store writes it, where `pathlib` took one slash of two; without one at its end."""
    found = _SCHEME.sub(r"\1://", str(path), count=1)
    return found.rstrip("/") if is_bucket(path) else found


def cache() -> Path:
    """The folder of copies: `~/.cache/distillspec`, or where `DISTILLSPEC_CACHE` says."""
    return Path(os.environ.get("DISTILLSPEC_CACHE") or Path.home() / ".cache" / "distillspec")


def name(place: Path, path: str) -> None:
    """Notes which address a place on this machine stands for, for `named`."""
    _names[str(place)] = path


def stage(path: str, place: Path | None) -> None:
    """Notes where a run writes what it will publish at an address, or with None that it is over."""
    _staged.pop(path, None)
    if place is not None:
        _staged[path] = place
        name(place, path)


def staged(path: str | Path) -> Path | None:
    """Where a run of this process writes what it publishes at an address, or below one; None: none does."""
    if not is_bucket(path):
        return None
    whole = address(path)
    for base, place in _staged.items():
        if whole == base or whole.startswith(base + "/"):
            return place / whole[len(base) + 1 :] if whole != base else place
    return None


def named(text: str) -> str:
    """The text with addresses for the places on this machine that stand for them."""
    for place, path in _names.items():
        text = text.replace(place, path)
    return text


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turns what a store's library raises into one line: `WHAT: reason`.

    Raises:
      UsageError: in place of any other exception that is not a defect; `Unavailable` after the last try of
        `again`.
    """
    try:
        yield
    except (UsageError, AssertionError, AttributeError, NameError, TypeError):  # ours, and defects
        raise
    except Exception as raised:  # gcsfs, s3fs, aiohttp and botocore share no class
        error = raised.__cause__ or raised if isinstance(raised, _Lost) else raised
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
        if isinstance(error, FileNotFoundError) and "does not exist" not in said:
            said = "nothing is there"
        kind = Unavailable if isinstance(raised, _Lost) else UsageError
        raise kind(f"{what}: {said}") from error


def connect(path: str, what: str) -> Any:
    """Opens the store of an address, as fsspec's file systems are.

    Args:
      what: begins the error.

    Raises:
      UsageError: an unknown kind of store, or its library is not installed.
    """
    scheme = path.partition(":")[0]
    if scheme not in LIBRARIES:
        known = ", ".join(f"{name}://" for name in LIBRARIES if name != "memory")
        raise UsageError(f"{what}: unknown kind of store {scheme}:// (valid: {known})")
    try:
        import fsspec  # type: ignore[import-untyped]

        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise UsageError(
            f"{what}: {LIBRARIES[scheme]} is not installed: pip install 'distillspec_jax[buckets]'"
        ) from error


def again(action: Callable[[], Result]) -> Result:
    """Calls `action`, and calls it again if it fails in a way that may pass; for use within `told`."""
    for wait in (*WAITS, None):
        try:
            return action()
        except Exception as error:  # as in `told`
            if not _may_pass(error):
                raise
            if wait is None:
                raise _Lost from error
        time.sleep(wait)
    raise AssertionError  # the last try returns or raises


def _may_pass(error: BaseException | None) -> bool:
    """Whether another try may succeed: the connection, a time-out, or the store's own trouble."""
    while error is not None:
        classes = {base.__name__ for base in type(error).__mro__}
        if (status := _http_status(error)) is not None:
            return status in _PASSING_STATUS
        if any("Certificate" in name or "CertVerification" in name for name in classes):
            return False
        if isinstance(error, (ConnectionError, TimeoutError, socket.gaierror)) or classes & _PASSING_CLASSES:
            return True
        if isinstance(error, OSError) and error.errno in _PASSING_CODES:
            return True
        error = error.__cause__  # s3fs makes an `OSError` of botocore's errors
    return False


def _http_status(error: BaseException) -> int | None:
    """The status of a store's answer: an attribute of aiohttp's and gcsfs's errors, below one in others."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(error, "code", None)
        found = found or getattr(answer, "status_code", None)
    return int(found) if str(found).isdecimal() else None


@dataclasses.dataclass(frozen=True)
class Part:
    """The first `size` bytes of a file, which may grow meanwhile; `file` is the caller's own link to it."""

    file: Path
    size: int

    def whole(self) -> Path:
        """A file of these bytes alone, as long as the file does not grow."""
        if self.file.stat().st_size == self.size:
            return self.file
        cut = self.file.with_name(self.file.name + ".cut")
        with self.file.open("rb") as long, cut.open("wb") as short:
            left = self.size
            while left and (block := long.read(min(left, 1 << 20))):
                short.write(block)
                left -= len(block)
        return cut


class Place:
    """An address that a run writes to; names are of objects there.

    Args:
      path: the address.
      what: begins every error.
      between: address and name; empty where the names go on with the address.

    Raises:
      UsageError: here and in every method, whatever goes wrong, in one line.
    """

    def __init__(self, path: str, what: str, between: str = "/") -> None:
        self._address, self._what, self._between = path, what, between
        self._store = connect(path, what)

    def read(self, name: str) -> bytes | None:
        """The content of an object, or None where there is none."""
        with self._told():
            try:
                content: bytes = again(lambda: self._store.cat_file(self._full(name)))
                return content
            except FileNotFoundError:
                return None

    def get(self, name: str, to: Path) -> bool:
        """Copies an object to this machine, and tells whether there is one."""
        with self._told():
            try:
                again(lambda: self._store.get_file(self._full(name), str(to)))
            except FileNotFoundError:
                to.unlink(missing_ok=True)
                return False
            return True

    def entries(self) -> list[str]:
        """The names directly below the address; none where nothing is."""
        with self._told():
            self._store.invalidate_cache()
            root = self._store._strip_protocol(self._address).rstrip("/") + "/"
            try:
                found = again(lambda: self._store.ls(self._address, detail=False))
            except FileNotFoundError:
                return []
            names = (name.rstrip("/") for name in found)
            return sorted(name.removeprefix(root) for name in names if name.startswith(root) and name != root)

    def check_bucket(self) -> None:
        """Refuses a bucket that is not there, or that must not be read."""
        scheme, _, rest = self._address.partition("://")
        bucket = f"{scheme}://{rest.partition('/')[0]}"
        with self._told():
            if not again(lambda: self._store.exists(bucket)):
                raise UsageError(f"{self._what}: there is no bucket {bucket}, or no right to read it")

    def version(self, name: str) -> str | None:
        """Asks what tells this version of an object from others; None where there is no object."""
        with self._told():
            self._store.invalidate_cache()
            try:
                return version(again(lambda: self._store.info(self._full(name))))
            except FileNotFoundError:
                return None

    def put(self, parts: dict[str, Part]) -> None:
        """Writes objects; when this returns, all of them are whole."""
        from concurrent.futures import ThreadPoolExecutor

        with self._told(), ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda item: again(lambda: self._put(*item)), parts.items()))

    def _put(self, name: str, part: Part) -> None:
        self._store.put_file(str(part.whole()), self._full(name))
        found = self._store.info(self._full(name))["size"]
        if found != part.size:  # cut short, or the file grew while it was read: the next try copies it first
            raise ConnectionError(f"{name} ended after {found:,} of {part.size:,} bytes")

    def write(self, name: str, content: bytes) -> None:
        """Writes one object."""
        with self._told():
            again(lambda: self._store.pipe_file(self._full(name), content))

    def remove(self, names: list[str]) -> None:
        """Removes objects, as far as they are there."""
        for name in names:
            with self._told(), contextlib.suppress(FileNotFoundError):
                again(lambda name=name: self._store.rm_file(self._full(name)))  # type: ignore[misc]

    def _full(self, name: str) -> str:
        return f"{self._address}{self._between}{name}"

    def _told(self) -> contextlib.AbstractContextManager[None]:
        return told(self._what)


_VERSION = ("size", "etag", "ETag", "generation", "md5Hash", "sha256", "LastModified", "created")
"""Fields by which the stores' libraries tell versions of an object apart; each has some of them."""


def version(info: Any) -> str:
    """Picks what tells versions of an object apart, of all that its store says of it."""
    return " ".join(str(info.get(field)) for field in _VERSION)
