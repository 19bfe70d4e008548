"""Buckets as inputs: what a run reads from gs:// or s3:// is copied once to a folder of this machine.

A copy is known by the object's address and by what the store says of its version, so that an object that was
changed is copied again, and one that was not is not. Of a folder that a run of ours wrote, what its commit
lists is copied, and checked. Copies appear whole or not at all, and several processes may want one at once. A
connection that breaks is tried again, and then an error. Copies lie in `stores.cache`; nothing removes
them. How outputs get into buckets: `publications`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from distillspec_jax.buckets import commits, stores
from distillspec_jax.buckets.commits import Entry
from distillspec_jax.buckets.stores import is_bucket
from distillspec_jax.errors import UsageError

_STEP = re.compile(r"checkpoints/(\d+)/")
_OTHERS = re.compile(r"checkpoints/|damaged/|best/|tensorboard/")
_TRIES = 3
"""Times that a folder is copied anew because a run has published meanwhile."""


class _Object(NamedTuple):
    """An object in a folder, and its version: what the store says of it, or the commit that lists it."""

    folder: str
    name: str
    version: str | Entry


def folders(path: str | Path) -> list[str]:
    """The names of what lies directly below a path in a bucket, in their order; none where nothing does.

    Raises:
      UsageError: as `local`.
    """
    whole = stores.address(path)
    return stores.Place(whole, f"cannot read {whole!r}").entries()


def local(path: str | Path, *, model: bool = False) -> Path:
    """The path itself, or of a file or folder in a bucket the copy on this machine.

    Args:
      model: a checkpoint directory, of which the newest whole step's parameters will do.

    Raises:
      UsageError: nothing there, no right to read it, an unknown kind of store or one whose library is not
        installed, or a connection that was lost; nothing is left behind.
    """
    if not is_bucket(path):
        return Path(path)
    return stores.staged(path) or _copied(stores.address(path), model)


@functools.cache  # one run reads one version
def _copied(path: str, model: bool) -> Path:
    what = f"cannot read {path!r}"
    store = stores.connect(path, what)
    with stores.told(what):
        for left in reversed(range(_TRIES)):
            found = _listed(store, path)
            if model:
                found = {name: found[name] for name in _of_newest_step(found)}
            try:
                place = _copy(store, path, found)
                stores.name(place, path)
                return place
            except LookupError as error:
                if not left:
                    raise UsageError(f"{what}: {error.args[0]} is not what was committed") from error
    raise AssertionError  # the last try returns or raises


def _listed(store: Any, path: str) -> dict[str, _Object]:
    """The objects at or below a path, by names relative to it (empty for itself)."""
    store.invalidate_cache()
    itself = stores.again(lambda: store.info(path))
    if itself["type"] == "file":
        folder, _, name = path.rpartition("/")
        return {"": _Object(folder, name, stores.version(itself))}
    found = _committed(store, path)
    if found is None:
        root = itself["name"].rstrip("/") + "/"
        objects = stores.again(lambda: store.find(path, detail=True))
        names = {name.removeprefix(root): info for name, info in objects.items() if not name.endswith("/")}
        found = {name: _Object(path, name, stores.version(info)) for name, info in names.items()}
    if not found:
        raise FileNotFoundError(path)
    return found


def _committed(store: Any, path: str) -> dict[str, _Object] | None:
    """The objects below a path that the commit of a folder of ours lists; None where there is no commit."""
    scheme, _, rest = path.partition("://")
    parts = rest.split("/")
    for depth in range(len(parts), 0, -1):
        folder = f"{scheme}://{'/'.join(parts[:depth])}"
        try:
            content = stores.again(lambda folder=folder: store.cat_file(f"{folder}/{commits.NAME}"))  # type: ignore[misc]
        except FileNotFoundError:
            continue
        files = commits.decoded(content, f"{folder}/{commits.NAME}").files
        below = "".join(f"{part}/" for part in parts[depth:])
        found = {name: entry for name, entry in files.items() if name.startswith(below)}
        if found or not below:
            return {name.removeprefix(below): _Object(folder, name, entry) for name, entry in found.items()}
    return None


def _of_newest_step(names: Iterable[str]) -> list[str]:
    """The names that loading a model reads: files beside the steps, and the newest step with parameters."""
    names = list(names)
    steps = ((name, _STEP.match(name)) for name in names)
    whole = [int(step[1]) for name, step in steps if step and name == f"{step[0]}params/_METADATA"]
    newest = f"checkpoints/{max(whole, default='')}/params/"
    return [name for name in names if name.startswith(newest) or not _OTHERS.match(name)]


def _copy(store: Any, path: str, found: Mapping[str, _Object]) -> Path:
    versions = [(name, str(one.version)) for name, one in sorted(found.items())]
    digest = hashlib.sha256(json.dumps([path, versions]).encode()).hexdigest()[:24]
    root = stores.cache()
    place, name = root / digest, path.rpartition("/")[2]
    if not place.is_dir():
        partial = root / f".partial-{digest}-{secrets.token_hex(6)}"
        try:
            for relative, one in found.items():
                if relative and not commits.is_name(relative):
                    raise UsageError(f"cannot read {path!r}: {relative!r} is no name of a file")
                target = partial / name / relative if relative else partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy_one(store, path, one, target)
            try:
                partial.rename(place)
            except OSError:
                if not place.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return place / name


def _copy_one(store: Any, path: str, one: _Object, target: Path) -> None:
    def get(name: str, to: Path) -> bool:
        try:
            stores.again(lambda: store.get_file(f"{one.folder}/{name}", str(to)))
        except FileNotFoundError:
            return False
        return True

    if isinstance(one.version, Entry):
        commits.fetch(get, one.name, one.version, target)
    elif not get(one.name, target):
        raise FileNotFoundError(path)
    elif str(size := target.stat().st_size) != one.version.split()[0]:
        raise UsageError(f"cannot read {path!r}: {one.name} ended after {size:,} bytes")
