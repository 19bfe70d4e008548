"""PRNG keys for decoding, and how a token is drawn with them.

A row's text depends only on its own key, never on its neighbours or its position in the batch. Keys are
derived, never split and carried:

    row     = fold_in(seed key, prompt index)
    round   = fold_in(row, committed length at the round's start)
    draw    = fold_in(fold_in(round, offset in the block), purpose)

The second, third, … drafter of a round uses fold_in(round, 2**31 + its number) as its round key.

The round key uses the committed length, not the absolute position: a position that is drafted again after a
rejection must not reuse the noise that decided the previous block.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax import bounds
from distillspec_jax.shapes import Array

_BLOCK = 128
_IMPLEMENTATION = "threefry2x32"
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


class Purpose(enum.IntEnum):
    """The purpose of a draw; no two purposes share noise."""

    DRAFT = 0
    ACCEPT = 1
    RESIDUAL = 2
    BONUS = 3


def seed_key(seed: int) -> Array:
    """Makes the key of a user's seed.

    Raises:
      UsageError: the seed is outside 0 .. 2**32 - 1; JAX would silently keep only its lower 32 bits.
    """
    bounds.check_seed(seed)
    return jax.random.key(seed, impl=_IMPLEMENTATION)


def seed_keys(seed_N: Array | np.ndarray) -> Array:
    """Makes the keys of several seeds, `[N]`: `seed_key` of each.

    Args:
      seed_N: uint32, each in the range that `seed_key` accepts.
    """
    data_N2 = jnp.stack([jnp.zeros_like(seed_N), seed_N], axis=-1)  # a seed's upper and lower half
    return jax.random.wrap_key_data(data_N2, impl=_IMPLEMENTATION)


def row_keys(seed_key: Array, prompt_index_B: Array) -> Array:
    """Derives one key per prompt, `[B]`; prompts with different indices are independent, even equal texts.

    Args:
      seed_key: one key for all prompts, or `[B]`, one each.
    """
    return _fold_in(seed_key, prompt_index_B)


def round_keys(row_keys_B: Array, committed_B: Array) -> Array:
    """Derives the keys of one round, `[B]`, from the number of tokens emitted before it."""
    return _fold_in(row_keys_B, committed_B)


def member_keys(round_keys_B: Array, member: int) -> Array:
    """Derives the keys of one of several drafters in a round, `[B]`; the first uses the round's own."""
    return round_keys_B if member == 0 else _fold_in(round_keys_B, np.uint32(2**31 + member))


def draw_keys(keys: Array, offset: Array | int, purpose: Array | Purpose) -> Array:
    """Derives the keys of single draws; the three arguments broadcast."""
    return _fold_in(_fold_in(keys, offset), purpose)


def uniform(keys: Array) -> Array:
    """Draws one float32 in [0, 1) per key, in the keys' shape: `jax.random.uniform` of each."""
    high, low = _bits(keys)
    return _unit(high ^ low)


def draw(keys_B: Array, log_p_BV: Array) -> Array:
    """Draws one token per row by inverting the cumulative distribution; never one of probability zero.

    It needs two uniform numbers per row (the Gumbel trick would need V): one for a block of ids, one within
    it. A single one of 23 bits would never draw most ids of a large vocabulary's tail, and one long
    cumulative sum is slower and less exact.

    Returns:
      int32 `[B]`. A row of NaN yields an arbitrary id in range.
    """
    high, low = _bits(keys_B)
    return inverted(_unit(high), _unit(low), log_p_BV)


def inverted(block_u_B: Array, inside_u_B: Array, log_p_BV: Array) -> Array:
    """Inverts a distribution at two numbers in [0, 1): for a block of ids, and for an id within it."""
    rows, vocab = log_p_BV.shape
    p_BV = jnp.exp(log_p_BV)
    blocks = jnp.pad(p_BV, ((0, 0), (0, -vocab % _BLOCK))).reshape(rows, -1, _BLOCK)
    mass = blocks.sum(-1)
    ends = jnp.cumsum(mass, -1)
    block_B = _first_past(mass, ends, block_u_B[:, None] * ends[:, -1:])
    inside = jnp.take_along_axis(blocks, block_B[:, None, None], axis=1)[:, 0]
    ends = jnp.cumsum(inside, -1)
    token_B = block_B * _BLOCK + _first_past(inside, ends, inside_u_B[:, None] * ends[:, -1:])
    return jnp.minimum(token_B, vocab - 1).astype(jnp.int32)


def _bits(keys: Array) -> tuple[Array, Array]:
    """Draws twice 32 bits per key."""
    zero = jnp.zeros(keys.shape, jnp.uint32)
    return threefry(*_halves(keys), zero, zero)


def _unit(bits: Array) -> Array:
    """Converts the upper 23 of 32 bits to float32 in [0, 1)."""
    mantissa = (bits >> jnp.uint32(9)) | jnp.uint32(0x3F800000)
    return jax.lax.bitcast_convert_type(mantissa, jnp.float32) - 1.0


def _first_past(weights: Array, cumulative: Array, point: Array) -> Array:
    """Finds the first entry of positive weight whose cumulative sum exceeds the point.

    Rounding in a parallel cumulative sum can make it rise at an entry of weight zero, so the weight is
    tested, too. If rounding puts the point past the end, the result is the last positive entry.
    """
    positive = weights > 0
    hit = positive & (cumulative > point)
    last = positive.shape[-1] - 1 - jnp.argmax(positive[..., ::-1], axis=-1)
    return jnp.where(hit.any(-1), jnp.argmax(hit, axis=-1), last)


def _fold_in(keys: Array, data: Array | int | np.uint32) -> Array:
    """`jax.random.fold_in` with broadcasting."""
    first, second = _halves(keys)
    shape = jnp.broadcast_shapes(keys.shape, jnp.shape(data))
    first, second = jnp.broadcast_to(first, shape), jnp.broadcast_to(second, shape)
    data = jnp.broadcast_to(jnp.asarray(data).astype(jnp.uint32), shape)
    # Without the barrier, XLA repeats a key's whole chain of derivations in every kernel that draws with it,
    # and a program of several drafters takes three times as long to compile.
    folded = jax.lax.optimization_barrier(threefry(first, second, jnp.zeros(shape, jnp.uint32), data))
    return jax.random.wrap_key_data(jnp.stack(folded, axis=-1), impl=_IMPLEMENTATION)


def _halves(keys: Array) -> tuple[Array, Array]:
    data = jax.random.key_data(keys)
    return data[..., 0], data[..., 1]


def threefry(key_0: Array, key_1: Array, x_0: Array, x_1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds (Salmon et al., 2011), on uint32 arrays of one shape.

    Gives the same bits as JAX's own. On CPU, JAX uses a loop to save compile time: a hundred small kernels
    per key, and a decoding step needs a dozen keys. Unrolled, it is one kernel.
    """
    keys = (key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(0x1BD11BDA))
    x_0, x_1 = x_0 + key_0, x_1 + key_1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x_0 = x_0 + x_1
            x_1 = (x_1 << jnp.uint32(rotation)) | (x_1 >> jnp.uint32(32 - rotation))
            x_1 = x_0 ^ x_1
        x_0 = x_0 + keys[(group + 1) % 3]
        x_1 = x_1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x_0, x_1
