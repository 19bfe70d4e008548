from __future__ import annotations

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.randomness import Purpose
from tests.exactness.goodness import g_test

draw = jax.jit(randomness.draw)


@jax.jit
def all_keys(committed: int, offset: int, purpose: int) -> jax.Array:
    rows = randomness.row_keys(jax.random.key(0), jnp.arange(3))
    keys = randomness.round_keys(rows, jnp.full(3, committed))
    return jax.random.key_data(randomness.draw_keys(keys, offset, purpose))


def test_no_two_draws_of_a_decoding_share_a_key() -> None:
    seen: set[tuple[int, ...]] = set()
    cases = list(itertools.product(range(4), range(4), Purpose))
    for case in cases:
        seen |= {tuple(data) for data in np.asarray(all_keys(*map(int, case))).tolist()}
    assert len(seen) == 3 * len(cases)


def test_a_row_key_depends_on_the_prompt_index_alone() -> None:
    alone = randomness.row_keys(jax.random.key(0), jnp.array([5]))
    among = randomness.row_keys(jax.random.key(0), jnp.array([2, 5, 5]))
    assert (jax.random.key_data(among[1]) == jax.random.key_data(alone[0])).all()


def test_draws_follow_the_distribution_across_blocks() -> None:
    """A vocabulary of three blocks; false alarm 1e-4."""
    p_V = np.zeros(300)
    p_V[[1, 5, 127, 128, 140, 255, 256, 299]] = [0.1, 0.2, 0.05, 0.15, 0.2, 0.1, 0.05, 0.15]
    rows = 40_000
    with np.errstate(divide="ignore"):
        log_p_BV = np.broadcast_to(np.log(p_V).astype(np.float32), (rows, 300))
    tokens = draw(jax.random.split(jax.random.key(3), rows), log_p_BV)
    counts = Counter((token,) for token in np.asarray(tokens).tolist())
    assert g_test(counts, {(v,): p for v, p in enumerate(p_V)}) > 1e-4


def test_every_id_of_a_flat_tail_can_be_drawn() -> None:
    """One uniform number of 23 bits reaches an eighth of ids of probability 2^-26 at most."""
    head, tail = 128, 2**12
    p_V = np.concatenate([[1 - tail * 2.0**-26], np.zeros(head - 1), np.full(tail, 2.0**-26)])
    inside_u = (np.arange(head) + 0.5) / head
    # The last points of the grid of the first number: those at which it leaves the head.
    block_u = 1 - np.arange(1, 2**9 + 1) / 2**23
    invert = jax.jit(randomness.inverted)
    log_p_V = np.log(np.maximum(p_V, 1e-45)).astype(np.float32)
    log_p_V[1:head] = -np.inf
    found: set[int] = set()
    for u in inside_u:
        rows = np.broadcast_to(log_p_V, (len(block_u), len(p_V)))
        found |= set(invert(block_u.astype(np.float32), np.full(len(block_u), u, np.float32), rows).tolist())
    assert found == set(range(head, head + tail))


def test_a_point_past_the_end_means_the_last_token_that_can_be_drawn() -> None:
    weights = np.array([[0.0, 0.5, 0.0, 0.5, 0.0]], np.float32)
    first_past = jax.jit(randomness._first_past)
    for point, expected in [(0.0, 1), (0.5, 3), (1.0, 3), (2.0, 3)]:
        found = first_past(weights, np.cumsum(weights, -1), np.array([[point]]))
        assert found.tolist() == [expected]


def test_one_hot_distributions_and_nan_stay_in_range() -> None:
    one_hot = np.where(np.arange(200) == np.array([[0], [127], [199]]), 0.0, -np.inf).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    assert draw(keys, one_hot).tolist() == [0, 127, 199]
    assert (np.asarray(draw(keys, np.full((3, 200), np.nan, np.float32))) < 200).all()


def test_keys_and_numbers_are_those_of_jax() -> None:
    """Written out here for speed, in JAX's library for everyone: the same bits."""
    keys = jax.random.split(jax.random.key(7), (2, 5))
    data = jnp.asarray([0, 1, 17, -3, 2**31 - 1])
    folded = jax.jit(randomness._fold_in)(keys, data[None])
    for row in range(2):
        for column in range(5):
            expected = jax.random.fold_in(keys[row, column], data[column])
            assert (jax.random.key_data(folded[row, column]) == jax.random.key_data(expected)).all()
    uniform = jax.jit(randomness.uniform)(keys)
    np.testing.assert_array_equal(uniform, jax.vmap(jax.vmap(jax.random.uniform))(keys))
    assert ((uniform >= 0) & (uniform < 1)).all()
