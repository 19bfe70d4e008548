"""Losses over k ids and the rest, against distributions merged by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.distillation.divergences import ForwardKL, JensenShannon, ReverseKL, TotalVariation
from distillspec_jax.distillation.stored_logprobs import likeliest, make_stored_logprobs_loss, merged
from distillspec_jax.distillation.token_selection import TokenSelection
from distillspec_jax.distillation.weighting import Frozen
from distillspec_jax.models.shortlist import Shortlisted
from distillspec_jax.vocabulary import T5_IDS, Vocabulary
from tests import tiny

B, T, V, K = 2, 3, 7, 3
DIVERGENCES = [ForwardKL(), ReverseKL(), JensenShannon(0.1), TotalVariation()]


def softmax(logits):
    weights = np.exp(np.float64(logits) - np.max(logits, axis=-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def by_hand(divergence, p, q):
    """A divergence of two distributions, written out."""

    def kl(a, b):
        return np.sum(a * np.log(a / b), axis=-1)

    if isinstance(divergence, ForwardKL):
        return kl(p, q)
    if isinstance(divergence, ReverseKL):
        return kl(q, p)
    if isinstance(divergence, TotalVariation):
        return 0.5 * np.abs(p - q).sum(-1)
    beta = divergence.beta
    mixed = beta * p + (1 - beta) * q
    return beta * kl(p, mixed) + (1 - beta) * kl(q, mixed)


def merge_by_hand(distribution_BTV, ids_BTK):
    chosen = np.stack([[distribution_BTV[b, t, ids_BTK[b, t]] for t in range(T)] for b in range(B)])
    return np.concatenate([chosen, 1 - chosen.sum(-1, keepdims=True)], axis=-1)


class Table:
    """A "network" whose logits are a table; the parameters are its logits."""

    vocab_size = V

    def logits(self, params, batch, *, dropout_key=None):
        return params


@pytest.fixture(scope="module")
def distributions():
    rng = np.random.default_rng(0)
    target, draft = rng.normal(0, 2, (2, B, T, V)).astype(np.float32)
    ids = np.argsort(-target, axis=-1)[..., :K].astype(np.int32)
    return target, draft, ids


def batch_of(target, ids, weights=None):
    log_p = np.asarray(merged(jnp.asarray(target), jnp.asarray(ids)))
    return {
        "top_ids": ids,
        "top_logprobs": log_p[..., :-1],
        "tail_logprob": log_p[..., -1],
        "decoder_loss_weights": np.ones((B, T), np.float32) if weights is None else weights,
        "decoder_target_tokens": np.ones((B, T), np.int32),
    }


def test_the_rest_is_the_sum_of_all_others(distributions):
    target, _, ids = distributions
    np.testing.assert_allclose(np.exp(merged(target, ids)), merge_by_hand(softmax(target), ids), atol=1e-6)


def test_a_rest_below_float32s_resolution_keeps_its_logarithm():
    logits = jnp.asarray([[[0.0, 0.0, -40.0, -40.0]]])
    tail = merged(logits, jnp.asarray([[[0, 1]]]))[0, 0, -1]
    assert tail == pytest.approx(-40.0)  # 2 e^-40 over 2


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)
def test_any_divergence_applies_to_merged_distributions(distributions, divergence):
    target, draft, ids = distributions
    weights = np.array([[1, 1, 1], [1, 0, 0]], np.float32)
    loss, count, metrics = make_stored_logprobs_loss(Table(), divergence, vocabulary=T5_IDS)(
        draft, batch_of(target, ids, weights), jax.random.key(0)
    )
    p, q = (merge_by_hand(softmax(logits), ids) for logits in (target, draft))
    token_BT = by_hand(divergence, p, q)
    assert float(count) == 2
    assert float(loss) == pytest.approx(token_BT[0].mean() + token_BT[1, 0], rel=1e-5)
    overlap = np.minimum(p, q).sum(-1)
    expected = (overlap[0].sum() + overlap[1, 0]) / 4
    assert float(metrics["acceptance_at_most"].compute()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)
def test_all_ids_but_one_are_the_whole_distribution_with_its_gradient(distributions, divergence):
    target, draft, _ = distributions
    ids = np.argsort(-target, axis=-1)[..., : V - 1].astype(np.int32)
    batch = batch_of(target, ids)
    mask = np.ones((B, T), np.float32)

    def stored(logits):
        return make_stored_logprobs_loss(Table(), divergence, vocabulary=T5_IDS)(
            logits, batch, jax.random.key(0)
        )[0]

    def whole(logits):
        return jnp.sum(divergence(target, logits, mask, batch["decoder_target_tokens"])) / T

    (value, slope), (expected, expected_slope) = (jax.value_and_grad(f)(draft) for f in (stored, whole))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-6)


def test_merging_never_raises_a_divergence(distributions):
    target, draft, ids = distributions
    for divergence in DIVERGENCES:
        whole = by_hand(divergence, softmax(target), softmax(draft))
        coarse = by_hand(divergence, *(merge_by_hand(softmax(x), ids) for x in (target, draft)))
        assert (coarse <= whole + 1e-12).all()


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)
def test_mass_outside_the_stored_ids_is_not_free(divergence):
    """Mutant 17: a draft in proportion on the target's ids that keeps 99 % of its mass elsewhere."""
    target = np.zeros((B, T, V), np.float32)
    target[..., :K] = 6.0  # the three hold 0.997
    fled = np.zeros((B, T, V), np.float32)
    fled[..., K:] = np.log(99 * K / (V - K))
    ids = np.broadcast_to(np.arange(K, dtype=np.int32), (B, T, K))
    assert softmax(fled)[0, 0, :K].sum() == pytest.approx(0.01)

    def loss(logits):
        return make_stored_logprobs_loss(Table(), divergence, vocabulary=T5_IDS)(
            logits, batch_of(target, ids), jax.random.key(0)
        )[0]

    assert float(loss(target)) == pytest.approx(0, abs=1e-6)
    assert float(loss(fled)) > 0.2
    # Descent takes mass back to the stored ids.
    slope = np.asarray(jax.grad(loss)(fled))
    assert (slope[..., :K] < 0).all()
    assert (slope[..., K:] > 0).all()


def test_padded_rows_of_the_embedding_are_in_no_distribution(distributions):
    """Neither stored, though they are the likeliest, nor learnt from; they get no gradient."""
    target, draft, ids = distributions
    wide = [np.pad(x, ((0, 0), (0, 0), (0, 2)), constant_values=30.0) for x in (target, draft)]
    found, log_p = likeliest(Table(), wide[0], {}, K, V)
    np.testing.assert_array_equal(found, ids)
    batch = batch_of(target, ids)
    np.testing.assert_allclose(log_p[..., :-1], batch["top_logprobs"], rtol=1e-6)
    np.testing.assert_allclose(log_p[..., -1], batch["tail_logprob"], rtol=1e-5)

    def loss(logits, size):
        made = make_stored_logprobs_loss(Table(), ForwardKL(), vocabulary=Vocabulary(size, (1,), (0,)))
        return made(logits, batch, jax.random.key(0))[0]

    value, slope = jax.value_and_grad(loss)(wide[1], V)
    assert float(value) == pytest.approx(float(loss(draft, None)), rel=1e-5)
    np.testing.assert_array_equal(slope[..., V:], 0.0)


def test_likeliest_are_a_networks_own_distribution():
    model = tiny.T5_1_1
    params = tiny.params(model)
    batch = tiny.teacher_batch(tiny.tokens(0, 2, 5), tiny.tokens(1, 2, 4))
    ids, log_p = (np.asarray(x) for x in likeliest(model, params, batch, 4))
    distribution = softmax(tiny.logits(model, params, batch))
    np.testing.assert_array_equal(ids, np.argsort(-distribution, axis=-1)[..., :4])
    np.testing.assert_allclose(
        np.exp(log_p[..., :-1]), np.take_along_axis(distribution, ids, axis=-1), rtol=1e-4
    )
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("divergence", [ForwardKL(), ReverseKL()], ids=lambda d: type(d).__name__)
def test_tokens_of_a_draft_with_a_shortlist_are_chosen_by_finite_scores(divergence):
    """Where a stored id is not listed, the divergence of all ids is infinite, and chose the token."""
    model, batch = tiny.GPT, tiny.teacher_batch(tiny.tokens(0, 1, 5), tiny.tokens(1, 1, 2))
    params, scores = tiny.params(model), []

    class Scores(TokenSelection):
        def weigh(self, score_BT, mask_BT, normalize):
            scores.append(score_BT)
            return *normalize(mask_BT), {}

    stored = {
        "top_ids": np.array([[[5, 9, 28], [2, 5, 9]]], np.int32),
        "top_logprobs": np.log([[[0.5, 0.2, 0.2], [0.3, 0.3, 0.2]]]).astype(np.float32),
        "tail_logprob": np.log([[0.1, 0.2]]).astype(np.float32),
        "decoder_loss_weights": np.ones((1, 2), np.float32),
        "decoder_target_tokens": np.ones((1, 2), np.int32),
    }
    loss = make_stored_logprobs_loss(
        Shortlisted(model, (1, 4, 5, 17, 28)),
        divergence,
        vocabulary=T5_IDS,
        weighting=Scores("reference"),
        reference=Frozen(model, params),
    )
    loss(params, {**batch, **stored}, jax.random.key(0))
    assert bool(jnp.isfinite(scores[0]).all())


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda d: type(d).__name__)
def test_a_draft_with_a_shortlist_learns_the_targets_distribution_of_the_listed_ids(divergence):
    """Of the three stored ids one is not listed, at the second position none is."""
    model, listed = tiny.GPT, np.array([1, 4, 5, 17, 28])
    params, batch = tiny.params(model), tiny.teacher_batch(tiny.tokens(0, 1, 5), tiny.tokens(1, 1, 2))
    ids = np.array([[[5, 9, 28], [2, 3, 9]]])
    p = np.array([[[0.5, 0.2, 0.2, 0.1], [0.3, 0.3, 0.2, 0.2]]])
    stored = {
        "top_ids": ids.astype(np.int32),
        "top_logprobs": np.log(p[..., :-1]).astype(np.float32),
        "tail_logprob": np.log(p[..., -1]).astype(np.float32),
        "decoder_loss_weights": np.ones((1, 2), np.float32),
        "decoder_target_tokens": np.ones((1, 2), np.int32),
    }
    loss = make_stored_logprobs_loss(Shortlisted(model, tuple(listed)), divergence, vocabulary=T5_IDS)
    value, _, metrics = jax.jit(loss)(params, {**batch, **stored}, jax.random.key(0))
    q = softmax(tiny.logits(model, params, batch)[0][:, listed])
    first = np.array([q[0, 2], q[0, 4], q[0, [0, 1, 3]].sum()]), np.array([0.5, 0.2, 0.1])
    second = np.array([1.0]), np.array([0.2])
    by_token = [by_hand(divergence, p / p.sum(), q) for q, p in (first, second)]
    assert float(value) == pytest.approx(np.mean(by_token), rel=1e-5)
    accepted = np.mean([np.minimum(q, p).sum() for q, p in (first, second)])
    assert float(metrics["acceptance_at_most"].compute()) == pytest.approx(accepted, rel=1e-5)
    slope = jax.grad(lambda params: loss(params, {**batch, **stored}, jax.random.key(0))[0])(params)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(slope))
