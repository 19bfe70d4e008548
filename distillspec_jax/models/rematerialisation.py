"""Rematerialisation trades time for memory: the backward pass recomputes a layer's activations."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax

from distillspec_jax.errors import UsageError, nearest

POLICIES: dict[str, Any] = {
    "none": None,
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""`minimal` saves the outputs of products with weights, `full` only a layer's input (T5X's names)."""


def check_policy(name: str) -> None:
    """Raises UsageError if there is no such policy."""
    if name not in POLICIES:
        raise UsageError(f"REMAT={name!r}: {nearest(name, POLICIES)}")


def rematerialised(layer: type[nn.Module], policy: str, deterministic: int) -> Any:
    """Wraps a layer class so that `__call__`, and no other method, follows the policy.

    Args:
      policy: a key of `POLICIES`.
      deterministic: index of that flag among the arguments of `__call__`, counted from 1.
    """
    if policy == "none":
        return layer
    return nn.remat(layer, policy=POLICIES[policy], static_argnums=(deterministic,))
