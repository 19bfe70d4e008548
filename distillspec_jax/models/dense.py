"""Projections, with their kernels in the form that is stored or in one that decodes faster.

Kernels are T5X's (`kernel`, `[in, out]`). Three more forms exist only inside decoding (see `prepared.py`):
`stacked`, several kernels of one input side by side; `few_rows`, which also turns them round
(`kernel_transposed`, `[out, in]`) for products with few rows on a CPU; and `int8`, the same in eight bits
(`kernel_int8`, and a `scale` an output, see `quantised.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.shapes import Array

Initializer = Callable[..., Any]
Form = Literal["canonical", "stacked", "few_rows", "int8"]
TURNED: tuple[Form, ...] = ("few_rows", "int8")
"""Forms for calls of few rows."""

FEW_ROWS = 12
"""Up to so many rows a call `few_rows` beats the compiler's matrix product (`benchmarks.decode_profile`)."""

fan_in_normal: Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def logical(init: Initializer, *axes: str | None) -> Initializer:
    """Names the axes of a parameter; `partitioning.py` maps the names to a mesh."""
    return nn.with_logical_partitioning(init, axes)


class Dense(nn.Module):
    """A projection of the last axis, `[..., in] -> [..., features]`."""

    features: int
    axes: tuple[str, str]
    dtype: Any = jnp.float32
    kernel_init: Initializer = fan_in_normal
    form: Form = "canonical"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape, x = (x.shape[-1], self.features), x.astype(self.dtype)
        if self.form in TURNED:
            y = _turned(self, x, shape[1:], self.axes[1:], self.kernel_init)
        else:
            kernel = self.param("kernel", logical(self.kernel_init, *self.axes), shape, jnp.float32)
            y = jnp.dot(x, kernel.astype(self.dtype))
        if self.use_bias:
            init = logical(nn.initializers.zeros, self.axes[1])
            y += along_last(self.param("bias", init, shape[1:], jnp.float32), y)
        return y


class StackedDense(nn.Module):
    """Several projections of one input as a single product, `[..., in] -> count * [..., features]`.

    Only prepared parameters have its kernel, `[in, count, features]`: decoding is bound by reading weights,
    and one long read is faster than several short ones. The members have an axis of their own, so that the
    sharded axis of each stays one, too.
    """

    count: int
    features: int
    axes: tuple[str, str]
    dtype: Any = jnp.float32
    form: Form = "stacked"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, ...]:
        width, x = x.shape[-1], x.astype(self.dtype)
        if self.form in TURNED:
            y = _turned(self, x, (self.count, self.features), (None, self.axes[1]), fan_in_normal)
        else:
            init = logical(fan_in_normal, self.axes[0], None, self.axes[1])
            kernel = self.param("kernel", init, (width, self.count, self.features), jnp.float32)
            y = jnp.einsum("...m,mcf->...cf", x, kernel.astype(self.dtype))
        if self.use_bias:
            init = logical(nn.initializers.zeros, None, self.axes[1])
            y += along_last(self.param("bias", init, y.shape[-2:], jnp.float32), y)
        return tuple(y[..., i, :] for i in range(self.count))


def _turned(
    module: Dense | StackedDense,
    x: Array,
    outputs: tuple[int, ...],
    axes: tuple[str | None, ...],
    kernel_init: Initializer,
) -> Array:
    """`[..., in] -> [..., *outputs]` by a kernel `[*outputs, in]`, whose outputs lie along `axes`."""
    width, eight = x.shape[-1], module.form == "int8"
    name, dtype = ("kernel_int8", jnp.int8) if eight else ("kernel_transposed", jnp.float32)
    init = logical(nn.initializers.zeros if eight else kernel_init, *axes, module.axes[0])
    kernel = module.param(name, init, (*outputs, width), dtype)
    y = few_rows(x, kernel.reshape(-1, width)).reshape(*x.shape[:-1], *outputs)
    if eight:
        y *= along_last(module.param("scale", logical(nn.initializers.ones, *axes), outputs), y)
    return y


def along_last(parameter: Array, x: Array) -> Array:
    """A parameter of the last axes of `x`, with as many axes and in the dtype of `x`."""
    return jnp.expand_dims(parameter, range(x.ndim - parameter.ndim)).astype(x.dtype)


def few_rows(x: Array, kernel_NM: Array) -> Array:
    """`x @ kernel.T`, `[..., M]` to `[..., N]`, with every weight read once, in order, for all rows.

    XLA's CPU matrix products read weights at half the memory's speed when there are two to a dozen rows, and
    on one core when there is one. As a sum of several numbers at a time, one for every row and part of the
    kernel, the product runs at full speed on all cores, if it is compiled with `compiler_options`; otherwise
    it is right, but fifty times slower.

    Args:
      kernel_NM: in the dtype of `x` or in int8, which becomes numbers of that dtype one by one.
    """
    rows, (outputs, width) = math.prod(x.shape[:-1]), kernel_NM.shape
    # Parts share their reading of x. Of short sums the ends cost more than that.
    parts = 4 if rows == 1 else 2 if rows == 2 or width >= 256 else 1
    parts = math.gcd(outputs, parts)
    if not 0 < rows <= FEW_ROWS or rows * parts == 1 or x.dtype != jnp.float32:
        return jnp.einsum("...m,nm->...n", x, kernel_NM.astype(x.dtype))
    # What makes x stays outside: the compiler would repeat it for every output. What makes int8 a number
    # stays inside: out of a loop over tokens the compiler would move it, and four times as much is read.
    x_RM, kernel_NM = jax.lax.optimization_barrier((x.reshape(rows, -1), kernel_NM))
    kernel_PNM = kernel_NM.reshape(parts, outputs // parts, width)
    sums = _joint_sums([x_M[None] * part_NM.astype(x.dtype) for x_M in x_RM for part_NM in kernel_PNM])
    return jnp.stack(sums).reshape(*x.shape[:-1], -1)


def few_queries(query_BHQD: Array, key_BHSD: Array) -> Array:
    """`query @ key.T`, `[B, H, Q, S]`, with every key read once for all queries, see `few_rows`."""
    batch, heads, queries, width = query_BHQD.shape
    parts = math.gcd(heads, max(1, 4 // queries))
    if not 1 < queries * parts <= FEW_ROWS or query_BHQD.dtype != jnp.float32:
        return jnp.einsum("bhqd,bhsd->bhqs", query_BHQD, key_BHSD)
    split = (batch, parts, heads // parts)
    query_BPHQD = jax.lax.optimization_barrier(query_BHQD).reshape(*split, queries, width)
    key_BPHSD = key_BHSD.reshape(*split, -1, width)
    sums = _joint_sums(
        [query_BPHQD[:, p, :, q, None] * key_BPHSD[:, p] for p in range(parts) for q in range(queries)]
    )
    scores_PQBHS = jnp.stack(sums).reshape(parts, queries, *sums[0].shape)
    return jnp.transpose(scores_PQBHS, (2, 0, 3, 1, 4)).reshape(batch, heads, queries, -1)


def _joint_sums(terms: Sequence[Array]) -> Sequence[Array]:
    """Sums over the last axis, in one loop over what the terms have in common."""
    zeros = tuple(np.float32(0) for _ in terms)
    last = (terms[0].ndim - 1,)
    return jax.lax.reduce(tuple(terms), zeros, lambda a, b: tuple(map(jnp.add, a, b)), last)


def compiler_options() -> dict[str, str | bool | int] | None:
    """What `jax.jit` needs to know where prepared parameters are used.

    On a CPU: sums may be taken in any order, so that those of `few_rows` are vectorised, and vectors may be
    as wide as the machine has them, while NaN, infinities, divisions and functions stay what they are;
    barriers hold until everything is fused; and a sum is one kernel, not a tree of two.
    """
    if jax.default_backend() != "cpu":
        return None
    kept = {f"xla_cpu_fast_math_honor_{what}": True for what in ("nans", "infs", "division", "functions")}
    return {
        "xla_cpu_enable_fast_math": True,
        "xla_cpu_prefer_vector_width": 512,
        "xla_disable_hlo_passes": "cse_barrier_expander,tree_reduction_rewriter",
        **kept,
    }
