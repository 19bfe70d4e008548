"""Divergences against closed forms in float64, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from distillspec_jax.distillation.divergences import (
    NAMES,
    ForwardKL,
    JensenShannon,
    ReverseKL,
    TotalVariation,
)
from distillspec_jax.errors import UsageError

ALL = [ForwardKL(), ReverseKL(), JensenShannon(0.5), JensenShannon(0.1), TotalVariation()]
ones = jnp.ones((2, 3))


def logits(seed):
    return np.random.default_rng(seed).normal(size=(2, 3, 5)).astype(np.float32) * 2


def closed_form(divergence, target, draft):
    p, q = (np.exp(log_softmax(x.astype(np.float64), axis=-1)) for x in (target, draft))

    def kl(a, b):
        return (a * np.log(a / b)).sum(-1)

    if isinstance(divergence, ForwardKL):
        return kl(p, q)
    if isinstance(divergence, ReverseKL):
        return kl(q, p)
    if isinstance(divergence, TotalVariation):
        return 1 - np.minimum(p, q).sum(-1)
    beta = divergence.beta
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
def test_values(divergence):
    found = divergence(jnp.asarray(logits(0)), jnp.asarray(logits(1)), ones)
    np.testing.assert_allclose(found, closed_form(divergence, logits(0), logits(1)), rtol=2e-5, atol=1e-6)


def test_the_direction_of_kl_by_hand():
    # P = (1/2, 1/2), Q = (1/4, 3/4): KL(P||Q) = ln(2/sqrt 3), KL(Q||P) = 3/4 ln 3 - ln 2.
    p, q = jnp.log(jnp.asarray([[[0.5, 0.5]]])), jnp.log(jnp.asarray([[[0.25, 0.75]]]))
    mask = jnp.ones((1, 1))
    np.testing.assert_allclose(ForwardKL()(p, q, mask), [[np.log(2 / np.sqrt(3))]], rtol=1e-5)
    np.testing.assert_allclose(ReverseKL()(p, q, mask), [[0.75 * np.log(3) - np.log(2)]], rtol=1e-5)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
def test_gradient_is_the_numerical_one_and_never_reaches_the_target(divergence):
    target, draft = jnp.asarray(logits(2)), logits(3)
    ours = jax.grad(lambda q: divergence(target, q, ones).sum())(jnp.asarray(draft))
    rng = np.random.default_rng(0)
    for _ in range(3):
        direction = rng.normal(size=draft.shape)
        step = 1e-5
        ends = [
            closed_form(divergence, np.asarray(target), draft + s * step * direction).sum() for s in (1, -1)
        ]
        np.testing.assert_allclose(
            (np.asarray(ours) * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=5e-3
        )
    towards_target = jax.grad(lambda p: divergence(p, jnp.asarray(draft), ones).sum())(target)
    np.testing.assert_array_equal(towards_target, 0)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
def test_masked_tokens_count_for_nothing_even_where_they_are_not_finite(divergence):
    target, draft = logits(4), logits(5)
    draft[1, 2] = 1e30
    mask = ones.at[1, 2].set(0)
    loss = divergence(jnp.asarray(target), jnp.asarray(draft), mask)
    assert float(loss[1, 2]) == 0
    gradient = jax.grad(lambda q: divergence(jnp.asarray(target), q, mask).sum())(jnp.asarray(draft))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[1, 2], 0)


@pytest.mark.parametrize("divergence", ALL, ids=repr)
def test_vanishing_probabilities_stay_finite(divergence):
    target, draft = jnp.asarray([[[0.0, -200.0, 0.0]]]), jnp.asarray([[[0.0, 0.0, -200.0]]])
    value, gradient = jax.value_and_grad(lambda q: divergence(target, q, jnp.ones((1, 1))).sum())(draft)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("beta", "named"), [(0, "ForwardKL"), (1, "ReverseKL"), (1.5, "in \\(0, 1\\)")])
def test_impossible_beta_is_refused(beta, named):
    with pytest.raises(UsageError, match=named):
        JensenShannon(beta)


def test_names():
    assert {name: type(make()).__name__ for name, make in NAMES.items()} == {
        "fkl": "ForwardKL",
        "rkl": "ReverseKL",
        "jsd": "JensenShannon",
        "tvd": "TotalVariation",
    }
