"""Losses and metrics over the vocabulary that materialise the logits of one chunk of the sequence at a time.

`[B, T, V]` logits are by far the largest arrays of a train step. Since a loss is a sum over tokens, each
chunk's gradient is computed with its logits, and both are then discarded. Only the gradients of the hidden
states and of the projection are kept. Nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.shapes import Array

LOGITS = 2**25
"""The most logits of one network in a part: 128 MiB in float32, 1,044 tokens of T5's vocabulary."""

Loss = Callable[[Array, Any, Any], tuple[Array, Any]]
"""Maps logits `[B, K, V]`, arrays of the same tokens and constants to a sum and `[B, K, ...]` arrays."""


def parts(rows: int, tokens: int, vocab_size: int) -> int:
    """Computes the number of parts to cut a batch of sequences into; 1 if all its logits fit in one."""
    return min(-(-rows * tokens * vocab_size // LOGITS), tokens)


def of_tokens(values: Callable[[Any], Any], given: Any, count: int) -> Any:
    """Applies a function to the tokens, one part at a time, without gradients.

    Args:
      values: maps a tree of `[B, K, ...]` arrays to a tree of such arrays, token by token.
      given: tree of `[B, T, ...]` arrays.
      count: number of parts along T.

    Returns:
      The function's values, `[B, T, ...]`.
    """
    width = jax.tree.leaves(given)[0].shape[1]
    _, found = _scan(lambda _, part: (None, values(part)), None, _parts(given, -(-width // count)))
    return _joined(found, width)


def loss_of_hidden(
    readout: Callable[[Array], Array], loss: Loss, hidden_BTM: Array, given: Any, frozen: Any, count: int
) -> tuple[Array, Any]:
    """Sums a loss over all tokens and collects its per-token auxiliary values.

    Args:
      readout: maps hidden states `[B, K, M]` to logits `[B, K, V]`, token by token; the parameters that it
        closes over receive gradients.
      loss: takes a part of the tokens; closes over no traced value. A token of weight 0 must contribute
        nothing.
      hidden_BTM: hidden states of the trained network.
      given: tree of `[B, T, ...]` arrays, cut like the hidden states and padded with zeros; receives no
        gradient.
      frozen: anything else that the loss reads; receives no gradient.
      count: number of parts along T.

    Returns:
      The sum, and the auxiliary values, `[B, T, ...]`, without gradient.
    """
    width = hidden_BTM.shape[1]
    size = -(-width // count)
    pure_readout, learned = jax.closure_convert(readout, _cut(hidden_BTM, size)[0])

    def of_part(hidden_BKM: Array, learned: list[Array], given: Any, frozen: Any) -> tuple[Array, Any]:
        return loss(pure_readout(hidden_BKM, *learned), given, frozen)

    @jax.custom_vjp
    def total(hidden_BTM: Array, learned: list[Array], given: Any, frozen: Any) -> tuple[Array, Any]:
        def step(so_far: Array, part: tuple[Array, Any]) -> tuple[Array, Any]:
            value, seen = of_part(part[0], learned, part[1], frozen)
            return so_far + value, seen

        zero = jnp.zeros((), jnp.float32)
        value, seen = _scan(step, zero, _parts((hidden_BTM, given), size))
        return value, _joined(seen, width)

    def forward(hidden_BTM: Array, learned: list[Array], given: Any, frozen: Any) -> Any:
        gradient = jax.value_and_grad(of_part, argnums=(0, 1), has_aux=True)

        def step(so_far: Any, part: tuple[Array, Any]) -> tuple[Any, Any]:
            (value, seen), (to_hidden, to_learned) = gradient(part[0], learned, part[1], frozen)
            return jax.tree.map(jnp.add, so_far, (value, to_learned)), (seen, to_hidden)

        zero = jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, learned)
        (value, to_learned), ys = _scan(step, zero, _parts((hidden_BTM, given), size))
        seen, to_hidden = _joined(ys, width)
        return (value, seen), (to_hidden, to_learned)

    def backward(gradients: Any, cotangent: tuple[Array, Any]) -> Any:
        return *jax.tree.map(lambda g: (cotangent[0] * g).astype(g.dtype), gradients), None, None

    total.defvjp(forward, backward)
    return total(hidden_BTM, learned, given, frozen)


def _scan(step: Callable[[Any, Any], tuple[Any, Any]], start: Any, parts: Any) -> tuple[Any, Any]:
    """`lax.scan`, but without a loop for a single part, since a loop would hinder the compiler."""
    if len(jax.tree.leaves(parts)[0]) > 1:
        return jax.lax.scan(step, start, parts)
    carry, y = step(start, jax.tree.map(lambda x: x[0], parts))
    return carry, jax.tree.map(lambda x: x[None], y)


def _parts(tree: Any, size: int) -> Any:
    return jax.tree.map(lambda x: _cut(x, size), tree)


def _cut(x: Array, size: int) -> Array:
    """Reshapes `[B, T, ...]` to `[parts, B, size, ...]`, padded with zeros."""
    fill = -x.shape[1] % size
    x = jnp.pad(x, [(0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 2))
    return jnp.moveaxis(x.reshape(x.shape[0], -1, size, *x.shape[2:]), 1, 0)


def _joined(tree: Any, width: int) -> Any:
    """Inverts `_cut`: reshapes `[parts, B, size, ...]` to `[B, T, ...]`."""

    def join(x: Array) -> Array:
        x = jnp.moveaxis(x, 0, 1)
        return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :width]

    return jax.tree.map(join, tree)
