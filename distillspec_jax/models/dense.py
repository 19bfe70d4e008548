"""Projections, with kernels in the stored form or in one that decodes faster.

Kernels are T5X's (`kernel`, `[in, out]`). Three more forms exist only inside decoding (see `prepared.py`).
`stacked` concatenates several kernels of one input. `few_rows`, only on CPUs, also transposes them
(`kernel_transposed`, `[out, in]`), and `int8` also rounds them to 8 bits (`kernel_int8`, and a `scale` per
output, see `quantised.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from distillspec_jax.models.cpu_forms import few_rows
from distillspec_jax.models.projection import project
from distillspec_jax.shapes import Array

Initializer = Callable[..., Any]
Form = Literal["canonical", "stacked", "few_rows", "int8"]
TRANSPOSED: tuple[Form, ...] = ("few_rows", "int8")
"""Forms for calls of few rows on a CPU, see `cpu_forms.py`."""

fan_in_normal: Initializer = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def logical(init: Initializer, *axes: str | None) -> Initializer:
    """Adds logical axes to a parameter's initialiser; `partitioning.py` maps them to a mesh."""
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
        if self.form in TRANSPOSED:
            y = _transposed(self, x, shape[1:], self.axes[1:], self.kernel_init)
        else:
            kernel = self.param("kernel", logical(self.kernel_init, *self.axes), shape, jnp.float32)
            y = project(x, kernel.astype(self.dtype))
        if self.use_bias:
            init = logical(nn.initializers.zeros, self.axes[1])
            y += along_last(self.param("bias", init, shape[1:], jnp.float32), y)
        return y


class StackedDense(nn.Module):
    """Several projections of one input as a single product, `[..., in] -> count * [..., features]`.

    Only prepared parameters have its kernel, `[in, count, features]`: decoding is bound by reading weights,
    and one long read is faster than several short ones. The members have a separate axis, so that each
    member's sharded axis remains an axis of the stack.
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
        if self.form in TRANSPOSED:
            y = _transposed(self, x, (self.count, self.features), (None, self.axes[1]), fan_in_normal)
        else:
            init = logical(fan_in_normal, self.axes[0], None, self.axes[1])
            kernel = self.param("kernel", init, (width, self.count, self.features), jnp.float32)
            y = jnp.einsum("...m,mcf->...cf", x, kernel.astype(self.dtype))
        if self.use_bias:
            init = logical(nn.initializers.zeros, None, self.axes[1])
            y += along_last(self.param("bias", init, y.shape[-2:], jnp.float32), y)
        return tuple(y[..., i, :] for i in range(self.count))


def _transposed(
    module: Dense | StackedDense,
    x: Array,
    outputs: tuple[int, ...],
    axes: tuple[str | None, ...],
    kernel_init: Initializer,
) -> Array:
    """Projects `[..., in] -> [..., *outputs]` by a kernel `[*outputs, in]` with output axes `axes`."""
    width, eight = x.shape[-1], module.form == "int8"
    name, dtype = ("kernel_int8", jnp.int8) if eight else ("kernel_transposed", jnp.float32)
    init = logical(nn.initializers.zeros if eight else kernel_init, *axes, module.axes[0])
    kernel = module.param(name, init, (*outputs, width), dtype)
    y = few_rows(x, kernel.reshape(-1, width)).reshape(*x.shape[:-1], *outputs)
    if eight:
        y *= along_last(module.param("scale", logical(nn.initializers.ones, *axes), outputs), y)
    return y


def along_last(parameter: Array, x: Array) -> Array:
    """Expands a parameter of the last axes of `x` to the rank and dtype of `x`."""
    return jnp.expand_dims(parameter, range(x.ndim - parameter.ndim)).astype(x.dtype)
