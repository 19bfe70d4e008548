"""Buckets as inputs: what a run reads from gs:// or s3:// is copied once to a folder of this machine.

A copy is known by the object's address and by what the store says of its version, so that an object that was
changed is copied again, and one that was not is not. Copies appear whole or not at all, and several processes
may want one at once. A connection that breaks is tried again by the store's library, and then an error. They
lie in `~/.cache/distillspec`, or where `DISTILLSPEC_CACHE` says; nothing removes them. Outputs are refused
(`outputs.resolved`): what makes ours safe, renaming and locking, buckets lack.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from distillspec_jax.errors import UsageError

LIBRARIES = {"gs": "gcsfs", "s3": "s3fs", "memory": "fsspec"}
"""Schemes, and what speaks them; the last is a bucket of this process alone, for tests."""

_VERSION = ("size", "etag", "ETag", "generation", "md5Hash", "LastModified", "created")
"""Fields by which the stores' libraries tell versions of an object apart; each has some of them."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
"""How an address begins; `pathlib` makes one slash of two."""
_STEP = re.compile(r"checkpoints/(\d+)/")
_OTHERS = re.compile(r"checkpoints/|damaged/|best/|tensorboard/")


def is_bucket(path: str | Path) -> bool:
    """Whether a path names an object store, `gs://BUCKET/NAME` or the like (`zoo:NAME` does not)."""
    return bool(_SCHEME.match(str(path)))


def address(path: str | Path) -> str:
    """The path as its store writes it, where `pathlib` took one slash of two."""
    return _SCHEME.sub(r"\1://", str(path), count=1)


def local(path: str, *, model: bool = False) -> Path:
    """The path itself, or of a file or folder in a bucket the copy on this machine.

    Args:
      model: a checkpoint directory, of which the newest whole step's parameters will do.

    Raises:
      UsageError: nothing there, no right to read it, an unknown kind of store or one whose library is not
        installed, or a connection that was lost; nothing is left behind.
    """
    scheme = _SCHEME.match(path)
    return _copied(scheme[1], path[scheme.end() :].strip("/"), model) if scheme else Path(path)


@functools.cache  # one run reads one version
def _copied(scheme: str, name: str, model: bool) -> Path:
    path = f"{scheme}://{name}"
    if scheme not in LIBRARIES:
        known = ", ".join(f"{name}://" for name in LIBRARIES if name != "memory")
        raise UsageError(f"cannot read {path!r}: unknown kind of store {scheme}:// (valid: {known})")
    try:
        import fsspec  # type: ignore[import-untyped]

        store = fsspec.filesystem(scheme)
    except ImportError as error:
        library = LIBRARIES[scheme]
        raise UsageError(
            f"cannot read {path!r}: {library} is not installed: pip install 'distillspec_jax[buckets]'"
        ) from error
    try:
        found = _listed(store, path)
        if model:
            found = {name: found[name] for name in _of_newest_step(found)}
        return _copy(store, path, found)
    except UsageError:
        raise
    except Exception as error:  # gcsfs, s3fs, aiohttp and botocore share no class
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
        reason = "nothing is there" if isinstance(error, FileNotFoundError) else said
        raise UsageError(f"cannot read {path!r}: {reason}") from error


def _listed(store: Any, path: str) -> dict[str, Mapping[str, Any]]:
    """The objects at or below a path: name relative to it (empty for itself) to what the store says of it."""
    store.invalidate_cache()
    itself = store.info(path)
    if itself["type"] == "file":
        return {"": itself}
    root = itself["name"].rstrip("/") + "/"
    objects = store.find(path, detail=True)
    found = {name.removeprefix(root): info for name, info in objects.items() if not name.endswith("/")}
    if not found:
        raise FileNotFoundError(path)
    return found


def _of_newest_step(names: Iterable[str]) -> list[str]:
    """The names that loading a model reads: files beside the steps, and the newest step with parameters."""
    names = list(names)
    steps = ((name, _STEP.match(name)) for name in names)
    whole = [int(step[1]) for name, step in steps if step and name == f"{step[0]}params/_METADATA"]
    newest = f"checkpoints/{max(whole, default='')}/params/"
    return [name for name in names if name.startswith(newest) or not _OTHERS.match(name)]


def _copy(store: Any, path: str, found: Mapping[str, Mapping[str, Any]]) -> Path:
    versions = [(name, [str(info.get(field)) for field in _VERSION]) for name, info in sorted(found.items())]
    digest = hashlib.sha256(json.dumps([path, versions]).encode()).hexdigest()[:24]
    root = Path(os.environ.get("DISTILLSPEC_CACHE") or Path.home() / ".cache" / "distillspec")
    place, name = root / digest, path.rpartition("/")[2]
    if not place.is_dir():
        partial = root / f".partial-{digest}-{secrets.token_hex(6)}"
        try:
            for relative, info in found.items():
                target = partial / name / relative if relative else partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                store.get_file(info["name"], str(target))
                if (size := target.stat().st_size) != info["size"]:
                    raise UsageError(f"cannot read {path!r}: {relative or name} ended after {size:,} bytes")
            try:
                partial.rename(place)
            except OSError:
                if not place.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place / name
