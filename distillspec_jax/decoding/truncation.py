"""The selection behind top-k and top-p: the tokens of highest value whose weights reach a target.

It does not sort: a full sort of 32k logits costs several milliseconds on a CPU, more than a decoding step.
Instead it finds a threshold per row bit by bit, which is exact and needs no fixed k.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distillspec_jax.shapes import Array

_KEY_BITS = 32
_SIGN = 1 << 31


def heaviest_prefix(values: Array, weights: Array, target: Array) -> Array:
    """Marks the shortest prefix, in order of descending value, whose weights sum to at least `target`.

    Equal values are ordered by ascending id. With unit `weights` and `target` k this is top-k; with
    probabilities and `target` p it is top-p. A target that is never reached (infinity) keeps everything.

    Example: values `[3, 5, 5, 1]`, weights `[.2, .3, .3, .2]`, target `.5` gives `[0, 1, 1, 0]`.

    Args:
      values: float32 `[..., V]`, only compared with each other; -inf is allowed, NaN is not.
      weights: float32 `[..., V]`, non-negative; a token of weight zero is never needed, but may be marked.
      target: float32 `[..., 1]`, above zero.

    Returns:
      Boolean `[..., V]`; at least one entry is true in every row.
    """
    order = _sortable(values)

    def set_bit(i: Array, threshold: Array) -> Array:
        trial = threshold | (jnp.uint32(1) << (jnp.uint32(_KEY_BITS - 1) - i.astype(jnp.uint32)))
        return jnp.where(_mass(order >= trial, weights) >= target, trial, threshold)

    # Find the largest threshold for which the tokens at or above it still reach the target.
    lowest = jnp.zeros(jnp.broadcast_shapes(values[..., :1].shape, target.shape), jnp.uint32)
    threshold = jax.lax.fori_loop(0, _KEY_BITS, set_bit, lowest)
    above, tied = order > threshold, order == threshold
    tied_weights = jnp.where(tied, weights, 0.0)
    before = _mass(above, weights) + jnp.cumsum(tied_weights, -1) - tied_weights
    return above | (tied & (before < target))


def _mass(mask: Array, weights: Array) -> Array:
    return jnp.sum(jnp.where(mask, weights, 0.0), axis=-1, keepdims=True)


def _sortable(values: Array) -> Array:
    """Maps floats to unsigned integers in the same order; -0 and 0 map to the same integer."""
    bits = jax.lax.bitcast_convert_type(jnp.where(values == 0.0, 0.0, values), jnp.uint32)
    return jnp.where(bits >= jnp.uint32(_SIGN), ~bits, bits | jnp.uint32(_SIGN))
