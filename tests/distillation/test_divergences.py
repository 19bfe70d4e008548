"""Each divergence against its closed form in float64, its gradient against numbers, its edges by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from distillspec_jax.distillation.divergences import (
    DIVERGENCES,
    ForwardKL,
    HardLabels,
    JensenShannon,
    LKHybrid,
    NegativeLogAcceptance,
    ReverseKL,
    TotalVariation,
    WeightedSum,
    of_vocabulary,
)
from distillspec_jax.distillation.formulas import NOTHING_SHARED
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS

B, T, V = 2, 3, 11
MASK = np.array([[1, 1, 0], [1, 0, 1]], np.float32)
TOKENS = np.array([[5, 10, 0], [7, 0, 4]], np.int32)


def distribution(logits):
    logits = np.asarray(logits, np.float64)
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def kl(a, b):
    return np.sum(a * (np.log(a) - np.log(b)), -1)


def jsd(beta, p, q):
    middle = beta * p + (1 - beta) * q
    return beta * kl(p, middle) + (1 - beta) * kl(q, middle)


def lk(eta, p, q):
    weight = np.exp(-eta * np.minimum(p, q).sum(-1))
    return weight * kl(p, q) + (1 - weight) * 0.5 * np.abs(p - q).sum(-1)


CASES = [
    pytest.param(ForwardKL(), kl, id="fkl"),
    pytest.param(ReverseKL(), lambda p, q: kl(q, p), id="rkl"),
    pytest.param(JensenShannon(), functools.partial(jsd, 0.5), id="jsd"),
    pytest.param(JensenShannon(0.1), functools.partial(jsd, 0.1), id="jsd-0.1"),
    pytest.param(JensenShannon(0.9), functools.partial(jsd, 0.9), id="jsd-0.9"),
    pytest.param(TotalVariation(), lambda p, q: 0.5 * np.abs(p - q).sum(-1), id="tvd"),
    pytest.param(NegativeLogAcceptance(), lambda p, q: -np.log(np.minimum(p, q).sum(-1)), id="nla"),
    pytest.param(
        WeightedSum((ForwardKL(), TotalVariation()), (0.25, 2.0)),
        lambda p, q: 0.25 * kl(p, q) + np.abs(p - q).sum(-1),
        id="sum",
    ),
    pytest.param(LKHybrid(2.0), functools.partial(lk, 2.0), id="lk"),
]
EVERY = [pytest.param(case.values[0], id=case.id) for case in CASES]


@pytest.fixture(scope="module")
def logits():
    rng = np.random.default_rng(0)
    return [(3.0 * rng.normal(size=(B, T, V))).astype(np.float32) for _ in range(2)]


@functools.partial(jax.jit, static_argnums=0)
def value(divergence, target, draft, mask):
    return divergence(target, draft, mask, np.broadcast_to(TOKENS[:1, :1], mask.shape))


@functools.partial(jax.jit, static_argnums=0)
def gradients(divergence, target, draft, mask):
    """With respect to the target's and the draft's logits."""
    return jax.grad(lambda p, q: divergence(p, q, mask, TOKENS).sum(), argnums=(0, 1))(target, draft)


@pytest.mark.parametrize(("divergence", "closed_form"), CASES)
def test_closed_forms(divergence, closed_form, logits):
    found = value(divergence, *logits, MASK)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, MASK * closed_form(*map(distribution, logits)), rtol=1e-5, atol=1e-7)


def test_directions_by_hand():
    """Target (1/2, 1/2), draft (9/10, 1/10)."""
    one = np.ones((1, 1), np.float32)
    pair = [np.log(np.array([[p]], np.float32)) for p in ([0.5, 0.5], [0.9, 0.1])]
    by_hand = {
        ForwardKL(): 0.5 * np.log(5 / 9) + 0.5 * np.log(5),  # 0.5108
        ReverseKL(): 0.9 * np.log(9 / 5) + 0.1 * np.log(1 / 5),  # 0.3681
        # beta on the target's side: the middle is 0.1 (1/2, 1/2) + 0.9 (9/10, 1/10) = (0.86, 0.14)
        JensenShannon(0.1): 0.1 * (0.5 * np.log(0.5 / 0.86) + 0.5 * np.log(0.5 / 0.14))
        + 0.9 * (0.9 * np.log(0.9 / 0.86) + 0.1 * np.log(0.1 / 0.14)),
        TotalVariation(): 0.4,
        NegativeLogAcceptance(): -np.log(0.6),  # 1/2 and 1/10 are shared
    }
    for divergence, expected in by_hand.items():
        assert float(value(divergence, *pair, one)[0, 0]) == pytest.approx(expected, rel=1e-5), divergence


@pytest.mark.parametrize("divergence", EVERY[:-1])  # LK's holds its weights constant
def test_gradients_are_those_of_the_value(divergence, logits):
    target, draft = logits
    check_grads(
        lambda q: divergence(target, q, MASK, TOKENS), (draft,), order=1, modes=["rev"], eps=1e-2, rtol=2e-2
    )


def test_the_gradient_of_forward_kl_is_the_difference_of_the_distributions(logits):
    target, draft = logits
    _, gradient = gradients(ForwardKL(), target, draft, MASK)
    np.testing.assert_allclose(
        gradient, MASK[..., None] * (distribution(draft) - distribution(target)), atol=1e-6
    )


def test_the_weights_of_the_lk_hybrid_are_constants_to_its_gradient(logits):
    """Forward KL's gradient is Q - P; TVD's is that of 1/2 sum |P - Q| by the logits of Q."""
    p, q = map(distribution, logits)
    sign = 0.5 * np.sign(q - p)
    to_tvd = q * (sign - (q * sign).sum(-1, keepdims=True))
    weight = np.exp(-2.0 * np.minimum(p, q).sum(-1))[..., None]
    expected = MASK[..., None] * (weight * (q - p) + (1 - weight) * to_tvd)
    np.testing.assert_allclose(gradients(LKHybrid(2.0), *logits, MASK)[1], expected, atol=1e-6)


@pytest.mark.parametrize("divergence", EVERY)
def test_nothing_reaches_the_target(divergence, logits):
    to_target, to_draft = gradients(divergence, *logits, MASK)
    np.testing.assert_array_equal(to_target, np.zeros((B, T, V)))
    assert (np.abs(to_draft).max(-1) > 1e-4).tolist() == (MASK > 0).tolist()


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("divergence", EVERY)
def test_a_masked_token_is_nothing_whatever_its_logits(divergence, junk, logits):
    spoilt = [np.where(MASK[..., None] > 0, x, np.float32(junk)) for x in logits]
    np.testing.assert_array_equal(value(divergence, *spoilt, MASK), value(divergence, *logits, MASK))
    gradient = gradients(divergence, *spoilt, MASK)[1]
    np.testing.assert_array_equal(gradient, gradients(divergence, *logits, MASK)[1])
    np.testing.assert_array_equal(gradient[MASK == 0], 0.0)


@pytest.mark.parametrize("low", [-50.0, -200.0, -1e4, -1e9])  # 200: below float32's smallest probability
@pytest.mark.parametrize("sides", ["target", "draft", "both"])
@pytest.mark.parametrize("divergence", EVERY)
def test_vanishing_probabilities_stay_finite(divergence, sides, low, logits):
    target, draft = (x.copy() for x in logits)
    for side, x in (("target", target), ("draft", draft)):
        if sides in (side, "both"):
            x[..., 2:5] = low
    found = value(divergence, target, draft, MASK)
    assert np.isfinite(found).all()
    assert (np.asarray(found) >= -1e-6).all()
    assert np.isfinite(gradients(divergence, target, draft, MASK)[1]).all()


@pytest.mark.parametrize(("divergence", "closed_form"), CASES)
def test_ids_that_both_exclude_do_not_count(divergence, closed_form, logits):
    excluded = [np.where(np.arange(V) < 4, -np.inf, x).astype(np.float32) for x in logits]
    expected = MASK * closed_form(*(distribution(x[..., 4:]) for x in logits))
    np.testing.assert_allclose(value(divergence, *excluded, MASK), expected, rtol=1e-5, atol=1e-7)
    gradient = gradients(divergence, *excluded, MASK)[1]
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[..., :4], 0.0)


def test_a_divergence_is_infinite_where_its_formula_is(logits):
    target, draft = logits
    closed = np.where(np.arange(V) < 4, -np.inf, target).astype(np.float32)
    assert np.isposinf(value(ForwardKL(), target, closed, MASK)[0, 0])
    assert np.isposinf(value(ReverseKL(), closed, draft, MASK)[0, 0])
    for bounded in (JensenShannon(0.3), TotalVariation()):
        assert np.isfinite(value(bounded, closed, draft, MASK)).all()
        assert np.isfinite(gradients(bounded, closed, draft, MASK)[1]).all()


@pytest.mark.parametrize(("divergence", "closed_form"), CASES)
def test_bfloat16_logits_are_reduced_in_float32(divergence, closed_form, logits):
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in logits]
    found = value(divergence, *rounded, MASK)
    assert found.dtype == jnp.float32
    expected = MASK * closed_form(*(distribution(x.astype(jnp.float32)) for x in rounded))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert gradients(divergence, *rounded, MASK)[1].dtype == jnp.bfloat16


@pytest.mark.parametrize("divergence", EVERY)
def test_equal_distributions_are_at_zero_and_at_rest(divergence, logits):
    target, _ = logits
    shifted = target + np.float32(2.0)  # the same distribution
    np.testing.assert_allclose(value(divergence, target, shifted, MASK), 0.0, atol=1e-6)


def test_beta_and_its_complement_exchange_the_sides(logits):
    target, draft = logits
    one_way = value(JensenShannon(0.2), target, draft, MASK)
    np.testing.assert_allclose(one_way, value(JensenShannon(0.8), draft, target, MASK), rtol=1e-5)
    assert np.abs(one_way - value(JensenShannon(0.8), target, draft, MASK)).max() > 1e-3


def test_divided_by_beta_the_limits_are_the_kls(logits):
    small = 1e-4
    near_fkl = value(JensenShannon(small), *logits, MASK) / small
    near_rkl = value(JensenShannon(1 - small), *logits, MASK) / small
    np.testing.assert_allclose(near_fkl, value(ForwardKL(), *logits, MASK), rtol=0.05)
    np.testing.assert_allclose(near_rkl, value(ReverseKL(), *logits, MASK), rtol=0.05)


@pytest.mark.parametrize(
    ("beta", "says"),
    [
        (0, r"beta=0: .* use ForwardKL \(FKL\)"),
        (1.0, r"beta=1.0: .* use ReverseKL \(RKL\)"),
        (-0.1, r"beta=-0.1 must lie in \(0, 1\)"),
        (1.5, r"beta=1.5 must lie"),
        (float("nan"), "beta=nan must lie"),
    ],
)
def test_a_beta_without_a_divergence_is_refused(beta, says):
    with pytest.raises(UsageError, match=says):
        JensenShannon(beta)


def test_one_minus_tvd_is_the_probability_of_acceptance(logits):
    overlap = np.minimum(*map(distribution, logits)).sum(-1)
    np.testing.assert_allclose(1 - value(TotalVariation(), *logits, np.ones((B, T))), overlap, rtol=1e-5)


def test_short_names():
    assert {name: type(kind()) for name, kind in DIVERGENCES.items()} == {
        "fkl": ForwardKL,
        "rkl": ReverseKL,
        "jsd": JensenShannon,
        "tvd": TotalVariation,
        "nla": NegativeLogAcceptance,
        "lk": LKHybrid,
        "nll": HardLabels,
    }


# --- hard labels ---


def test_hard_labels_are_cross_entropy_whatever_the_target_says(logits):
    target, draft = logits
    hard = jax.jit(HardLabels())
    found = hard(np.full_like(target, np.nan), draft, MASK, TOKENS)
    expected = -np.log(np.take_along_axis(distribution(draft), TOKENS[..., None], -1)[..., 0])
    np.testing.assert_allclose(found, MASK * expected, rtol=1e-5)
    gradient = gradients(HardLabels(), target, draft, MASK)[1]
    np.testing.assert_allclose(
        gradient, MASK[..., None] * (distribution(draft) - np.eye(V)[TOKENS]), atol=1e-6
    )
    spoilt = np.where(MASK[..., None] > 0, draft, np.nan)
    np.testing.assert_array_equal(hard(target, spoilt, MASK, TOKENS), found)


# --- where little is shared ---


def test_acceptance_is_exact_where_float32_would_find_none():
    """They share e^-150 of either token: alpha is 2 e^-150, which float32 rounds to 0."""
    one = np.ones((1, 1), np.float32)
    pair = np.array([[[0.0, -150.0]]], np.float32), np.array([[[-150.0, 0.0]]], np.float32)
    found = value(NegativeLogAcceptance(), *pair, one)[0, 0]
    assert float(found) == pytest.approx(150 - np.log(2), rel=1e-6)
    gradient = gradients(NegativeLogAcceptance(), *pair, one)[1]
    np.testing.assert_allclose(gradient[0, 0], [-0.5, 0.5], atol=1e-6)  # TVD's is 0 in float32


# --- temperature and truncation ---

TEMPERED = [pytest.param(type(c.values[0]), c.values[1], id=c.id) for c in CASES[:3] + CASES[5:7]]


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize(("kind", "closed_form"), TEMPERED)
def test_a_temperature_divides_the_logits_of_both(kind, closed_form, temperature, logits):
    expected = MASK * closed_form(*(distribution(x / temperature) for x in logits))
    found = value(kind(temperature=temperature), *logits, MASK)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [ForwardKL, TotalVariation, NegativeLogAcceptance])
def test_a_small_temperature_overflows_nothing(kind, logits):
    large = [1e4 * x for x in logits]
    gradient = gradients(kind(temperature=1e-6), *large, MASK)[1]
    assert np.isfinite(gradient).all()


def truncated(logits, top_k, top_p):
    """The sampler's distribution, by sorting: no padding, top-k, then the smallest set of mass top_p."""
    p = distribution(np.where(np.arange(V) == 0, -np.inf, logits))
    order = np.argsort(-p, axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1)
    p = np.where(rank < (top_k or V), p, 0.0)
    p /= p.sum(-1, keepdims=True)
    before = np.cumsum(np.take_along_axis(p, order, -1), -1) - np.take_along_axis(p, order, -1)
    p = np.where(np.take_along_axis(before, rank, -1) < top_p, p, 0.0)
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize(("top_k", "top_p"), [(4, 1.0), (0, 0.8), (6, 0.7)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_truncated_distributions_are_the_samplers(top_k, top_p, temperature, logits):
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "padding_ids": (0,)}
    p, q = (truncated(x / temperature, top_k, top_p) for x in logits)
    overlap = np.minimum(p, q).sum(-1)
    found = value(TotalVariation(**settings), *logits, MASK)
    np.testing.assert_allclose(found, MASK * (1 - overlap), rtol=1e-5, atol=1e-6)
    found = value(NegativeLogAcceptance(**settings), *logits, MASK)
    expected = np.where(overlap > 0, -np.log(np.maximum(overlap, 1e-30)), NOTHING_SHARED)
    np.testing.assert_allclose(found, MASK * expected, rtol=1e-5, atol=1e-6)
    # Forward KL truncates the target alone.
    full = distribution(logits[1] / temperature)
    terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(full)), 0.0)
    found = value(ForwardKL(**settings), *logits, MASK)
    np.testing.assert_allclose(found, MASK * terms.sum(-1), rtol=1e-5, atol=1e-6)


TRUNCATED = [
    of_vocabulary(divergence, T5_IDS)
    for divergence in (
        ForwardKL(top_k=3),
        TotalVariation(top_k=3),
        NegativeLogAcceptance(top_p=0.9, temperature=0.8),
    )
]


@pytest.mark.parametrize("divergence", TRUNCATED)
def test_gradients_of_truncated_distributions_are_those_of_the_value(divergence, logits):
    target, draft = logits
    check_grads(
        lambda q: divergence(target, q, MASK, TOKENS), (draft,), order=1, modes=["rev"], eps=1e-3, rtol=3e-2
    )
    assert np.isfinite(gradients(divergence, *logits, MASK)[1]).all()
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in logits]
    assert np.isfinite(gradients(divergence, *rounded, MASK)[1].astype(jnp.float32)).all()


def test_truncated_distributions_without_a_common_token_are_finite_and_at_rest():
    one = np.ones((1, 1), np.float32)
    pair = np.array([[[0, 9, 0, 0]]], np.float32), np.array([[[0, 0, 0, 9]]], np.float32)
    for one_token, expected in ((TotalVariation(top_k=1), 1.0), (NegativeLogAcceptance(top_k=1), 16.6355)):
        divergence = of_vocabulary(one_token, T5_IDS)
        assert float(value(divergence, *pair, one)[0, 0]) == pytest.approx(expected, rel=1e-5)
        np.testing.assert_array_equal(gradients(divergence, *pair, one)[1], np.zeros_like(pair[1]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: ReverseKL(top_k=5),
            r"ReverseKL.top_k=5: takes only distributions over the whole vocabulary; TotalVar",
        ),
        (
            lambda: JensenShannon(0.3, top_p=0.9),
            r"JensenShannon.top_p=0.9: takes only distributions over the whole",
        ),
        (lambda: ForwardKL(temperature=0), "ForwardKL.temperature=0: must be positive"),
        (lambda: TotalVariation(temperature=float("nan")), "TotalVariation.temperature=nan: must be"),
        (lambda: TotalVariation(top_p=0.0), r"TotalVariation: top_p is 0.0, must be in \(0, 1\]"),
        (lambda: TotalVariation(top_k=-1), "TotalVariation: top_k is -1, must be 0"),
        (lambda: LKHybrid(0.0), "LKHybrid.eta=0.0 must be positive and finite; use ForwardKL"),
        (lambda: LKHybrid(float("inf")), "LKHybrid.eta=inf must be positive and finite"),
        (lambda: LKHybrid("3"), "LKHybrid.eta='3': must be a number"),
        (lambda: WeightedSum((ForwardKL(),), (1.0, 2.0)), "WeightedSum: 1 divergences but 2 weights"),
        (lambda: WeightedSum((), ()), "WeightedSum: 0 divergences"),
        (lambda: WeightedSum([ForwardKL(), ReverseKL()], [1.0, 0.0]), r"0.0 must be positive .* leave out"),
        (lambda: WeightedSum([ForwardKL()], [float("inf")]), "inf must be positive and finite"),
    ],
    ids=[
        *("rkl-top_k", "jsd-top_p", "fkl-temperature", "tvd-temperature", "tvd-top_p", "tvd-top_k"),
        *("lk-zero", "lk-infinite", "lk-text"),
        *("sum-lengths", "sum-empty", "sum-zero", "sum-infinite"),
    ],
)
def test_impossible_divergences_are_refused_when_they_are_made(make, says):
    with pytest.raises(UsageError, match=says):
        make()
