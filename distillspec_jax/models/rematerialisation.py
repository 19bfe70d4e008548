"""Trading time for memory in training: a layer's activations are computed again when its gradient is due."""

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
"""`minimal` keeps what the products with weights gave, `full` a layer's input alone (T5X's names)."""


def check_policy(name: str) -> None:
    """Raises UsageError where there is no such policy."""
    if name not in POLICIES:
        raise UsageError(f"REMAT={name!r}: {nearest(name, POLICIES)}")


def rematerialised(layer: type[nn.Module], policy: str, deterministic: int) -> Any:
    """A layer's class whose `__call__`, and no other method, follows the policy.

    Args:
      policy: of `POLICIES`.
      deterministic: which argument of `__call__` is that flag, counted from 1.
    """
    if policy == "none":
        return layer
    return nn.remat(layer, policy=POLICIES[policy], static_argnums=(deterministic,))
