"""Block verification against its own definition in float64, by enumeration of every drafted block."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import BlockRule, TokenRule
from distillspec_jax.errors import UsageError
from tests.decoding.drafted_blocks import ROWS, P, Q, drafted_and_verified, log, verified
from tests.exactness.goodness import g_test

NextDistribution = Callable[[tuple[int, ...]], np.ndarray]
"""From a drafted prefix to the distribution of the token after it."""


def block_distribution(
    p: NextDistribution, q: NextDistribution, length: int
) -> tuple[Counter[tuple[int, ...]], float]:
    """The distribution of (accepted drafts..., next token), and the expected number of accepted drafts."""
    distribution: Counter[tuple[int, ...]] = Counter()
    expected = 0.0
    vocabulary = range(len(p(())))
    for block in itertools.product(vocabulary, repeat=length):
        mass, r, rs = 1.0, 1.0, [1.0]
        for i, token in enumerate(block):
            p_i, q_i = p(block[:i])[token], q(block[:i])[token]
            mass *= q_i
            r = min(1.0, r * p_i / q_i) if q_i else 0.0
            rs.append(r)
        if not mass:
            continue
        excess = [np.maximum(0, rs[i] * p(block[:i]) - q(block[:i])) for i in range(length)]
        h = [_h(e.sum(), r) for e, r in zip(excess, rs, strict=False)] + [rs[-1]]
        lost = 1.0  # no longer prefix was kept
        for n in range(length, -1, -1):
            kept = mass * lost * (h[n] if n else 1.0)
            lost *= 1 - h[n]
            expected += n * kept
            last = p(block) if n == length else excess[n] / max(excess[n].sum(), 1e-300)
            for token in vocabulary:
                distribution[(*block[:n], token)] += kept * last[token]
    return distribution, expected


def _h(s: float, r: float) -> float:
    return s / (s + 1 - r) if s + 1 - r > 0 else 1.0


def token_expected(p: NextDistribution, q: NextDistribution, length: int) -> float:
    """Expected accepted drafts of the token rule."""
    alive, expected = {(): 1.0}, 0.0
    for _ in range(length):
        alive = {
            (*prefix, v): mass * min(p(prefix)[v], q(prefix)[v])
            for prefix, mass in alive.items()
            for v in range(len(p(())))
        }
        expected += sum(alive.values())
    return expected


def test_the_binary_example_of_the_paper() -> None:
    p_KV, q_GV = np.tile([1 / 3, 2 / 3], (3, 1)), np.tile([2 / 3, 1 / 3], (2, 1))
    distributions: tuple[NextDistribution, NextDistribution] = (lambda _: p_KV[0], lambda _: q_GV[0])
    distribution, expected = block_distribution(*distributions, 2)
    assert expected == pytest.approx(11 / 9)
    assert token_expected(*distributions, 2) == pytest.approx(10 / 9)
    assert g_test(verified(BlockRule(), p_KV, q_GV, 2), distribution) > 1e-4
    assert (
        g_test(verified(TokenRule(), p_KV, q_GV, 2), distribution) < 1e-4
    )  # the test can tell the rules apart
    mean = float(np.mean(drafted_and_verified(BlockRule(), 1, log(p_KV), log(q_GV), 2, 1)[1].accepted_B))
    # Four standard errors of the mean of 40,000 numbers in 0..2.
    assert abs(mean - 11 / 9) < 4 * 0.9 / np.sqrt(ROWS)


def random_distributions(rng: np.random.Generator, length: int) -> NextDistribution:
    """A distribution for every prefix, some entries zero."""
    table = {
        prefix: _distribution(rng)
        for n in range(length + 1)
        for prefix in itertools.product(range(3), repeat=n)
    }
    return table.__getitem__


def _distribution(rng: np.random.Generator) -> np.ndarray:
    weights = rng.dirichlet(np.ones(3)) * (rng.random(3) > 0.15)
    return weights / weights.sum() if weights.sum() else np.eye(3)[0]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_the_definition_is_lossless_and_never_worse_than_token_by_token(length: int) -> None:
    """1,000 random pairs over the four lengths. The first two tokens emitted follow the target's
    distribution."""
    rng = np.random.default_rng(length)
    gained = 0
    for _ in range(250):
        p, q = random_distributions(rng, length), random_distributions(rng, length)
        distribution, block = block_distribution(p, q, length)
        token = token_expected(p, q, length)
        assert block >= token - 1e-9
        if length == 1:
            assert block == pytest.approx(token)
        gained += block > token + 1e-6
        heads: Counter[tuple[int, ...]] = Counter()
        for output, mass in distribution.items():
            heads[output[:1]] += mass
            if len(output) == 1:  # a second token would come of the next round: from the target
                for v in range(3):
                    heads[(*output, v)] += mass * p(output)[v]
            else:
                heads[output[:2]] += mass
        for first in range(3):
            assert heads[(first,)] == pytest.approx(p(())[first], abs=1e-9)
            for second in range(3):
                joint = p(())[first] * p((first,))[second]
                assert heads[(first, second)] == pytest.approx(joint, abs=1e-9)
    assert (gained > 0) == (length > 1)


@functools.cache
def exact(length: int) -> Counter[tuple[int, ...]]:
    return block_distribution(lambda prefix: P[len(prefix)], lambda prefix: Q[len(prefix)], length)[0]


@pytest.mark.parametrize("length", [0, 1, 2])
def test_the_rule_is_its_definition_at_every_length(length: int) -> None:
    """Joint distribution of accepted drafts and next token; false alarm 1e-4 each."""
    assert g_test(verified(BlockRule(), P, Q, length, seed=length), exact(length)) > 1e-4


@pytest.mark.parametrize("p_KV", [np.eye(4)[[2, 1, 3]], P[[2, 2, 2]]], ids=["one-hot", "spread"])
def test_equal_distributions_keep_the_whole_block(p_KV: np.ndarray) -> None:
    """0 / 0 at every place: nothing is NaN, nothing is rejected."""
    _, verdict = drafted_and_verified(BlockRule(), 0, log(p_KV), log(p_KV[:2]), 2, 1)
    assert (np.asarray(verdict.accepted_B) == 2).all()
    last = np.bincount(np.asarray(verdict.next_token_B), minlength=4) / ROWS
    np.testing.assert_allclose(last, p_KV[2], atol=0.01)


def test_one_hot_distributions_accept_exactly_the_argmax() -> None:
    one_hot = np.eye(4)
    assert verified(BlockRule(), one_hot[[2, 0, 3]], one_hot[[2, 1]], 2) == {(2, 0): ROWS}


def test_several_candidates_are_refused() -> None:
    zeros = jnp.zeros((1, 2, 2, 4))
    keys = jax.random.split(jax.random.key(0), 1)
    with pytest.raises(UsageError, match="BlockRule verifies one candidate block a row, not 2"):
        BlockRule()(
            keys, jnp.zeros((1, 2, 2), jnp.int32), zeros, jnp.zeros((1, 2, 3, 4)), jnp.full((1, 2), 2)
        )
