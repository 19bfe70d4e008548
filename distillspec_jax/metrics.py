"""The metric primitive: a sum and a count, so that batches, hosts and runs merge exactly.

Ratios are computed once, when they are reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np


@flax.struct.dataclass
class Mean:
    """`total / count`, mergeable. Leaves are scalars on a device, or floats on the host."""

    total: Any
    count: Any

    @classmethod
    def of(cls, values: jax.Array, mask: jax.Array | None = None) -> Mean:
        """Mean of `values` where `mask` (broadcastable, 0/1 or weights) is set."""
        if mask is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, jnp.float32))
        weights = jnp.broadcast_to(mask, values.shape).astype(jnp.float32)
        return cls(jnp.sum(jnp.where(weights > 0, values, 0.0) * weights), jnp.sum(weights))

    def merge(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> float:
        """Computes the mean; NaN if nothing was counted, because an empty mean is not zero."""
        return float(self.total) / float(self.count) if float(self.count) else float("nan")


Metrics = Mapping[str, Mean]


def merge(left: Metrics, right: Metrics) -> dict[str, Mean]:
    """Merges two sets of metrics; names in only one of them are kept."""
    merged = dict(left)
    for name, mean in right.items():
        merged[name] = merged[name].merge(mean) if name in merged else mean
    return merged


def to_host(metrics: Metrics) -> dict[str, Mean]:
    """Converts device scalars to Python floats (float64), so that long sums keep their precision."""
    fetched = jax.device_get(dict(metrics))
    return {k: Mean(float(np.float64(m.total)), float(np.float64(m.count))) for k, m in fetched.items()}


def compute(metrics: Metrics) -> dict[str, float]:
    """Computes the ratios for a report; NaN if nothing was counted."""
    return {name: mean.compute() for name, mean in metrics.items()}
