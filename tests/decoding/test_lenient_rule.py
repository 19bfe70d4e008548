from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.decoding import LenientRule, TokenRule
from distillspec_jax.decoding.lenient_rule import LENIENCES
from distillspec_jax.errors import UsageError
from tests.decoding.drafted_blocks import P, Q, drafted_and_verified, log, verified
from tests.exactness.goodness import g_test

F = {"linear": lambda p, e: p / e, "square": lambda p, e: p / e**2, "exponential": lambda p, e: p**e}
"""The paper's formulas, as they stand there."""


@pytest.mark.parametrize(
    "p, q", [(P, Q), (np.eye(4)[[2, 0, 3]], np.eye(4)[[2, 1]])], ids=["spread", "one-hot"]
)
def test_epsilon_1_is_the_token_rule_bit_for_bit(p: np.ndarray, q: np.ndarray) -> None:
    expected = drafted_and_verified(TokenRule(), 3, log(p), log(q), 2, 1)[1]
    for function in LENIENCES:
        found = drafted_and_verified(LenientRule(function, 1.0), 3, log(p), log(q), 2, 1)[1]
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=function)


@pytest.mark.parametrize("function", LENIENCES)
def test_the_distribution_at_positive_temperature_is_the_formulas(function: str) -> None:
    """P(y kept) = q min(1, f(p) / q); a rejection draws from norm(max(0, p - q)): one draft, enumerated."""
    epsilon = 0.4
    p, q = P[0], Q[0]
    kept = q * np.minimum(1, F[function](p, epsilon) / q)
    excess = np.maximum(0, p - q)
    distribution: Counter[tuple[int, ...]] = Counter()
    for v in range(4):
        for after in range(4):
            distribution[(v, after)] = kept[v] * P[1, after]
        distribution[(v,)] = (1 - kept.sum()) * excess[v] / excess.sum()
    assert sum(distribution.values()) == pytest.approx(1)
    assert g_test(verified(LenientRule(function, epsilon), P[:2], Q[:1], 1), distribution) > 1e-4


P1 = np.array([0.5, 0.3, 0.2 - 1e-6, 1e-6])
"""softmax of the raw logits. Against its peak: 0.6, 0.4, and next to nothing."""


@pytest.mark.parametrize(
    ("function", "epsilon", "passing"),
    [
        ("linear", 0.61, {0}),
        ("linear", 0.59, {0, 1}),
        ("linear", 0.39, {0, 1, 2}),
        ("square", 0.78, {0}),
        ("square", 0.77, {0, 1}),
        ("exponential", 0.58, {0}),
        ("exponential", 0.57, {0, 1}),
        ("exponential", 0.43, {0, 1, 2}),
    ],
)
def test_at_temperature_0_a_draft_passes_that_is_nearly_as_likely_as_the_best(
    function: str, epsilon: float, passing: set[int]
) -> None:
    """One row for each drafted token. The raw logits are shifted, as logits may be."""
    one_hot = np.eye(4)
    log_p_BNKV = jnp.asarray(np.broadcast_to(log(one_hot[0]), (4, 1, 2, 4)))
    log_q_BNGV = jnp.asarray(log(one_hot)[:, None, None])
    logits = jnp.asarray(np.broadcast_to(log(P1) + 7, (4, 1, 2, 4)))
    verdict = LenientRule(function, epsilon)(
        jax.random.split(jax.random.key(0), 4),
        jnp.arange(4).reshape(4, 1, 1),
        log_q_BNGV,
        log_p_BNKV,
        jnp.ones((4, 1), jnp.int32),
        logits_BNKV=logits,
    )
    assert {v for v in range(4) if verdict.accepted_B[v]} == passing
    assert (verdict.next_token_B == 0).all()


@pytest.mark.parametrize("epsilon", [0.0, -0.1, 1.01, float("nan")])
def test_an_epsilon_outside_its_interval_is_refused(epsilon: float) -> None:
    with pytest.raises(UsageError, match=r"epsilon is .*, must be in \(0, 1\]; 1 is lossless"):
        LenientRule("linear", epsilon)


def test_an_unknown_leniency_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown leniency 'linaer': did you mean 'linear'"):
        LenientRule("linaer", 0.5)
