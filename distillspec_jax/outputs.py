"""Protects files: a run overwrites neither its inputs nor files that no run of this package made.

A run is one command, or one call of the Python API. Code that opens an input calls `reads`; code that opens
an output calls `check` first. Files are identified by device and inode, so that another name or a link to an
input counts as the input. An existing file is replaced only if its writer recognises it as its own kind; an
existing folder is reused only if it has the card of an earlier run. An output in a bucket is written on this
machine, at the path that `place` returns, and published whenever a part of it is complete.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import errno
import functools
import os
import re
import stat
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from distillspec_jax.buckets import stores
from distillspec_jax.errors import UsageError
from distillspec_jax.run_inputs import RunInputs, status_of

if TYPE_CHECKING:
    from distillspec_jax.buckets.publications import Publication

LAYOUT = frozenset(
    {
        *("model.json", "tokenizer.model", "tokenizer.json", "checkpoints", "damaged"),
        *("metrics.jsonl", "tensorboard"),
        *("set.json", "texts.jsonl", "texts.jsonl.partial", "logprobs", "laws"),
    }
)
"""Names that belong to a folder of this package: a checkpoint, its training, or a stored set."""

_CARDS = ("model.json", "set.json")

_OWN_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr|fd/\d+)|/proc/[^/]+/fd/\d+")
"""Names of open descriptors, perhaps of a file: the run writes directly to them, as the shell set them up."""

Recognise = Callable[[Path], bool]
"""Decides whether an existing file is an earlier output of the same kind."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclasses.dataclass
class _Run:
    """An active run: the files and folders that it has read, with their given names, and its own folders.

    Attributes:
      addresses: addresses in buckets that it has read.
      published: its outputs in buckets, by address.
    """

    files: RunInputs = dataclasses.field(default_factory=RunInputs)
    folders: RunInputs = dataclasses.field(default_factory=RunInputs)
    own: set[Path] = dataclasses.field(default_factory=set)
    addresses: set[str] = dataclasses.field(default_factory=set)
    published: dict[str, Publication] = dataclasses.field(default_factory=dict)


_under_way: contextvars.ContextVar[_Run | None] = contextvars.ContextVar("run", default=None)


@contextlib.contextmanager
def run() -> Iterator[None]:
    """Begins a run, unless one is active; its outputs cannot overwrite its inputs.

    Raises:
      UsageError: an error raised within; it names the bucket's address instead of the local path.
    """
    if _under_way.get() is not None:
        with _named():
            yield
        return
    begun = _Run()
    if sys.stdin is not None:
        begun.files.note_standard_input()
    token = _under_way.set(begun)
    waits = True
    try:
        with _named():
            yield
    except KeyboardInterrupt:
        waits = False
        raise
    finally:
        _under_way.reset(token)
        for one in begun.published.values():
            one.close(waits)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        error.args = tuple(stores.named(str(part)) for part in error.args)
        raise


def one_run(job: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wraps a function so that each call is a run."""

    @functools.wraps(job)
    def within(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with run():
            return job(*args, **kwargs)

    return within


def reads(path: str | Path, name: str | None = None) -> None:
    """Records an input, and the direct entries of a folder. Files that the run made are not inputs.

    Args:
      path: the opened path; ignored if it does not exist.
      name: the user's name for it; default: `path`.
    """
    under_way = _under_way.get()
    if under_way is None:
        return
    for one in (path, name or ""):
        if stores.is_bucket(one) and not stores.staged(one):
            under_way.addresses.add(stores.address(one))
    for found in (Path(path), *_entries(path)):
        if status_of(found) is not None and not _is_own(found.resolve(), under_way):
            kept = under_way.folders if found.is_dir() else under_way.files
            kept.note(found, name or str(path))


AnyPath = TypeVar("AnyPath", bound=str | Path)


def place(path: AnyPath, *, folder: bool, host: int = 0) -> AnyPath:
    """Returns where the run writes an output: the path itself, or for a bucket a path on this machine.

    The local path then holds what is already published at the address; `publish` uploads what is written.

    Args:
      folder: whether the output is a folder instead of a single file.
      host: index of this process among those that write the folder together; the first publishes it.

    Raises:
      UsageError: see `publications.Publication`; or the output is part of the run's inputs.
    """
    if not stores.is_bucket(path):
        return path
    address, under_way = stores.address(path), _under_way.get()
    if under_way is None:
        return path  # without a run nothing would close the publication: `resolved` rejects it
    if address not in under_way.published:
        from distillspec_jax.buckets.followed_folders import FollowedFolder
        from distillspec_jax.buckets.published_files import PublishedFile
        from distillspec_jax.buckets.published_folders import PublishedFolder

        for read in under_way.addresses:
            _check_apart(address, read)
        if host:
            under_way.published[address] = FollowedFolder(address, host)
        else:
            under_way.published[address] = (PublishedFolder if folder else PublishedFile)(address)
    return type(path)(under_way.published[address].path)


def published(path: str | Path) -> Publication | None:
    """Returns the output in a bucket that a local path belongs to; None for an ordinary path."""
    under_way = _under_way.get()
    for one in under_way.published.values() if under_way is not None else ():
        if Path(path) == one.path or one.path in Path(path).parents:
            return one
    return None


def publish(path: str | Path) -> None:
    """Publishes the output in a bucket that the path belongs to, if any; see `Publication.publish`.

    Raises:
      UsageError: the connection was lost; everything published before is intact.
    """
    if (found := published(path)) is not None:
        found.publish()


def _check_apart(path: str, read: str) -> None:
    if path == read or path.startswith(read + "/"):
        raise UsageError(f"cannot save to {path}: this run reads it ({read}); choose another name")


def check(path: str | Path, ours: Recognise | None = None) -> Path:
    """Rejects an output that would destroy data.

    Args:
      path: where the run is about to write.
      ours: recognises an earlier output of the same kind; None: any existing file belongs to the run, in a
        folder that it has taken.

    Returns:
      The path to write; for a link, the file that it points to.

    Raises:
      UsageError: the path is an input of this run or part of one, a folder, a loop of links, or a file that
        is not an earlier output of the same kind.
    """
    real = resolved(path)
    status = status_of(real)
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise UsageError(f"cannot save to {path}: it is a folder")
    under_way = _under_way.get() or _Run()
    read = under_way.files.name_of(real)
    if status is not None and read and not stat.S_ISCHR(status.st_mode):
        raise UsageError(f"cannot save to {path}: this run reads it ({read}); choose another file")
    if is_special(path):
        return Path(path)
    if ours is not None:
        _check_outside(path, real)
    if status is not None and status.st_size and ours is not None and not _recognised(real, ours):
        raise UsageError(
            f"cannot save to {path}: the file there is no earlier output of this command; move it away, or "
            "choose another name"
        )
    return real


def take_folder(
    path: str | Path,
    card: str | None = None,
    *,
    leftovers: Collection[str] = (),
    names: Collection[str] = LAYOUT,
) -> Path:
    """Takes a folder as the run's own: a new one, or one with the card of an earlier run.

    It may contain other files (logs, notes), as long as no run would write them.

    Args:
      path: the folder; it is not made.
      card: name of the file that identifies a run's folder; None: any folder without entries in `names`.
      leftovers: names that a run may leave if it is killed before it writes the card.
      names: names that a run may write there.

    Raises:
      UsageError: the path is an input of this run, not a folder, or a folder without the card that has an
        entry in `names`.
    """
    root = resolved(path)
    _check_outside(path, root)
    under_way = _under_way.get()
    if status_of(root) is not None:
        if not root.is_dir():
            raise UsageError(f"cannot save to {path}: it is not a folder")
        if under_way is not None and (read := under_way.folders.name_of(root)):
            raise UsageError(f"cannot save to {path}: this run reads it ({read}); choose another folder")
        taken = sorted(set(names).intersection(os.listdir(root)) - set(leftovers) - {card})
        if taken and not (card and (root / card).is_file()):
            without = f", but no {card}, by which a run knows its own" if card else ""
            raise UsageError(f"cannot save to {path}: it holds {taken[0]}{without}: choose another folder")
    if under_way is not None:
        under_way.own.add(root)
    return root


def check_folder(path: str | Path) -> Path:
    """Rejects a path for a folder that is a file, or is inside a checkpoint directory or a stored set.

    Returns:
      The path to write; for a link, the folder that it points to.

    Raises:
      UsageError: names the path.
    """
    root = resolved(path)
    _check_outside(path, root)
    status = status_of(root)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"cannot save to {path}: {os.strerror(errno.ENOTDIR)}")
    return root


def check_writable(folder: str | Path) -> None:
    """Rejects a folder that cannot be written or made, before the run starts its work.

    Raises:
      UsageError: gives the reason.
    """
    real = resolved(folder)
    try:
        real.lstat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # a name that is too long
            raise UsageError(f"cannot save to {folder}: {error.strerror}") from error
    there = next(place for place in (real, *real.parents) if status_of(place) is not None)
    code = errno.ENOTDIR if not there.is_dir() else errno.EACCES
    effective = os.access in os.supports_effective_ids
    if code == errno.ENOTDIR or not os.access(there, os.W_OK | os.X_OK, effective_ids=effective):
        raise UsageError(f"cannot save to {folder}: {os.strerror(code)}")


def made(path: str | Path) -> None:
    """Records a folder that the run has just made."""
    under_way = _under_way.get()
    if under_way is not None:
        under_way.own.add(resolved(path))


def is_special(path: str | Path) -> bool:
    """Whether a path is a device, a pipe or an open descriptor, which is written to but never replaced."""
    if _OWN_DESCRIPTOR.fullmatch(os.path.abspath(path)):
        return True
    status = status_of(Path(path))
    return status is not None and not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode)


def resolved(path: str | Path) -> Path:
    """Returns the absolute path of an output with links resolved; returns devices and pipes unchanged.

    Raises:
      UsageError: the path is in a bucket unknown to `place`, a loop of links, or not a valid file name.
    """
    if stores.is_bucket(path):
        if found := stores.staged(path):
            return found
        raise UsageError(
            f"cannot save to {stores.address(path)}: this writes folders and files of this machine: "
            "mount the bucket (gcsfuse, mountpoint-s3) and give the path, or copy them there afterwards"
        )
    try:
        str(path).encode()
        return Path(path) if is_special(path) else Path(path).resolve()
    except (OSError, RuntimeError) as error:  # Python 3.11 and 3.12 raise RuntimeError for a loop of links
        raise UsageError(f"cannot save to {path}: it is a loop of links") from error
    except ValueError as error:  # a NUL byte, a lone surrogate
        raise UsageError(f"cannot save to {str(path)!r}: no name that a file can have") from error


def _check_outside(path: str | Path, real: Path) -> None:
    """Rejects a path inside a checkpoint directory or a stored set that the run has not taken."""
    under_way = _under_way.get() or _Run()
    for place, folder in zip((real, *real.parents), real.parents, strict=False):
        is_ours = place.name in LAYOUT and any((folder / card).is_file() for card in _CARDS)
        if is_ours and not _is_own(folder, under_way):
            raise UsageError(f"cannot save to {path}: it would change {place.name} in {folder}")


def _entries(path: str | Path) -> list[Path]:
    try:
        return sorted(Path(path).iterdir())
    except (OSError, ValueError):
        return []


def _is_own(path: Path, under_way: _Run) -> bool:
    """Whether a path is one of the run's own folders or lies in one."""
    return not under_way.own.isdisjoint((path, *path.parents))


def _recognised(path: Path, ours: Recognise) -> bool:
    try:
        return ours(path)
    except (OSError, ValueError, RecursionError):
        return False
