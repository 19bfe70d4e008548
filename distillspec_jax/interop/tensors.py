"""Converts between named tensors, as other frameworks store them, and the canonical tree.

A format is a table of sources, which maps every parameter to the tensor that holds it. The tensors hold the
same numbers, so a round trip is bit-equal in float32.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from distillspec_jax.errors import UsageError
from distillspec_jax.models import registry
from distillspec_jax.models.network import Network
from distillspec_jax.shapes import Params

Tensors = Mapping[str, np.ndarray]
"""Tensors by name. They may be read lazily: each is accessed once, when needed, and then released."""


class Source(NamedTuple):
    """The source of a parameter.

    Attributes:
      name: of the tensor.
      transposed: its two axes are swapped, like PyTorch's `[out, in]`.
      part: (index, count) of the parameter among those concatenated along the tensor's last axis.
    """

    name: str
    transposed: bool = False
    part: tuple[int, int] = (0, 1)


Sources = Mapping[str, Source]
"""Sources by the parameter's path, `decoder/layers_0/mlp/wo/kernel`."""


def collect(
    what: str, model: Network, sources: Sources, tensors: Tensors, ignored: Collection[str] = ()
) -> Params:
    """Builds the canonical tree of float32 NumPy arrays, one tensor at a time.

    Args:
      what: name of the format in errors.
      model: determines the parameters and their shapes.
      ignored: names of tensors that may be left unused.

    Raises:
      UsageError: tensors are missing, unused or misshaped; names all of them.
    """
    check_names(what, set(tensors) - set(ignored), {source.name for source in sources.values()})
    flat, misshaped = {}, {}
    # Largest first: released memory is not always returned and would add to that of the largest tensor.
    for path, shape in sorted(shapes(model).items(), key=lambda item: -math.prod(item[1])):
        name, transposed, (index, count) = sources[path]
        tensor = np.asarray(tensors[name])
        wanted = (*shape[:-1], shape[-1] * count)
        wanted = wanted[::-1] if transposed else wanted
        if tensor.shape != wanted:
            misshaped[name] = f"{name} is {tensor.shape}, the config wants {wanted}"
            continue
        array = tensor.T if transposed else tensor
        own = array[..., index * shape[-1] : (index + 1) * shape[-1]]
        flat[path] = _empty(shape)
        flat[path][...] = own  # a copy, so the whole tensor can be released
    if misshaped:
        raise UsageError(f"{what}: misshaped tensors: {'; '.join(misshaped.values())}")
    return traverse_util.unflatten_dict(flat, sep="/")


_ALIGNMENT = 64
"""Alignment in bytes at which JAX on the host uses an array without copying it."""


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """Allocates an aligned, uninitialised float32 array."""
    size = 4 * math.prod(shape)
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + size].view(np.float32).reshape(shape)


def spread(what: str, model: Network, sources: Sources, params: Params) -> dict[str, np.ndarray]:
    """Inverse of `collect`: float32 tensors by name.

    Raises:
      UsageError: parameters do not match the model's; names them.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    wanted = shapes(model)
    check_names(what, set(flat), set(wanted))
    parts: dict[str, dict[int, np.ndarray]] = {}
    for path, shape in wanted.items():
        if flat[path].shape != shape:
            raise UsageError(f"parameter {path} has shape {flat[path].shape}, the config wants {shape}")
        name, transposed, (index, _) = sources[path]
        array = np.asarray(flat[path], np.float32)
        parts.setdefault(name, {})[index] = array.T if transposed else array
    joined = {name: np.concatenate([of[i] for i in sorted(of)], axis=-1) for name, of in parts.items()}
    return {name: np.ascontiguousarray(tensor) for name, tensor in joined.items()}


def check_ties(what: str, tensors: Tensors, aliases: Collection[str], name: str) -> None:
    """Rejects tensors that should repeat `name` but do not.

    Raises:
      UsageError: names the first that differs.
    """
    for alias in aliases:
        if not np.array_equal(tensors[alias], tensors[name]):
            raise UsageError(
                f"{what}: {alias} differs from {name}, but the config ties them "
                "(an output projection of its own needs tie_word_embeddings=false)"
            )


def check_names(what: str, have: set[str], want: set[str]) -> None:
    """Rejects missing and unused tensors; names all of them."""
    missing, unused = sorted(want - have), sorted(have - want)
    said = [f"missing tensors {', '.join(missing)}"] * bool(missing)
    said += [f"unused tensors {', '.join(unused)}"] * bool(unused)
    if said:
        raise UsageError(f"{what}: these weights are not the config's: {'; '.join(said)}")


def shapes(model: Network) -> dict[str, Any]:
    """Returns the shape of every parameter, by path."""
    flat = traverse_util.flatten_dict(registry.shapes(model), sep="/")
    return {path: leaf.shape for path, leaf in flat.items()}
