"""Products of activations with parameters that respect JAX's matmul precision on CPUs, too.

XLA's CPU backend ignores `jax_default_matmul_precision`. A CPU with bfloat16 instructions (AVX512-BF16, AMX)
multiplies bfloat16 operands at twice the rate of float32 and accumulates in float32, as a TPU does by
default. These products take most of a training step's time.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from distillspec_jax.shapes import Array

BFLOAT16 = "BF16_BF16_F32"
"""The JAX precision that this module implements on CPUs."""

PRECISIONS = ("default", "high", "highest", BFLOAT16)
"""Settings of `jax.default_matmul_precision`: the backend's default, two more exact ones, the fast one."""


_CONFIG: Any = jax.config  # its settings are not in its type


def precision(name: str | None) -> Any:
    """Returns a context manager that sets one of `PRECISIONS`; None: JAX's current setting."""
    return jax.default_matmul_precision(name or _CONFIG.jax_default_matmul_precision)


def project(x: Array, kernel: Array, axis: int = 0) -> Array:
    """Contracts the last axis of `x` with one axis of a 2-D kernel: `[..., in]` to `[..., out]`.

    Under `jax.default_matmul_precision("BF16_BF16_F32")`, the operands of this product and of its gradient's
    products are rounded to bfloat16; results are float32.

    Args:
      axis: the kernel's contracted axis.
    """
    if (
        _CONFIG.jax_default_matmul_precision == BFLOAT16
        and x.dtype == jnp.float32
        and jax.default_backend() == "cpu"
    ):
        return _rounded(axis, x, kernel)
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (axis,)), ((), ())))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _rounded(axis: int, x: Array, kernel: Array) -> Array:
    return _forward(axis, x, kernel)[0]


def _forward(axis: int, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _product(x, kernel, (x.ndim - 1,), (axis,)), (x, kernel)


def _backward(axis: int, operands: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = operands
    gradient = gradient.astype(jnp.bfloat16)
    rows = tuple(range(x.ndim - 1))
    of_x = _product(gradient, kernel, (x.ndim - 1,), (1 - axis,))
    first, second = (x, gradient) if axis == 0 else (gradient, x)
    return of_x, _product(first, second, rows, rows)


def _product(a: Array, b: Array, of_a: tuple[int, ...], of_b: tuple[int, ...]) -> Array:
    return lax.dot_general(a, b, ((of_a, of_b), ((), ())), preferred_element_type=jnp.float32)


_rounded.defvjp(_forward, _backward)
