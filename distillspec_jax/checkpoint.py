"""The checkpoint directory: self-describing, so that `--model=DIR` is all that a user must specify.

    DIR/model.json        family and configuration, task, prefix, lengths, provenance
    DIR/tokenizer.model   the tokenizer's file, byte for byte (DIR/tokenizer.json for that format)
    DIR/checkpoints/STEP/ Orbax: `params`, and during training `optimizer` and `progress`
    DIR/damaged/STEP/     a step that a restart could not read and skipped

Metadata is written before the first step; a directory without a finished step is rejected by name.
Orbax writes a step under a temporary name and renames it, so a killed write never looks like a finished step.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from distillspec_jax.errors import UsageError
from distillspec_jax.files import saving
from distillspec_jax.shapes import Params

STEPS, DAMAGED = "checkpoints", "damaged"

_FILE_BYTES, _FILE_SHARE = 1 << 23, 16
"""Minimum size of the files that `save_params` writes, and the divisor of the largest array that gives their
size; Orbax buffers about three files in memory until they are full."""


class DamagedCheckpointError(UsageError):
    """A step looks complete but cannot be read back."""


def latest_step(directory: str | Path) -> int | None:
    """Returns the newest finished step, or None."""
    return next(iter(finished_steps(directory)), None)


def finished_steps(directory: str | Path) -> list[int]:
    """Lists the finished steps, newest first."""
    return sorted((int(p.name) for p in _step_folders(directory) if _has_params(p)), reverse=True)


def set_aside(directory: str | Path, step: int) -> None:
    """Moves a damaged step to `DAMAGED`, so that it does not block new ones."""
    aside = Path(directory) / DAMAGED / str(step)
    shutil.rmtree(aside, ignore_errors=True)  # left by an earlier restart
    aside.parent.mkdir(exist_ok=True)
    os.replace(Path(directory) / STEPS / str(step), aside)


def discard_unfinished(directory: str | Path) -> list[Path]:
    """Removes steps with incomplete parameters (partly copied or deleted), which would break a new save.

    Returns:
      The removed folders. Orbax removes its own temporary folders.
    """
    unfinished = [path for path in _step_folders(directory) if not _has_params(path)]
    for path in unfinished:
        shutil.rmtree(path, ignore_errors=True)
    return unfinished


def _step_folders(directory: str | Path) -> list[Path]:
    """Lists folders whose names are numbers; all others are temporary or foreign."""
    return [path for path in (Path(directory) / STEPS).glob("*") if path.name.isdecimal() and path.is_dir()]


def _has_params(step: Path) -> bool:
    return (step / "params" / "_METADATA").is_file()  # Orbax's list of the saved arrays


def abstract(shapes: Params, shardings: Any = None) -> Params:
    """Makes the abstract arrays (shapes, dtypes, shardings) that Orbax restores into."""
    if shardings is None:
        local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: local, shapes)
    return jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, shardings)


def manager(
    directory: str | Path, keep: int | None = None, asynchronous: bool = False, alone: bool = False
) -> ocp.CheckpointManager:
    """Makes Orbax's manager of the directory's steps; with `alone`, other hosts do not participate."""
    steps = (Path(directory) / STEPS).absolute()
    steps.mkdir(parents=True, exist_ok=True)
    processes = _processes(alone)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        enable_async_checkpointing=asynchronous,
        create=False,
        cleanup_tmp_directories=True,
        multiprocessing_options=processes,
    )
    kinds = {"params": ocp.StandardCheckpointHandler, "optimizer": ocp.StandardCheckpointHandler}
    kinds |= {"progress": ocp.JsonCheckpointHandler}
    handlers = {name: kind(multiprocessing_options=processes) for name, kind in kinds.items()}
    return ocp.CheckpointManager(steps, options=options, item_handlers=handlers)


def _processes(alone: bool) -> ocp.options.MultiprocessingOptions:
    """Selects the hosts that Orbax synchronises: all (the first writes single files), or only this one."""
    if not alone or jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(here, {here}, f"host{here}")


def load_params(
    directory: str | Path, shapes: Params, step: int | None = None, shardings: Any = None
) -> Params:
    """Loads the parameters of a finished step, in the shapes and dtypes that the model expects (float32).

    Args:
      shapes: a tree of `jax.ShapeDtypeStruct`; parameters stored in another dtype are converted.
      step: the newest by default.
      shardings: a tree like `shapes`; the first device by default.

    Raises:
      UsageError: there is no finished step, it is damaged, or parameters are missing, unused or have the
        wrong shape (names the first).
    """
    newest = latest_step(directory)
    found = newest if step is None else step
    if found is None:
        raise UsageError(f"{directory} holds no finished checkpoint (nothing whole under {STEPS}/)")
    folder = (Path(directory) / STEPS / str(found)).absolute()
    if not _has_params(folder):
        raise UsageError(f"{directory} has no checkpoint at step {found} (newest: {newest})")
    check_shapes(str(directory), stored_shapes(folder / "params"), shapes)
    with reading(folder), ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(folder / "params", abstract(shapes, shardings))


def stored_shapes(path: Path) -> Any:
    """Reads the tree that Orbax saved at `path`; its leaves have `shape` and `dtype`."""
    handler = ocp.StandardCheckpointHandler()
    with reading(path.parent), contextlib.closing(handler):
        return handler.metadata(path).tree


def save_params(
    directory: str | Path, step: int, params: Params, dtype: str | None = None, alone: bool = False
) -> None:
    """Writes a finished step with parameters only; with `alone`, other hosts do not participate."""
    if dtype is not None:
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.dtype(dtype)), params)
    path = (Path(directory) / STEPS / str(step) / "params").absolute()
    # StandardCheckpointer would copy everything before writing, and large files accumulate in memory.
    processes = _processes(alone)
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=processes)
    size = max(_FILE_BYTES, max(leaf.nbytes for leaf in jax.tree.leaves(params)) // _FILE_SHARE)
    checkpointing = ocp.Checkpointer(handler, multiprocessing_options=processes)
    with saving(Path(directory)), checkpointing as checkpointer:
        arguments = ocp.args.PyTreeSave(params, ocdbt_target_data_file_size=size)
        checkpointer.save(path, args=arguments, force=True)


def check_shapes(name: str, stored: Any, expected: Any) -> None:
    """Raises for the first parameter that is missing, unused or has the wrong shape."""
    have = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in _leaves(stored)}
    want = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in _leaves(expected)}
    for key in sorted(want.keys() | have.keys()):
        if key not in have:
            raise UsageError(f"{name}: parameter {key} is missing")
        if key not in want:
            raise UsageError(f"{name}: parameter {key} is not part of the configured model")
        if tuple(have[key].shape) != tuple(want[key].shape):
            shapes = f"{tuple(have[key].shape)}, the model wants {tuple(want[key].shape)}"
            raise UsageError(f"{name}: parameter {key} has shape {shapes}")


def _leaves(tree: Any) -> list[Any]:
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))


def checksums(tree: Any) -> dict[str, int]:
    """Maps each path to the sum of its leaf's bits, modulo 2³², which does not depend on sharding.

    The compression of checkpoints has no checksum, so a flipped bit in a weight would go unnoticed.
    """
    sums = jax.device_get(_bit_sums([leaf for _, leaf in _leaves(tree)]))
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in _leaves(tree)]
    return {name: int(value) for name, value in zip(names, sums, strict=True)}


@jax.jit
def _bit_sums(leaves: list[Any]) -> list[Any]:
    def bits(leaf: Any) -> Any:
        return jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))

    return [jnp.sum(bits(leaf), dtype=jnp.uint32) for leaf in leaves]


@contextlib.contextmanager
def reading(step: Path) -> Iterator[None]:
    """Converts Orbax's errors about a damaged step into a one-line error that names it."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # TensorStore has no exception class of its own
        said = (str(error) or type(error).__name__).splitlines()[0].split(" [tensorstore_spec=")[0]
        message = f"{step} is damaged or not a checkpoint of ours: {said[:200]}"
        raise DamagedCheckpointError(message) from error


def count_parameters(params: Params) -> int:
    """Counts the numbers in a tree of parameters."""
    return int(sum(np.prod(x.shape) for x in jax.tree.leaves(params)))
