from __future__ import annotations

import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import CandidatesRule, TokenRule
from tests.decoding.drafted_blocks import P, Q, drafted_and_verified, log, verified
from tests.exactness.goodness import g_test


def test_one_candidate_is_the_token_rule_bit_for_bit() -> None:
    both = [
        drafted_and_verified(rule, 3, log(P), log(Q), 2, 1)[1] for rule in (TokenRule(), CandidatesRule())
    ]
    for ours, theirs in zip(*both, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def recursive_distribution(
    p: np.ndarray, q: np.ndarray, candidates: tuple[int, ...]
) -> tuple[dict[int, float], float]:
    """From drafted tokens to {kept token: probability} and the probability that none is kept."""
    kept: dict[int, float] = Counter()
    alive, p = 1.0, p.copy()
    for y in candidates:
        ratio = min(1.0, p[y] / q[y])
        kept[y] += alive * ratio
        alive *= 1 - ratio
        if alive:
            p = np.maximum(0, p - q)
            p /= p.sum()
    return kept, alive


@pytest.mark.parametrize("blocks", [2, 3])
def test_the_first_place_keeps_what_recursive_rejection_keeps(blocks: int) -> None:
    """Blocks of one draft: P(accepted and which), and the distribution of the token after a rejection of
    all."""
    p, q = P[0], Q[0]
    distribution: Counter[tuple[int, ...]] = Counter()
    left = p.copy()
    for _ in range(blocks):
        left = np.maximum(0, left - q)
        left /= left.sum()
    accepted = 0.0
    for candidates in itertools.product(range(4), repeat=blocks):
        mass = float(np.prod(q[list(candidates)]))
        kept, none = recursive_distribution(p, q, candidates)
        for y, share in kept.items():
            accepted += mass * share
            for after in range(4):
                distribution[(y, after)] += mass * share * P[1, after]
        for v in range(4):
            distribution[(v,)] += mass * none * left[v]
    assert sum(distribution.values()) == pytest.approx(1)
    firsts = [sum(mass for output, mass in distribution.items() if output[0] == v) for v in range(4)]
    np.testing.assert_allclose(firsts, p, atol=1e-12)  # the reference itself is lossless
    assert accepted > np.minimum(p, q).sum() + 0.05  # and worth it
    assert g_test(verified(CandidatesRule(), P[:2], Q[:1], 1, blocks=blocks), distribution) > 1e-4


def test_a_second_block_goes_on_where_the_first_ends() -> None:
    """Block 0 offers one draft, block 1 two that begin alike: the longer one is tested on, and chosen."""
    one_hot = log(np.eye(4))
    tokens_BNG = jnp.asarray([[[2, 9], [2, 1]]])
    log_q = jnp.asarray(np.stack([one_hot[[2, 0]], one_hot[[2, 1]]])[None])
    log_p = jnp.asarray(np.broadcast_to(one_hot[[2, 1, 3]], (1, 2, 3, 4)))
    verdict = CandidatesRule()(
        jax.random.split(jax.random.key(0), 1), tokens_BNG, log_q, log_p, jnp.asarray([[1, 2]])
    )
    assert [int(field[0]) for field in verdict] == [1, 2, 3]


def test_the_longest_block_that_agrees_is_chosen_when_its_next_draft_fails() -> None:
    """So that the loop counts that draft as tested: block 1 fails at its second place, block 0 has none."""
    one_hot = log(np.eye(4))
    log_q = jnp.asarray(np.stack([one_hot[[2, 0]], one_hot[[2, 1]]])[None])
    log_p = jnp.asarray(np.broadcast_to(one_hot[[2, 0, 3]], (1, 2, 3, 4)))
    verdict = CandidatesRule()(
        jax.random.split(jax.random.key(0), 1),
        jnp.asarray([[[2, 9], [2, 1]]]),
        log_q,
        log_p,
        jnp.asarray([[1, 2]]),
    )
    assert [int(field[0]) for field in verdict] == [1, 1, 0]
