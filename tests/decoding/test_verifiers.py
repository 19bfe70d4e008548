from __future__ import annotations

import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import CandidatesRule, TokenRule, Verifier, rules
from distillspec_jax.decoding.verifiers import acceptance, residual
from distillspec_jax.errors import UsageError
from tests.decoding.drafted_blocks import ROWS, P, Q, log, verified
from tests.exactness.goodness import g_test

# Every distribution on three tokens in quarters: one-hot distributions, zeros on either side, p equal to q.
DISTRIBUTIONS = np.array([c for c in itertools.product(range(5), repeat=3) if sum(c) == 4]) / 4.0


def test_one_step_gives_exactly_the_target_distribution_for_every_pair_of_small_distributions() -> None:
    """sum_y q(y) [a(y) 1{x = y} + (1 - a(y)) r(x)] == p(x), by enumeration."""
    p = np.repeat(DISTRIBUTIONS, len(DISTRIBUTIONS), axis=0)
    q = np.tile(DISTRIBUTIONS, (len(DISTRIBUTIONS), 1))
    accept = np.where(q > 0, np.asarray(jax.jit(acceptance)(log(p), log(q))), 0.0)
    kept = q * accept
    rejected = 1 - kept.sum(-1, keepdims=True)
    output = kept + rejected * np.exp(np.asarray(jax.jit(residual)(log(p), log(q))))
    np.testing.assert_allclose(output, p, atol=1e-6)
    # And nothing is rejected without need: the accepted mass is the overlap (paper, corollary 3.6).
    np.testing.assert_allclose(kept.sum(-1), np.minimum(p, q).sum(-1), atol=1e-6)


def test_a_residual_that_underflows_is_the_target_distribution() -> None:
    p = log(np.array([0.25, 0.0, 0.75]))
    np.testing.assert_array_equal(jax.jit(residual)(p, p), p)


@functools.cache
def exact_block_distribution(length: int) -> dict[tuple[int, ...], float]:
    """The distribution of (accepted drafts..., next token) by enumeration of drafts."""
    distribution: Counter[tuple[int, ...]] = Counter()
    alive: dict[tuple[int, ...], float] = {(): 1.0}
    for i in range(length):
        ratio = np.minimum(1, P[i] / Q[i])
        excess = np.maximum(0, P[i] - Q[i])
        rejection = (Q[i] * (1 - ratio)).sum()
        for prefix, mass in alive.items():
            for v in range(4):
                distribution[(*prefix, v)] += mass * rejection * excess[v] / excess.sum()
        alive = {(*pre, v): m * Q[i, v] * ratio[v] for pre, m in alive.items() for v in range(4)}
    for prefix, mass in alive.items():
        for v in range(4):
            distribution[(*prefix, v)] += mass * P[length, v]
    return dict(distribution)


@pytest.mark.parametrize("length", [0, 1, 2])
def test_blocks_shorter_than_gamma_end_with_the_bonus_distribution_at_their_own_length(length: int) -> None:
    """Joint distribution of accepted drafts and next token; false alarm 1e-4 each, 40,000 rows."""
    distribution = exact_block_distribution(length)
    assert sum(distribution.values()) == pytest.approx(1)
    counts = verified(TokenRule(), P, Q, length, seed=length)
    assert g_test(counts, distribution) > 1e-4


def test_one_hot_distributions_accept_exactly_the_argmax() -> None:
    one_hot = np.eye(4)
    counts = verified(TokenRule(), one_hot[[2, 1, 3]], one_hot[[2, 1]], 2)
    assert counts == {(2, 1, 3): ROWS}
    counts = verified(TokenRule(), one_hot[[2, 0, 3]], one_hot[[2, 1]], 2)
    assert counts == {(2, 0): ROWS}


def test_the_token_rule_refuses_several_candidates() -> None:
    zeros = jnp.zeros((1, 2, 2, 4))
    with pytest.raises(UsageError, match="one candidate block a row, not 2"):
        TokenRule()(
            jax.random.split(jax.random.key(0), 1),
            jnp.zeros((1, 2, 2), jnp.int32),
            zeros,
            jnp.zeros((1, 2, 3, 4)),
            jnp.full((1, 2), 2),
        )


EVERY_RULE = [rule.make(**({"epsilon": 0.5} if rule.takes_epsilon else {})) for rule in rules.RULES.values()]


@pytest.mark.parametrize("rule", [*EVERY_RULE, CandidatesRule()], ids=str)
def test_distributions_past_a_blocks_length_may_be_nan(rule: Verifier) -> None:
    """As they are of a draft that fails inside a block."""
    rows = 64
    tokens_BNG = np.random.default_rng(0).integers(0, 4, (rows, 1, 2)).astype(np.int32)
    log_p_BNKV = np.broadcast_to(log(P), (rows, 1, *P.shape))
    sound_BNGV = np.broadcast_to(log(Q), (rows, 1, *Q.shape))
    bad_BNGV = sound_BNGV.copy()
    bad_BNGV[:, :, 1] = np.nan
    length_BN = np.tile([0, 1], rows // 2)[:, None].astype(np.int32)
    bad_BNGV[::2, :, 0] = np.nan
    keys_B = jax.random.split(jax.random.key(0), rows)
    verify = jax.jit(rule)
    found, expected = (
        verify(keys_B, tokens_BNG, log_q, log_p_BNKV, length_BN, logits_BNKV=log_p_BNKV)
        for log_q in (bad_BNGV, sound_BNGV)
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(found.accepted_B)) == 2
