"""A stack of equal layers, written out one by one or, for compile time's sake, as a loop over them.

The loop compiles one layer whatever their number. Every layer's parameters keep a name of their own, so that
checkpoints, sharding and decoding know nothing of it: the program stacks them first, which takes the room of
a second copy, sharded as the first is.
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
    """Calls every layer on what the one before it returned.

    Args:
      stack: the module whose `layers` these are; its `scan_layers` chooses the loop, its `remat` what the
        loop rematerialises.
      layer: makes one of them; `layer(parent=None)` stands outside the stack.
      x_BTM: for the first layer.
      args: for every layer, between x and `deterministic`.
      each: an argument of every layer's own, after `args`; (): none. Layers share few such values, as
        objects: the loop chooses among those, and where there is one, there is nothing to choose.
      deterministic: no dropout.

    Returns:
      What the last returned; and, where layers return a pair, every layer's second part.
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
        # In a loop there is nothing that the compiler could find to be the same.
        body = jax.checkpoint(body, policy=POLICIES[stack.remat], prevent_cse=False)
    x_BTM, stacked_others = jax.lax.scan(body, x_BTM, (stacked, keys, chosen_L if len(values) > 1 else None))
    return x_BTM, [jax.tree.map(lambda leaf: leaf[i], stacked_others) for i in range(count)]  # noqa: B023


def _pair(returned: Any) -> tuple[Array, Any]:
    return returned if isinstance(returned, tuple) else (returned, None)
