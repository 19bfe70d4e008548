"""The loss by parts of the sequence against the loss on all logits at once."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.distillation import chunks
from distillspec_jax.distillation.divergences import ForwardKL, HardLabels, TotalVariation
from distillspec_jax.distillation.loss import by_sequence, make_distillation_loss
from distillspec_jax.distillation.sources import Fixed
from distillspec_jax.vocabulary import T5_IDS
from tests import tiny

ROWS, WIDTH = 3, 7
TARGETS = tiny.ragged(2, (7, 4, 0), WIDTH)
BATCH = tiny.teacher_batch(tiny.ragged(1, (5, 3, 4), 5), TARGETS) | {
    "decoder_target_tokens": TARGETS,
    "decoder_loss_weights": (TARGETS > 0).astype(np.float32),
}


def naive(model, divergence, target_params, params):
    """Both networks' logits at once, and autodiff all the way."""
    mask = BATCH["decoder_loss_weights"]
    both = model.logits(target_params, BATCH), model.logits(params, BATCH)
    loss = divergence(*both, mask, BATCH["decoder_target_tokens"])
    return jnp.sum(loss * by_sequence(mask)[0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def expected(model, divergence, target_params, params):
    return jax.value_and_grad(functools.partial(naive, model, divergence, target_params))(params)


@pytest.mark.parametrize(
    ("model", "divergence", "count"),
    [
        (tiny.T5_1_1, ForwardKL(), 1),
        (tiny.T5_1_1, TotalVariation(), 3),  # 7 tokens: 3 + 3 + 1
        (tiny.T5_1_0, HardLabels(), 7),  # the projection is the embedding, which has a gradient below, too
    ],
)
def test_value_and_gradients_are_those_of_all_logits_at_once(model, divergence, count, monkeypatch):
    logits = ROWS * WIDTH * tiny.VOCAB
    monkeypatch.setattr(chunks, "LOGITS", -(-logits // count))
    assert chunks.parts(ROWS, WIDTH, tiny.VOCAB) == count
    target_params, params = tiny.params(model, 1), tiny.params(model, 2)
    loss = make_distillation_loss(model, model, target_params, divergence, Fixed(), vocabulary=T5_IDS)

    @jax.jit
    def by_parts(params):
        def scaled(params):  # the cotangent is not 1
            loss_sum, _, metrics = loss(params, BATCH, jax.random.key(0))
            return 0.25 * loss_sum, (loss_sum, metrics)

        return jax.value_and_grad(scaled, has_aux=True)(params)

    (_, (value, metrics)), gradient = by_parts(params)
    whole, whole_gradient = expected(model, divergence, target_params, params)
    assert float(value) == pytest.approx(float(whole), rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 0.25 * b, rtol=1e-4, atol=1e-6), gradient, whole_gradient
    )
    tvd, _ = expected(model, TotalVariation(), target_params, params)
    if isinstance(divergence, TotalVariation):
        assert float(value) == pytest.approx(float(tvd))
    assert float(metrics["acceptance_on_batch"].count) == (TARGETS > 0).sum()


def test_no_array_holds_all_logits(monkeypatch):
    """Neither network's: the largest float array of the step is smaller than a third of them."""
    monkeypatch.setattr(chunks, "LOGITS", ROWS * WIDTH * tiny.VOCAB // 7)
    model = tiny.T5_1_1
    loss = make_distillation_loss(
        model, model, tiny.params(model, 1), ForwardKL(), Fixed(), vocabulary=T5_IDS
    )
    step = jax.grad(lambda p: loss(p, BATCH, jax.random.key(0))[0])
    jaxpr = jax.make_jaxpr(step)(tiny.params(model, 2))
    with_vocabulary = [shape for shape in shapes(jaxpr.jaxpr) if tiny.VOCAB in shape]
    assert with_vocabulary
    tokens = [np.prod(shape) // tiny.VOCAB for shape in with_vocabulary if ROWS in shape]
    assert max(tokens) == ROWS  # one token a row


def shapes(jaxpr):
    """Of every value in a program, the loops' bodies included."""
    for equation in jaxpr.eqns:
        yield from (tuple(v.aval.shape) for v in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from shapes(inner)


@pytest.mark.parametrize(
    ("rows", "tokens", "vocab_size", "count"),
    [(24, 160, 4096, 1), (64, 128, 32128, 8), (1, 8192, 32128, 8), (4096, 4, 32128, 4), (1, 1, 4, 1)],
)
def test_a_part_holds_so_many_logits_and_at_least_a_token_a_row(rows, tokens, vocab_size, count):
    assert chunks.parts(rows, tokens, vocab_size) == count
