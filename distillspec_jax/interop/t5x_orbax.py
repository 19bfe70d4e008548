"""Reads checkpoints that T5X wrote through Orbax, its default since 2023.

    checkpoint_STEP/state/_METADATA            the tree: the names of all leaves
    checkpoint_STEP/state/manifest.ocdbt       one store with a zarr array per leaf, by dotted name; or
    checkpoint_STEP/state/target.….kernel/     one folder per leaf, as in the older format
    checkpoint_STEP/state/checkpoint           before `_METADATA` existed: the tree in msgpack, leaves named

The tree is that of T5X's own format: `target` has the parameters, `state` the step and the optimizer's
moments, which are counted and skipped. Arrays are read one by one, directly from the store.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util

from distillspec_jax.errors import UsageError
from distillspec_jax.interop.t5x import INDEX_FILE, T5XCheckpoint, read_zarr, step_of

METADATA_FILE, STATE, MANIFEST = "_METADATA", "state", "manifest.ocdbt"
_PLACEHOLDER = "PLACEHOLDER://"

_Path = tuple[str, ...]


def folder_of(directory: str | Path) -> Path | None:
    """Finds the folder of Orbax's tree: `state` of a step, or the folder itself; None if there is none."""
    root = Path(directory)
    step = root / STATE
    named = [step / METADATA_FILE, step / INDEX_FILE, root / METADATA_FILE]
    return next((path.parent for path in named if path.is_file()), None)


def read(folder: Path) -> T5XCheckpoint:
    """Reads the parameters of one step.

    Args:
      folder: see `folder_of`.

    Raises:
      UsageError: the index is damaged or has no parameters, or a tensor is missing or truncated; names file
        and tensor.
    """
    leaves, zarr3 = _leaves(folder)
    names = [path for path in leaves if path[:1] == ("target",) and path[1:]]
    if not names:
        tops = ", ".join(sorted({path[0] for path in leaves if path})) or "nothing"
        raise UsageError(f"{folder} has no tree 'target', T5X's parameters, but {tops[:200]}")
    flat = {path[1:]: _array(folder, path, leaves[path], zarr3).astype(np.float32) for path in names}
    moments = sum(path[:2] == ("state", "param_states") for path in leaves)
    step = ("state", "step")
    return T5XCheckpoint(
        traverse_util.unflatten_dict(flat),
        step_of(_array(folder, step, leaves[step], zarr3), folder) if step in leaves else None,
        (f"optimizer state of {moments} leaves",) if moments else (),
    )


def _leaves(folder: Path) -> tuple[dict[_Path, Any], bool]:
    """Maps every leaf to its array if the index holds it, else None; tells whether arrays are zarr 3."""
    if not (folder / METADATA_FILE).is_file():
        return _old_leaves(folder / INDEX_FILE), False
    try:
        metadata = json.loads((folder / METADATA_FILE).read_text(encoding="utf-8"))
        leaves = {
            tuple(str(part["key"]) for part in leaf["key_metadata"]): None
            for leaf in metadata["tree_metadata"].values()
            if not leaf["value_metadata"].get("skip_deserialize")  # empty nodes
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        message = f"{folder / METADATA_FILE} is not the metadata of an Orbax checkpoint ({said})"
        raise UsageError(message) from error
    return leaves, bool(metadata.get("use_zarr3"))


def _old_leaves(path: Path) -> dict[_Path, Any]:
    try:
        tree = serialization.msgpack_restore(path.read_bytes())
        flat: Iterable[tuple[_Path, Any]] = traverse_util.flatten_dict(tree).items()
    except Exception as error:  # msgpack raises a dozen unrelated types on damaged input
        raise UsageError(f"{path} is not a whole msgpack index ({type(error).__name__})") from error
    return {
        key: None if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER) else leaf for key, leaf in flat
    }


def _array(folder: Path, path: _Path, leaf: Any, zarr3: bool) -> np.ndarray:
    if leaf is not None:
        return np.asarray(leaf)
    stored, name = ".".join(path), "/".join(path[1:])
    if (folder / MANIFEST).is_file():
        store = {"driver": "ocdbt", "base": f"file://{folder.absolute()}/", "path": f"{stored}/"}
    else:
        store = {"driver": "file", "path": f"{(folder / stored).absolute()}/"}
    return read_zarr(store, folder / stored, name, "zarr3" if zarr3 else "zarr")
