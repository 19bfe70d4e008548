"""Sharding: the device mesh, and the only table that maps logical axes to mesh axes.

Modules name the logical axes of their parameters; only this module makes a `PartitionSpec`. Every array
carries its own mesh, so no global mesh (`jax.set_mesh`) is needed or allowed, see `own_meshes`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Params

Rules = tuple[tuple[str, str | None], ...]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def standard_logical_axis_rules(fully_sharded: bool = False) -> Rules:
    """Maps logical axes to mesh axes, with T5X's names.

    Args:
      fully_sharded: also split parameters over the data axis (along `embed`), as in FSDP / ZeRO-3.
    """
    return (
        ("batch", "data"),
        ("vocab", "model"),
        ("mlp", "model"),
        ("heads", "model"),
        ("joined_kv", "model"),
        ("embed", "data" if fully_sharded else None),
        ("rank", None),
        ("relpos_buckets", None),
        ("positions", None),
    )


@dataclasses.dataclass(frozen=True)
class Partitioner:
    """Shardings of parameters and batches on a `(data, model)` mesh.

    Attributes:
      mesh: devices with named axes; the default puts every device on the data axis.
      rules: see `standard_logical_axis_rules`.
    """

    mesh: Mesh
    rules: Rules

    def parameters(self, boxed: Params) -> Params:
        """Makes shardings, in unboxed structure, for boxed (logically partitioned) shapes or arrays."""
        specs = nn.get_partition_spec(boxed)
        shapes = nn.meta.unbox(boxed)
        shardings = nn.logical_to_mesh_sharding(specs, self.mesh, self.rules)
        return jax.tree.map(self._divisible, shardings, shapes)

    def _divisible(self, sharding: NamedSharding, shape: Any) -> NamedSharding:
        """Replicates an axis that the mesh does not divide (relative-position heads, odd vocabularies)."""
        spec = tuple(sharding.spec) + (None,) * (len(shape.shape) - len(sharding.spec))
        kept = (
            None if axis is None or size % self.mesh.shape[axis] else axis
            for axis, size in zip(spec, shape.shape, strict=True)
        )
        return NamedSharding(self.mesh, PartitionSpec(*kept))

    def like(self, parameters: Params, shardings: Params, tree: Any) -> Any:
        """Makes shardings for a tree with copies of `parameters` (optimizer moments) among other leaves.

        A leaf gets the sharding of the parameter whose path is a suffix of its own, if the shapes agree; all
        other leaves (counters, Adafactor's factored rows and columns) are replicated.
        """
        known = {
            _names(path): (leaf.shape, sharding)
            for (path, leaf), sharding in zip(
                jax.tree_util.tree_leaves_with_path(parameters), jax.tree.leaves(shardings), strict=True
            )
        }
        replicated = NamedSharding(self.mesh, PartitionSpec())

        def place(path: Any, leaf: Any) -> NamedSharding:
            names = _names(path)
            for start in range(len(names)):
                shape, sharding = known.get(names[start:], (None, replicated))
                if shape == leaf.shape:
                    return sharding
            return replicated

        return jax.tree_util.tree_map_with_path(place, tree)

    def rows(self, tree: Any, heads: bool = False) -> Any:
        """Makes shardings for a tree of rows, whose leading axis is the batch.

        Args:
          heads: 4-D leaves are keys or values, `[B, H, T, D]`, and their heads are sharded like those of the
            parameters that computed them.
        """

        def place(leaf: Any) -> NamedSharding:
            of_heads = "heads" if heads and leaf.ndim == 4 else None
            axes = ("batch", of_heads, None, None)[: leaf.ndim]
            spec = nn.logical_to_mesh_axes(axes, self.rules) or PartitionSpec()
            return self._divisible(NamedSharding(self.mesh, spec), leaf)

        return jax.tree.map(place, tree)

    @property
    def batch(self) -> NamedSharding:
        """The sharding of a batch's leading axis."""
        return NamedSharding(self.mesh, PartitionSpec("data"))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def check_batch(self, batch_size: int) -> None:
        """Raises UsageError if a global batch cannot be split over the data axis."""
        shards = self.mesh.shape["data"]
        if batch_size % shards:
            raise UsageError(
                f"BATCH_SIZE={batch_size} cannot be split over {shards} data shards: "
                f"use a multiple of {shards}"
            )

    def put_rows(self, tree: Any) -> Any:
        """Puts arrays on the mesh, split along their leading axis; replicates those it does not divide."""

        def place(leaf: Any) -> jax.Array:
            divides = leaf.shape[0] % self.mesh.shape["data"] == 0
            return jax.device_put(leaf, self.batch if divides else self.replicated)

        return jax.tree.map(place, tree)

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Makes one global array per feature from host arrays; every host has the whole batch.

        The mesh determines the rows on a host's devices: all rows if the hosts lie along `model`.
        """
        return {
            name: jax.make_array_from_callback(rows.shape, self.batch, rows.__getitem__)
            for name, rows in batch.items()
        }


def make_partitioner(
    num_partitions: int = 1, fully_sharded: bool = False, devices: Sequence[Any] | None = None
) -> Partitioner:
    """Arranges devices (default: all) as `(data, model)`, `num_partitions` along `model` (as in T5X).

    Those of a TPU slice are arranged by JAX, so that neighbours along `model` are neighbours on the chips'
    network where it can; all others keep their order.
    """
    devices = jax.devices() if devices is None else devices
    if num_partitions < 1 or len(devices) % num_partitions:
        raise UsageError(
            f"NUM_PARTITIONS={num_partitions} does not divide the {len(devices)} devices: "
            f"use one of {[n for n in range(1, len(devices) + 1) if len(devices) % n == 0]}"
        )
    grid = _grid(devices, num_partitions)
    # With Auto axes, the compiler propagates the shardings of parameters and batches to all results.
    mesh = Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))
    return Partitioner(mesh, standard_logical_axis_rules(fully_sharded))


def _grid(devices: Sequence[Any], num_partitions: int) -> np.ndarray:
    plain = np.asarray(devices).reshape(-1, num_partitions)
    one_slice = len({getattr(device, "slice_index", 0) for device in devices}) == 1
    if devices[0].platform != "tpu" or not one_slice:  # the plain order keeps slices together
        return plain
    try:
        return mesh_utils.create_device_mesh(plain.shape, devices)
    except (AssertionError, NotImplementedError, ValueError):  # part of a slice, or its shape does not fit
        return plain


def own_meshes(job: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Wraps a function to run without the mesh that its caller has set with `jax.set_mesh`.

    JAX rejects computations with arrays of one mesh while another one is set.
    """

    @functools.wraps(job)
    def without(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with jax.set_mesh(None):
            return job(*args, **kwargs)

    return without


def sharded_init(partitioner: Partitioner, init: Callable[[jax.Array], Params], key: jax.Array) -> Params:
    """Initialises parameters directly in their shardings; no device ever holds all of them."""
    shardings = partitioner.parameters(jax.eval_shape(init, key))
    return jax.jit(lambda k: nn.meta.unbox(init(k)), out_shardings=shardings)(key)


def bytes_a_device(shapes: Any, shardings: Any = None) -> int:
    """Sums a tree's bytes on one device; all devices hold the same amount.

    Args:
      shapes: a tree of arrays, or of their shapes and dtypes.
      shardings: a tree like it; default: those of the leaves.
    """
    leaves = jax.tree.leaves(shapes)
    placed = [x.sharding for x in leaves] if shardings is None else jax.tree.leaves(shardings)
    parts = zip(leaves, placed, strict=True)
    return sum(math.prod(sharding.shard_shape(x.shape)) * x.dtype.itemsize for x, sharding in parts)


def _names(path: Any) -> tuple[str, ...]:
    return tuple(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)
