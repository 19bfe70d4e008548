"""Where the randomness of decoding comes from, and how a token is drawn with it.

A row's text depends on its own key alone, never on its neighbours or its place in the batch. Keys are
derived, never split and carried:

    row     = fold_in(seed key, prompt index)
    round   = fold_in(row, committed length at the round's start)
    draw    = fold_in(fold_in(round, offset in the block), purpose)

The committed length, not the absolute position: a position drafted again after a rejection must not meet
the noise that has already decided the last block.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array

_BLOCK = 128


class Purpose(enum.IntEnum):
    """What a draw is for; no two purposes share noise."""

    DRAFT = 0
    ACCEPT = 1
    RESIDUAL = 2
    BONUS = 3


def seed_key(seed: int) -> Array:
    """The key that a user's seed stands for.

    Raises:
      UsageError: outside 0 .. 2**32 - 1, of which JAX would keep the lower half and tell nobody.
    """
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed is {seed}, must be a whole number from 0 to {2**32 - 1}")
    return jax.random.key(seed)


def row_keys(seed_key: Array, prompt_index_B: Array) -> Array:
    """One key a prompt, `[B]`; distinct prompts, even equal ones, are independent."""
    return _fold_in(seed_key, prompt_index_B)


def round_keys(row_keys_B: Array, committed_B: Array) -> Array:
    """The keys of one round, `[B]`, from the number of tokens emitted before it."""
    return _fold_in(row_keys_B, committed_B)


def draw_keys(keys: Array, offset: Array | int, purpose: Array | Purpose) -> Array:
    """The keys of single draws; the three arguments broadcast."""
    return _fold_in(_fold_in(keys, offset), purpose)


def uniform(keys: Array) -> Array:
    """One float32 in [0, 1) a key, of the keys' shape."""
    return jax.vmap(jax.random.uniform)(keys.reshape(-1)).reshape(keys.shape)


def draw(keys_B: Array, log_p_BV: Array) -> Array:
    """Draws one token a row by inverting the cumulative law; a token of probability zero is never drawn.

    One uniform number a row (the Gumbel trick would need V), and two levels of sums, since one long
    cumulative sum is the slower and the less exact.

    Returns:
      int32 `[B]`. A row of NaN yields an arbitrary id in range.
    """
    rows, vocab = log_p_BV.shape
    p_BV = jnp.exp(log_p_BV)
    blocks = jnp.pad(p_BV, ((0, 0), (0, -vocab % _BLOCK))).reshape(rows, -1, _BLOCK)
    mass = blocks.sum(-1)
    ends = jnp.cumsum(mass, -1)
    point = uniform(keys_B)[:, None] * ends[:, -1:]
    block_B = _first_past(mass, ends, point)
    inside = jnp.take_along_axis(blocks, block_B[:, None, None], axis=1)[:, 0]
    start = jnp.take_along_axis(ends - mass, block_B[:, None], axis=1)
    token_B = block_B * _BLOCK + _first_past(inside, start + jnp.cumsum(inside, -1), point)
    return jnp.minimum(token_B, vocab - 1).astype(jnp.int32)


def _first_past(weights: Array, cumulative: Array, point: Array) -> Array:
    """The first entry of positive weight whose cumulative sum is past the point.

    A parallel sum need not rise at every entry, so the weight itself is tested too; and where rounding
    puts the point past the end, the last positive entry is meant.
    """
    positive = weights > 0
    hit = positive & (cumulative > point)
    last = positive.shape[-1] - 1 - jnp.argmax(positive[..., ::-1], axis=-1)
    return jnp.where(hit.any(-1), jnp.argmax(hit, axis=-1), last)


def _fold_in(keys: Array, data: Array | int) -> Array:
    data = jnp.asarray(data, jnp.uint32)
    shape = jnp.broadcast_shapes(keys.shape, data.shape)
    folded = jax.vmap(jax.random.fold_in)(
        jnp.broadcast_to(keys, shape).reshape(-1), jnp.broadcast_to(data, shape).reshape(-1)
    )
    return folded.reshape(shape)
