"""A stack of equal layers, unrolled or, to save compile time, as a scan over the layers.

The scan compiles only one layer. Each layer's parameters keep their own name, so checkpoints, sharding and
decoding are unaffected. The program first stacks the parameters, which takes the memory of a second copy with
the same sharding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from distillspec_jax.models.rematerialisation import POLICIES
from distillspec_jax.shapes import Array


def through(
    stack: Any,
    layer: Callable[..., nn.Module],
    x_BTM: Array,
    *args: Any,
    each: Sequence[Any] = (),
    deterministic: bool,
) -> tuple[Array, list[Any]]:
    """Calls every layer on the output of the previous one.

    Args:
      stack: the module that holds `layers`; its `scan_layers` selects the scan, its `remat` the scan's
        rematerialisation policy.
      layer: makes one layer; `layer(parent=None)` makes it outside the stack.
      x_BTM: input of the first layer.
      args: passed to every layer, between x and `deterministic`.
      each: one further argument per layer, after `args`; (): none. Layers share a few such objects; the scan
        selects among the distinct ones, and skips the selection if there is only one.
      deterministic: no dropout.

    Returns:
      The last layer's output; and, if layers return a pair, every layer's second part.
    """
    if not stack.scan_layers or stack.is_initializing():
        others = []
        for i, one in enumerate(stack.layers):
            x_BTM, other = _pair(one(x_BTM, *args, *each[i : i + 1], deterministic))
            others.append(other)
        return x_BTM, others
    count, params = len(stack.layers), stack.variables["params"]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[f"layers_{i}"] for i in range(count)))
    keys = None if deterministic else jax.random.split(stack.make_rng("dropout"), count)
    alone = layer(parent=None)
    values = list({id(value): value for value in each}.values())
    chosen_L = jnp.array([[value is one for one in values].index(True) for value in each], jnp.int32)

    def body(x_BTM: Array, of_layer: tuple[Any, Array | None, Array | None]) -> tuple[Array, Any]:
        params, key, chosen = of_layer
        rngs = {} if key is None else {"dropout": key}
        own = values
        if chosen is not None:
            own = [jax.tree.map(lambda *leaves: jax.lax.select_n(chosen, *leaves), *values)]
        return _pair(alone.apply({"params": params}, x_BTM, *args, *own, deterministic, rngs=rngs))

    if stack.remat != "none":
        # Inside a scan, XLA cannot merge the recomputation with the forward pass, so CSE is harmless.
        body = jax.checkpoint(body, policy=POLICIES[stack.remat], prevent_cse=False)
    x_BTM, stacked_others = jax.lax.scan(body, x_BTM, (stacked, keys, chosen_L if len(values) > 1 else None))
    return x_BTM, [jax.tree.map(lambda leaf: leaf[i], stacked_others) for i in range(count)]  # noqa: B023


def _pair(returned: Any) -> tuple[Array, Any]:
    return returned if isinstance(returned, tuple) else (returned, None)
