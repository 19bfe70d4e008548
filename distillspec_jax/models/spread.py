"""Broadcasts an array over the rows of a batch, with a fast gradient on CPUs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from distillspec_jax.shapes import Array


def spread(shared: Array, rows: int) -> Array:
    """Broadcasts `[...]` to `[rows, ...]`.

    The gradient is a sum over rows. XLA's CPU backend takes 70 ms to sum 9 million numbers, but 1 ms as a
    product with ones; the sum for position biases took a tenth of a training step. Other backends use the
    default gradient.
    """
    if jax.default_backend() != "cpu" or rows == 1:
        return jnp.broadcast_to(shared, (rows, *shared.shape))
    return _spread(rows, shared)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _spread(rows: int, shared: Array) -> Array:
    return jnp.broadcast_to(shared, (rows, *shared.shape))


def _forward(rows: int, shared: Array) -> tuple[Array, None]:
    return _spread(rows, shared), None


def _backward(rows: int, _: None, gradient: Array) -> tuple[Array]:
    return (jnp.einsum("b,b...->...", jnp.ones(rows, gradient.dtype), gradient),)


_spread.defvjp(_forward, _backward)
