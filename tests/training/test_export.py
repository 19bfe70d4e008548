"""The train step lowers for accelerators on a machine that has none."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from distillspec_jax.distillation.divergences import ForwardKL
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import OnPolicy
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.training import optimizers
from distillspec_jax.training.step import describe_state, make_train_step
from distillspec_jax.training.supervised import make_supervised_loss
from distillspec_jax.vocabulary import Vocabulary
from tests import tiny

MODEL = tiny.T5_1_1
REMATERIALISED = dataclasses.replace(MODEL, remat="full")


def distillation():
    parts = REMATERIALISED, MODEL, tiny.params(MODEL)
    return make_distillation_loss(
        *parts, ForwardKL(), OnPolicy(), dropout=True, vocabulary=Vocabulary(tiny.VOCAB, (1,), (0,))
    )


def supervised():
    return make_supervised_loss(MODEL, dropout=True)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("make_loss", [distillation, supervised])
def test_a_step_lowers_for(platform, make_loss):
    partitioner = make_partitioner()
    optimizer = optimizers.adafactor(optimizers.warmup_cosine(1e-3, 10))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tiny.params(MODEL))
    replicated = jax.tree.map(lambda _: partitioner.replicated, params)
    state, shardings = describe_state(params, replicated, optimizer, partitioner)
    step = make_train_step(optimizer, partitioner, shardings, seed=0, microbatches=2)
    tokens_BT = jax.ShapeDtypeStruct((4, 6), jnp.int32)
    names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
    weights = {"decoder_loss_weights": jax.ShapeDtypeStruct((4, 6), jnp.float32)}
    batch = dict.fromkeys(names, tokens_BT) | weights
    lowered = jax.export.export(step, platforms=[platform])(state, batch, make_loss())
    assert lowered.platforms == (platform,)
    of_state = len(jax.tree.leaves(state))
    assert [x.shape for x in lowered.out_avals[:of_state]] == [x.shape for x in jax.tree.leaves(state)]
    assert "stablehlo.while" in lowered.mlir_module()  # the parts of a batch, and a rollout
