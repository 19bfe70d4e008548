"""T5 under teacher forcing, its fresh parameters, and that configurations are checked."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.models.attention import RelativePositionBias
from distillspec_jax.models.registry import shapes
from distillspec_jax.models.t5 import T5Config, init_params
from tests import tiny


def test_dropout_needs_a_key_and_follows_it():
    config = dataclasses.replace(tiny.T5_1_1.config, dropout_rate=0.3)
    model, params = dataclasses.replace(tiny.T5_1_1, config=config), tiny.params(tiny.T5_1_1)
    batch = tiny.teacher_batch(tiny.tokens(0, 2, 5), tiny.tokens(1, 2, 4))

    @jax.jit
    def dropped(key):
        return model.logits(params, batch, dropout_key=key)

    first, again, other = (np.asarray(dropped(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(tiny.logits(model, params, batch), tiny.logits(tiny.T5_1_1, params, batch))


def test_fresh_parameters_have_t5s_scales():
    """Query kernels carry the 1/sqrt(head_dim) that T5's attention leaves out; norms start at one."""
    config = T5Config(
        64, emb_dim=64, num_heads=4, head_dim=16, num_encoder_layers=1, num_decoder_layers=1, mlp_dim=64
    )
    model = dataclasses.replace(tiny.T5_1_1, config=config)
    params = init_params(model, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.shape, b.shape), params, shapes(model))
    attention = params["decoder"]["layers_0"]["self_attention"]
    assert np.std(attention["query"]["kernel"]) == pytest.approx(1 / 8 / 4, rel=0.1)
    assert np.std(attention["key"]["kernel"]) == pytest.approx(1 / 8, rel=0.1)
    assert np.std(params["token_embedder"]["embedding"]) == pytest.approx(1, rel=0.1)
    np.testing.assert_array_equal(params["decoder"]["decoder_norm"]["scale"], jnp.ones(64))


def test_an_encoders_heads_may_begin_at_their_neighbours():
    """By the bias alone. The decoder's is as ever, and where none is asked for, T5X's init."""

    def weights(neighbours, bidirectional):
        bias = RelativePositionBias(2, 8, 10, bidirectional, neighbours)
        params = bias.init(jax.random.key(0), jnp.arange(5), jnp.arange(5))
        return np.asarray(jax.nn.softmax(bias.apply(params, jnp.arange(5), jnp.arange(5)), axis=-1))

    before, behind = weights(9.0, True)
    np.testing.assert_allclose(before[1:, :-1].diagonal(), 1, atol=1e-3)
    np.testing.assert_allclose(behind[:-1, 1:].diagonal(), 1, atol=1e-3)
    assert weights(0.0, True).max() < 0.5
    fresh = dataclasses.replace(tiny.T5_1_1.config, relpos_neighbours=9.0)
    params = init_params(dataclasses.replace(tiny.T5_1_1, config=fresh), jax.random.key(0))
    most = {x: float(params[x]["relpos_bias"]["rel_embedding"].max()) for x in ("encoder", "decoder")}
    assert most["encoder"] == 9.0 > 2.0 > most["decoder"]


def test_logits_of_a_tied_model_are_scaled_and_of_an_untied_model_are_not():
    """T5 1.0 divides by sqrt(width) before its shared table; T5 1.1 has its own projection and does not."""
    tied, params = tiny.T5_1_0, tiny.params(tiny.T5_1_0)
    untied = dataclasses.replace(tied, config=dataclasses.replace(tied.config, logits_via_embedding=False))
    table = params["token_embedder"]["embedding"]
    own = {**params, "decoder": {**params["decoder"], "logits_dense": {"kernel": table.T}}}
    batch = tiny.teacher_batch(tiny.tokens(0, 2, 5), tiny.tokens(1, 2, 4))
    scaled, raw = tiny.logits(tied, params, batch), tiny.logits(untied, own, batch)
    np.testing.assert_allclose(scaled * 4, raw, rtol=1e-5, atol=1e-4)  # sqrt(16)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("mlp_activations", ("gelo", "linear"), "mlp_activations: unknown 'gelo': did you mean 'gelu'"),
        ("mlp_activations", (), "mlp_activations is (), must name at least one"),
        ("num_heads", 0, "num_heads is 0, must be at least 1"),
        ("vocab_size", -3, "vocab_size is -3, must be at least 1"),
        ("relpos_buckets", 7, "relpos_buckets is 7, must be even and at least 4"),
        ("relpos_max_distance", 4, "relpos_max_distance is 4, must be above relpos_buckets / 2 = 4"),
        ("relpos_neighbours", -1, "relpos_neighbours is -1, must be a number from 0 to 100"),
        ("dropout_rate", 1.0, "dropout_rate is 1.0, must lie in [0, 1)"),
        ("decoder_start_id", 99, "decoder_start_id is 99, must lie in the vocabulary of 29"),
        ("dtype", "float61", "dtype: unknown 'float61'"),
    ],
)
def test_an_impossible_configuration_is_named(field, value, said):
    with pytest.raises(UsageError) as error:
        dataclasses.replace(tiny.T5_1_1.config, **{field: value})
    assert said in str(error.value)
