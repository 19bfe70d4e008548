"""Floating-point operations of a train step, counted in its program, and what the machine could do."""

from __future__ import annotations

import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.models.projection import precision, project

PEAKS = {
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Makers' figures for dense bfloat16 products, a second and device, by the beginning of `device_kind`."""


def product_flops(jaxpr: Any, while_trips: int = 1) -> float:
    """Multiplications and additions of all matrix products in a program, over all devices.

    Of a step without rematerialisation, these are the model's: what it computes again would count, too.

    Args:
      jaxpr: of the step, `jitted.trace(...).jaxpr`.
      while_trips: how often a loop of unknown length is taken to turn: a rollout draws a token a turn.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)  # a closed one holds another
    return sum(_of(equation, while_trips) for equation in inner.eqns)


def _of(equation: Any, while_trips: int) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    inside = [product_flops(body, while_trips) for body in inner_programs(equation)]
    if name == "cond":
        return max(inside)
    times = {"scan": parameters.get("length"), "while": while_trips}.get(name, 1)
    return times * sum(inside)


def inner_programs(equation: Any) -> list[Any]:
    """The jaxprs in an equation: a loop's body, the branches of a condition, what is jitted inside."""
    listed = (value if isinstance(value, tuple) else (value,) for value in equation.params.values())
    return [one for values in listed for one in values if hasattr(getattr(one, "jaxpr", one), "eqns")]


@functools.cache
def peak(matmul_precision: str | None = None) -> float:
    """FLOP/s of all devices together: the makers' figures, or a measurement where there is none.

    Args:
      matmul_precision: of the products to be compared with it; a CPU's peak depends on it.
    """
    kind, devices = jax.devices()[0].device_kind, jax.device_count()
    for known in sorted(PEAKS, key=len, reverse=True):  # "TPU v5 lite" before "TPU v5"
        if kind.startswith(known):
            return PEAKS[known] * devices
    # The devices of a CPU share its cores.
    return product_peak(matmul_precision) * (
        jax.process_count() if jax.default_backend() == "cpu" else devices
    )


@functools.cache
def product_peak(matmul_precision: str | None = None) -> float:
    """FLOP/s of one device: the fastest of a few products of large matrices, see `projection.project`."""
    size, seconds = 1024 if jax.default_backend() == "cpu" else 8192, math.inf
    matrix = jax.device_put(jnp.ones((size, size)), jax.local_devices()[0])
    with precision(matmul_precision):
        product = jax.jit(project).lower(matrix, matrix).compile()
    product(matrix, matrix).block_until_ready()
    for _ in range(5):
        began = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds = min(seconds, time.perf_counter() - began)
    return 2 * size**3 / seconds
