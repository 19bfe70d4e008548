"""Where the sequences come from, and how a loss averages over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.distillation.loss import sequence_means
from distillspec_jax.distillation.sources import Fixed, Mixture, Networks, OnPolicy
from distillspec_jax.errors import UsageError
from distillspec_jax.models.t5 import EncoderDecoder, T5Config, init_params

MODEL = EncoderDecoder(T5Config(11, 8, 2, 4, 1, 1, 8))
PARAMS = [init_params(MODEL, jax.random.key(seed)) for seed in (0, 1)]
BATCH = {
    "encoder_input_tokens": jnp.asarray([[3, 4, 1], [5, 1, 0], [0, 0, 0], [6, 7, 1]]),
    "decoder_target_tokens": jnp.asarray([[3, 3, 1, 0], [4, 1, 0, 0], [0, 0, 0, 0], [5, 6, 7, 1]]),
    "decoder_input_tokens": jnp.asarray([[0, 3, 3, 0], [0, 4, 0, 0], [0, 0, 0, 0], [0, 5, 6, 7]]),
    "decoder_loss_weights": jnp.asarray([[1.0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]),
}


@pytest.fixture(scope="module")
def draw():
    @jax.jit
    def run(params, key):
        return OnPolicy()(Networks(MODEL, params, MODEL, PARAMS[0]), BATCH, key)

    return run


def test_on_policy_samples_come_from_the_parameters_of_now(draw):
    key = jax.random.key(0)
    again, other = draw(PARAMS[0], key), draw(PARAMS[1], key)
    np.testing.assert_array_equal(
        again["decoder_target_tokens"], draw(PARAMS[0], key)["decoder_target_tokens"]
    )
    assert (again["decoder_target_tokens"] != other["decoder_target_tokens"]).any()


def test_on_policy_rows_are_whole_sequences(draw):
    for seed in range(5):
        batch = {k: np.asarray(v) for k, v in draw(PARAMS[0], jax.random.key(seed)).items()}
        tokens, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 1:], tokens[:, :-1])
        np.testing.assert_array_equal(batch["decoder_input_tokens"][:, 0], 0)
        np.testing.assert_array_equal(weights > 0, tokens > 0)
        np.testing.assert_array_equal(tokens[2], 0)  # no prompt, no sample
        for row in tokens[[0, 1, 3]]:
            ends = np.flatnonzero(row == 1)
            assert (row[: ends[0] + 1] > 0).all() if len(ends) else (row > 0).all()
            assert not len(ends) or (row[ends[0] + 1 :] == 0).all()


def test_a_mixture_deals_out_its_rows():
    mixture = Mixture((Fixed(), OnPolicy()), (0.5, 0.5))
    mixed = mixture(Networks(MODEL, PARAMS[0], MODEL, PARAMS[0]), BATCH, jax.random.key(0))
    np.testing.assert_array_equal(mixed["decoder_target_tokens"][:2], BATCH["decoder_target_tokens"][:2])
    assert (mixed["decoder_target_tokens"][3] != BATCH["decoder_target_tokens"][3]).any()


@pytest.mark.parametrize("weights", [(0.5, 0.4), (1.0, 0.0), (1.0,)])
def test_impossible_shares_are_refused(weights):
    with pytest.raises(UsageError, match="Mixture"):
        Mixture((Fixed(), OnPolicy()), weights)


def test_each_sequence_counts_by_its_own_length():
    loss = jnp.asarray([[3.0, 3, 3, 9], [1, 9, 9, 9], [9, 9, 9, 9]])
    weights = jnp.asarray([[1.0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    total, count = sequence_means(loss, weights)
    assert (float(total), float(count)) == (4.0, 2.0)  # 3 + 1; a pooled mean would be 10 / 4
