"""The supervised loss against its formula; a table of logits stands for the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax import metrics as metrics_lib
from distillspec_jax.training.supervised import make_supervised_loss, repeated_mass
from tests.distillation.bigram import Bigram, table

INPUTS = np.array([[0, 2, 3, 1], [0, 4, 1, 0]], np.int32)
TARGETS = np.array([[2, 3, 1, 0], [4, 1, 0, 0]], np.int32)
WEIGHTS = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.float32)
BATCH = {
    "decoder_input_tokens": INPUTS,
    "decoder_target_tokens": TARGETS,
    "decoder_loss_weights": WEIGHTS,
}


def reference(z_loss=0.0):
    """Sum over real tokens of -log p(target) + z (log Z)^2, in float64."""
    logits = np.asarray(table(0, 5)["table"], np.float64)
    total = 0.0
    for inputs, targets, weights in zip(INPUTS, TARGETS, WEIGHTS, strict=True):
        for previous, target in zip(inputs[weights > 0], targets[weights > 0], strict=True):
            log_z = np.log(np.exp(logits[previous]).sum())
            total += log_z - logits[previous, target] + z_loss * log_z**2
    return total


@pytest.mark.parametrize("z_loss", [0.0, 0.3])
def test_the_loss_is_the_summed_surprise_of_the_real_tokens(z_loss):
    loss = make_supervised_loss(Bigram(5), dropout=False, z_loss=z_loss)
    loss_sum, weight_sum, metrics = jax.jit(lambda p, b: loss(p, b, jax.random.key(0)))(table(0, 5), BATCH)
    assert float(weight_sum) == 5.0
    assert float(loss_sum) == pytest.approx(reference(z_loss), rel=1e-6)
    found = metrics_lib.to_host(metrics)
    assert found["nll"].total == pytest.approx(reference(), rel=1e-6)  # the metric stays comparable
    assert found["nll"].count == found["row_tokens"].total == 5.0
    best = np.asarray(table(0, 5)["table"]).argmax(-1)
    assert found["token_accuracy"].total == (WEIGHTS * (best[INPUTS] == TARGETS)).sum()


def unlikely(tokens, log_probs):
    """-sum log(1 - p(c)), c the different tokens before each of a text, less itself."""
    return sum(
        -np.log1p(-np.exp(log_probs[t, c])) for t in range(len(tokens)) for c in set(tokens[:t]) - {tokens[t]}
    )


def test_what_stands_before_is_made_unlikely():
    """Two texts packed in a row, with tokens in common, and padding that has the token of a text."""
    tokens = np.array([2, 3, 2, 4, 2, 3, 5, 3, 2, 2], np.int32)
    segments = np.array([1, 1, 1, 1, 1, 2, 2, 2, 2, 0], np.int32)
    inputs = np.array([0, 2, 3, 2, 4, 0, 3, 5, 3, 0], np.int32)
    table_VV = np.asarray(table(0, 6)["table"], np.float64)
    log_probs = (table_VV - np.log(np.exp(table_VV).sum(-1, keepdims=True)))[inputs]
    expected = unlikely(tokens[:5], log_probs[:5]) + unlikely(tokens[5:9], log_probs[5:9])
    batch = {
        "decoder_input_tokens": inputs[None],
        "decoder_target_tokens": tokens[None],
        "decoder_loss_weights": (segments > 0).astype(np.float32)[None],
        "decoder_segment_ids": segments[None],
    }

    def total(weight):
        loss = make_supervised_loss(Bigram(6), dropout=False, unlikelihood=weight)
        return float(jax.jit(lambda p, b: loss(p, b, jax.random.key(0)))(table(0, 6), batch)[0])

    assert total(0.5) - total(0.0) == pytest.approx(0.5 * expected, rel=1e-5)


def test_a_certain_repetition_has_a_finite_loss_and_gradient():
    certain = jax.nn.log_softmax(100.0 * jax.nn.one_hot(jnp.array([[2, 2]]), 4))
    args = jnp.array([[2, 3]]), jnp.ones((1, 2), jnp.int32)
    value, gradient = jax.value_and_grad(lambda x: repeated_mass(x, *args).sum())(certain)
    assert 10 < value < 20
    assert np.isfinite(gradient).all()


def test_padding_has_no_gradient():
    loss = make_supervised_loss(Bigram(5), dropout=False)
    changed = {**BATCH, "decoder_target_tokens": np.where(WEIGHTS > 0, TARGETS, 3)}
    gradient = jax.jit(jax.grad(lambda p, b: loss(p, b, jax.random.key(0))[0]))
    np.testing.assert_array_equal(
        gradient(table(0, 5), BATCH)["table"], gradient(table(0, 5), changed)["table"]
    )


class DropoutProbe(Bigram):
    """Adds what it draws with the key that it is given."""

    def logits(self, params, batch, *, dropout_key=None):
        drawn = 0.0 if dropout_key is None else jax.random.uniform(dropout_key)
        return super().logits(params, batch).at[..., 0].add(drawn)


def test_dropout_is_drawn_in_training_alone():
    def value(dropout, seed):
        loss = make_supervised_loss(DropoutProbe(5), dropout=dropout)
        return float(loss(table(0, 5), BATCH, jax.random.key(seed))[0])

    assert value(False, 0) == value(False, 1) == pytest.approx(reference(), rel=1e-6)
    assert len({value(True, 0), value(True, 1), value(False, 0)}) == 3
