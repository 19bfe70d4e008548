"""Relative-position buckets against a hand-made table, the bias that is looked up by them, and dropout."""

import dataclasses
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.models import attention as attention_module
from distillspec_jax.models.attention import Attention, relative_position_bucket
from distillspec_jax.models.spread import spread
from tests import tiny

# T5's usual sizes. A decoder's 32 buckets: distances 0-15 by themselves, then
# 16 + floor(16 * log(distance / 16) / log(128 / 16)), at most 31. Worked out by hand.
DECODER = {0: 0, 1: 1, 15: 15, 16: 16, 18: 16, 19: 17, 21: 18, 24: 19, 32: 21, 64: 26, 127: 31, 999: 31}

# An encoder's: 16 for each direction, 8 of them exact, then 8 + floor(8 * log(distance / 8) / log(128 / 8));
# keys after the query are 16 further on. 16, 32 and 64 lie on boundaries: 8 * log(2) / log(16) is exactly 2.
ENCODER = {0: 0, 1: 1, 7: 7, 8: 8, 11: 8, 12: 9, 15: 9, 16: 10, 31: 11, 32: 12, 64: 14, 127: 15, 500: 15}


def buckets(relative, **kwargs):
    return np.asarray(relative_position_bucket(jnp.asarray(relative, jnp.int32), **kwargs))


def test_buckets_of_a_decoder():
    relative = [-distance for distance in DECODER]
    found = buckets(relative, bidirectional=False, num_buckets=32, max_distance=128)
    np.testing.assert_array_equal(found, list(DECODER.values()))


def test_a_decoders_future_shares_the_first_bucket():
    found = buckets([1, 2, 300], bidirectional=False, num_buckets=32, max_distance=128)
    np.testing.assert_array_equal(found, [0, 0, 0])


def test_buckets_of_an_encoder_on_both_sides():
    sizes = {"bidirectional": True, "num_buckets": 32, "max_distance": 128}
    before = buckets([-distance for distance in ENCODER], **sizes)
    after = buckets([distance for distance in ENCODER if distance], **sizes)
    np.testing.assert_array_equal(before, list(ENCODER.values()))
    np.testing.assert_array_equal(after, [16 + bucket for distance, bucket in ENCODER.items() if distance])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (12, 37)])
def test_buckets_agree_with_transformers(bidirectional, num_buckets, max_distance):
    import torch
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = np.arange(-300, 301)
    sizes = {"bidirectional": bidirectional, "num_buckets": num_buckets, "max_distance": max_distance}
    theirs = T5Attention._relative_position_bucket(torch.from_numpy(relative), **sizes)
    np.testing.assert_array_equal(buckets(relative, **sizes), theirs.numpy())


def test_dropout_of_weights_is_shared_by_the_queries():
    """As T5X draws it; a mask a query would be most of what a training step draws."""
    attention = Attention(num_heads=2, head_dim=3, features=4, dropout_rate=0.5)
    query_BHQD = jnp.broadcast_to(jnp.arange(3.0), (2, 2, 5, 3))  # all queries ask the same
    kv = (jnp.ones((2, 2, 7, 3)), jax.random.normal(jax.random.key(0), (2, 2, 7, 3)))
    params = {"out": {"kernel": jax.random.normal(jax.random.key(1), (6, 4))}}

    def attend(key):
        return attention.apply(
            {"params": params},
            query_BHQD,
            kv,
            jnp.zeros((2, 1, 5, 7)),
            False,
            method="attend",
            rngs={"dropout": key},
        )

    found_BQM, other_BQM = attend(jax.random.key(2)), attend(jax.random.key(3))
    np.testing.assert_allclose(found_BQM, jnp.broadcast_to(found_BQM[:, :1], found_BQM.shape), rtol=1e-6)
    assert not np.allclose(found_BQM, other_BQM)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_rows_share_has_the_sum_of_their_gradients(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    weights_BXY = jax.random.normal(jax.random.key(0), (4, 2, 3))
    found_XY = jax.grad(lambda x_XY: jnp.sum(weights_BXY * spread(x_XY, 4) ** 2))(jnp.full((2, 3), 2.0))
    np.testing.assert_allclose(found_XY, 4.0 * weights_BXY.sum(0), rtol=1e-5)


INPUTS, TARGETS = tiny.ragged(1, (4, 2, 5), 5), tiny.ragged(2, (3, 4, 2), 4)


@pytest.mark.parametrize(
    ("model", "layers"), [(tiny.T5_1_1, 5), (tiny.LLAMA, 2), (tiny.GEMMA, 3)], ids=["t5", "llama", "gemma3"]
)
def test_jax_attends_over_whole_sequences_as_we_do(model, layers, monkeypatch):
    monkeypatch.setattr(attention_module, "FEW_QUERIES", 0)
    batch, params = tiny.teacher_batch(INPUTS, TARGETS), tiny.params(model)

    def loss(one):
        def call(params):
            logits_BTV = one.logits(params, batch)
            return (jax.nn.log_softmax(logits_BTV) ** 2).mean(), logits_BTV

        return jax.jit(jax.value_and_grad(call, has_aux=True))(params)

    ((_, plain_BTV), gradient) = loss(model)
    with mock.patch.object(jax.nn, "dot_product_attention", wraps=jax.nn.dot_product_attention) as called:
        ((_, logits_BTV), again) = loss(dataclasses.replace(model, attention="xla"))
    assert called.call_count == layers
    np.testing.assert_allclose(logits_BTV, plain_BTV, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(again), strict=True):
        assert np.linalg.norm(theirs - ours) <= 1e-4 * np.linalg.norm(ours)


def test_dropout_of_weights_and_caps_are_not_left_out_in_silence():
    config = dataclasses.replace(tiny.T5_1_1.config, dropout_rate=0.1)
    model = dataclasses.replace(tiny.T5_1_1, config=config, attention="xla")
    batch = tiny.teacher_batch(INPUTS, TARGETS)
    with pytest.raises(UsageError, match="set DROPOUT_RATE=0 "):
        model.logits(tiny.params(tiny.T5_1_1), batch, dropout_key=jax.random.key(0))
    with pytest.raises(UsageError, match=r"ATTENTION='xla' does not cap attention's scores, .* \(at 2\)"):
        dataclasses.replace(tiny.T5GEMMA, attention="xla")
    with pytest.raises(UsageError, match="ATTENTION='flash': did you mean"):
        dataclasses.replace(model, attention="flash")
