"""Peak FLOP/s of the devices, the reference for training's utilisation."""

from __future__ import annotations

import functools
import math
import time

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
"""Vendors' dense bfloat16 FLOP/s per device, by prefix of `device_kind`."""


@functools.cache
def peak(matmul_precision: str | None = None) -> float:
    """Returns the FLOP/s of all devices together: the vendor's figure, or a measurement if there is none.

    Args:
      matmul_precision: of the products to compare with; a CPU's peak depends on it.
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
    """Measures one device's FLOP/s: the fastest of a few large matrix products (`projection.project`)."""
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
