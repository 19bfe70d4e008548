"""Reads checkpoints in T5X's own, older format: a msgpack index and one zarr array per tensor.

    checkpoint_STEP/checkpoint                 the index: a tree whose large leaves describe arrays
    checkpoint_STEP/target.decoder.….kernel/   zarr v2 arrays of parameters
    checkpoint_STEP/state.….v/                 the same for the optimizer; never opened

T5X's unscanned parameter names are this project's canonical tree, so nothing is renamed. The optimizer state
is skipped, as the result reports: training continues from the parameters with a fresh optimizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore
from flax import serialization, traverse_util

from distillspec_jax import memory
from distillspec_jax.errors import UsageError, shown
from distillspec_jax.models.t5 import T5Config
from distillspec_jax.shapes import Params

INDEX_FILE = "checkpoint"


class T5XCheckpoint(NamedTuple):
    """The contents of a T5X checkpoint.

    Attributes:
      params: float32 NumPy arrays in T5X's unscanned tree.
      step: the training step, None if the index lacks it.
      skipped: descriptions of skipped parts (`optimizer state of 131 leaves`); empty if there are none.
    """

    params: Params
    step: int | None
    skipped: tuple[str, ...]


def read(directory: str | Path) -> T5XCheckpoint:
    """Reads the parameters of one `checkpoint_STEP` directory, one tensor at a time.

    Raises:
      UsageError: the index is missing or damaged, or a tensor is missing, truncated or has another shape than
        in the index; names the file and the tensor.
    """
    root = Path(directory)
    optimizer = _read_index(root)
    flat: dict[tuple[str, ...], np.ndarray] = {}
    for path, leaf in traverse_util.flatten_dict(optimizer["target"], is_leaf=_describes_array).items():
        flat[path] = _tensor(root, "/".join(map(str, path)), leaf)
    state = _dict(optimizer.get("state"))
    moments = traverse_util.flatten_dict(_dict(state.get("param_states")), is_leaf=_describes_array)
    skipped = (f"optimizer state of {len(moments)} leaves",) if moments else ()
    return T5XCheckpoint(traverse_util.unflatten_dict(flat), step_of(state.get("step"), root), skipped)


def step_of(found: Any, place: Path) -> int | None:
    """Parses a stored training step; None if there is none.

    Raises:
      UsageError: it is not a whole number.
    """
    if found is None:
        return None
    array = np.asarray(found)
    if array.size != 1 or array.dtype.kind not in "iu" or array.min() < 0:
        raise UsageError(f"{place}: its step is {shown(found)}, must be a whole number")
    return int(array.item())


def _dict(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else {}


def infer_config(params: Params, **known: Any) -> T5Config:
    """Infers the configuration from the shapes of a T5X tree.

    Shapes determine neither the activation of a gated feed-forward (T5 1.1's GELU is assumed), nor the
    dropout rate, nor the maximum relative distance: pass them in `known` if they differ.

    Args:
      params: an unscanned T5X tree.
      known: fields of `T5Config` that need not, or cannot, be inferred; they take precedence.

    Raises:
      UsageError: the tree lacks a part of a T5; names it.
    """
    rows, width = _sizes(params, "token_embedder/embedding")
    heads, buckets = _sizes(params, "decoder/relpos_bias/rel_embedding")
    _, joined = _sizes(params, "decoder/layers_0/self_attention/query/kernel")
    gated = "wi_0" in _branch(params, "decoder/layers_0/mlp")
    found: dict[str, Any] = {
        "vocab_size": rows,
        "emb_dim": width,
        "num_heads": heads,
        "head_dim": joined // heads,
        "num_encoder_layers": _count_layers(_branch(params, "encoder")),
        "num_decoder_layers": _count_layers(_branch(params, "decoder")),
        "mlp_dim": _sizes(params, "decoder/layers_0/mlp/wo/kernel")[0],
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": "logits_dense" not in _branch(params, "decoder"),
        "relpos_buckets": buckets,
    }
    return T5Config(**{**found, **known})


def _read_index(root: Path) -> dict[str, Any]:
    """Reads the `optimizer` part of the index: `target` (parameters) and `state`."""
    path = root / INDEX_FILE
    if not path.is_file():
        # For the second pattern see `t5x_orbax`.
        found = [*root.glob(f"*/{INDEX_FILE}"), *root.glob("*/state/_METADATA")]
        steps = sorted({path.relative_to(root).parts[0] for path in found})
        why = f"it has no file {INDEX_FILE!r}" if root.is_dir() else "no such directory"
        why = f"it holds steps, name one of {', '.join(steps)}" if steps else why
        raise UsageError(f"{root} is not a T5X checkpoint: {why}")
    try:
        index = serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack raises a dozen unrelated types on damaged input
        raise UsageError(f"{path} is not a whole msgpack index ({type(error).__name__})") from error
    optimizer = index.get("optimizer") if isinstance(index, dict) else None
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("target"), dict):
        raise UsageError(f"{path} has no optimizer/target: not the index of a T5X train state")
    return optimizer


def _describes_array(path: tuple[str, ...], value: Any) -> bool:
    """Tells whether a dict of the index describes an array on disk (a TensorStore spec)."""
    return isinstance(value, Mapping) and "kvstore" in value and "driver" in value


def _tensor(root: Path, name: str, leaf: Any) -> np.ndarray:
    """Reads one tensor as float32; small ones are in the index itself, others in a zarr array."""
    if isinstance(leaf, np.ndarray | np.generic):
        try:
            return np.asarray(leaf, np.float32)
        except (ValueError, TypeError) as error:  # for example, text
            raise UsageError(f"{root / INDEX_FILE}: tensor {name} holds no numbers") from error
    if not _describes_array((), leaf):
        raise UsageError(f"{root / INDEX_FILE}: tensor {name} is neither an array nor a reference to one")
    if leaf["driver"] != "zarr":
        driver = shown(leaf["driver"])
        raise UsageError(f"{root / INDEX_FILE}: tensor {name} is stored as {driver}, only 'zarr' is read")
    # Recorded paths are those of the original machine (often a bucket), so only the last part is used.
    path = _dict(leaf["kvstore"]).get("path")
    stored = root / (path if isinstance(path, str) else "").rstrip("/").rsplit("/", 1)[-1]
    if not (stored / ".zarray").is_file():
        raise UsageError(f"{stored}: tensor {name} is missing (no .zarray)")
    array = read_zarr({"driver": "file", "path": str(stored.absolute())}, stored, name)
    expected = _dict(leaf.get("metadata")).get("shape", array.shape)
    expected = tuple(expected) if isinstance(expected, list) else expected
    if array.shape != expected:
        raise UsageError(f"{stored}: tensor {name} has shape {array.shape}, the index says {shown(expected)}")
    return array.astype(np.float32)


def read_zarr(store: dict[str, Any], stored: Path, name: str, driver: str = "zarr") -> np.ndarray:
    """Reads one array.

    Args:
      store: its TensorStore kvstore spec.
      stored, name: names of the location and the tensor in errors.
      driver: `zarr` or `zarr3`.

    Raises:
      UsageError: it is missing or incomplete.
    """
    try:
        spec: dict[str, Any] = {"driver": driver, "kvstore": store}
        found = tensorstore.open(spec, read=True).result()
        # Without a fill value, as T5X writes, every chunk is on disk: a missing one is damage, not zeros.
        if found.spec().to_json().get("metadata", {}).get("fill_value") is None:
            found = tensorstore.open({**spec, "fill_missing_data_reads": False}, read=True).result()
        chunk = found.chunk_layout.read_chunk.shape or ()
        numbers = max(math.prod(found.shape), math.prod(size or 1 for size in chunk))
        needed = numbers * found.dtype.numpy_dtype.itemsize
        memory.check(f"{stored}: tensor {name}", needed, memory.host())  # TensorStore would end the process
        return np.asarray(found.read().result())
    except UsageError:
        raise
    except (ValueError, OSError) as error:  # TensorStore raises ValueError for every kind of damage
        said = str(error).splitlines()[0].split(" [")[0]
        reason = said.replace(f"{stored.absolute()}/", "")[:200]  # a path may be longer than that
        raise UsageError(f"{stored}: tensor {name} cannot be read: {reason}") from error


def _at(params: Params, path: str) -> Any:
    """Returns a node of the tree; a one-line error says what is missing."""
    node = params
    for part in path.split("/"):
        if not isinstance(node, Mapping) or part not in node:
            raise UsageError(f"not an unscanned T5 tree: it has no {path}")
        node = node[part]
    return node


def _branch(params: Params, path: str) -> Mapping[str, Any]:
    """Returns an inner node of the tree."""
    found = _at(params, path)
    if not isinstance(found, Mapping):
        raise UsageError(f"not an unscanned T5 tree: {path} is an array")
    return found


def _sizes(params: Params, path: str) -> tuple[int, int]:
    """Returns the two sizes of a matrix."""
    shape = np.shape(_at(params, path))
    if len(shape) != 2 or not all(shape):
        raise UsageError(f"not an unscanned T5 tree: {path} is of shape {shape}, must have two axes")
    return shape[0], shape[1]


def _count_layers(stack: Mapping[str, Any]) -> int:
    return sum(name.startswith("layers_") for name in stack)
