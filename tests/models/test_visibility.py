"""Who may see whom under teacher forcing, in every family: not the future, not another packed example."""

import jax
import numpy as np
import pytest

from tests import tiny

one_of_each_family = pytest.mark.parametrize("model", [tiny.T5_1_1, tiny.LLAMA], ids=["t5", "decoder_only"])

# Two examples, 2 3 4 -> 5 6 and 7 8 9 10 -> 11 12 13, packed in one row, and padding at its end. All ids
# differ, so that the gradient of a row of the embedding table is the gradient of one position.
PACKED = {
    "encoder_input_tokens": np.array([[2, 3, 4, 7, 8, 9, 10, 0]], np.int32),
    "encoder_segment_ids": np.array([[1, 1, 1, 2, 2, 2, 2, 0]], np.int32),
    "encoder_positions": np.array([[0, 1, 2, 0, 1, 2, 3, 0]], np.int32),
    # The decoder reads the targets shifted by one within each example.
    "decoder_input_tokens": np.array([[0, 5, 0, 11, 12, 0]], np.int32),
    "decoder_segment_ids": np.array([[1, 1, 2, 2, 2, 0]], np.int32),
    "decoder_positions": np.array([[0, 1, 0, 1, 2, 0]], np.int32),
}


def influence(model, batch, positions):
    """Which ids' embeddings the logits at the given target positions depend on."""

    @jax.jit
    def gradient(params):
        def of(params):
            logits_BTV = model.logits(params, batch)
            # Random weights: a plain sum of logits could hide a dependence by symmetry.
            weight = jax.random.normal(jax.random.key(0), logits_BTV.shape)
            return (logits_BTV * weight)[:, positions].sum()

        return jax.grad(of)(params)["token_embedder"]["embedding"]

    return {int(i) for i in np.flatnonzero(np.any(np.asarray(gradient(tiny.params(model))) != 0, axis=1))}


@one_of_each_family
def test_no_gradient_reaches_a_logit_from_the_future(model):
    batch = tiny.teacher_batch(np.array([[2, 3, 4, 0]]), np.array([[5, 6, 7, 8, 9]]))
    # The target that a logit predicts is not before it; decoder-only, the last of the prompt is the start.
    start = {0} if model is tiny.T5_1_1 else set()
    assert influence(model, batch, [0, 1, 2]) == {2, 3, 4, 5, 6} | start
    assert influence(model, batch, [4]) == {2, 3, 4, 5, 6, 7, 8} | start


@one_of_each_family
def test_no_gradient_crosses_from_one_packed_example_to_another_or_from_padding(model):
    # Id 0 starts every example of the decoder, so it is no evidence of anything.
    assert influence(model, PACKED, [0, 1]) - {0} == {2, 3, 4, 5}
    assert influence(model, PACKED, [2, 3, 4]) - {0} == {7, 8, 9, 10, 11, 12}


@pytest.mark.parametrize("model", tiny.MODELS.values(), ids=tiny.MODELS)
def test_packed_examples_have_the_logits_of_separate_ones(model):
    packed = np.asarray(tiny.logits(model, tiny.params(model), PACKED))
    inputs = np.array([[2, 3, 4, 0, 0, 0, 0, 0], [7, 8, 9, 10, 0, 0, 0, 0]], np.int32)
    targets = np.array([[5, 6, 0, 0, 0, 0], [11, 12, 13, 0, 0, 0]], np.int32)
    apart = np.asarray(tiny.logits(model, tiny.params(model), tiny.teacher_batch(inputs, targets)))
    np.testing.assert_allclose(packed[0, :2], apart[0, :2], rtol=0, atol=2e-5)
    np.testing.assert_allclose(packed[0, 2:5], apart[1, :3], rtol=0, atol=2e-5)
