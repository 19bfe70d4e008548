"""A loop over layers is the same network, of one compiled layer."""

import dataclasses

import jax
import numpy as np
import pytest

from distillspec_jax.models import registry
from tests import tiny

INPUTS, TARGETS = tiny.ragged(1, (4, 2, 5), 5), tiny.ragged(2, (3, 4, 2), 4)
BATCH = tiny.teacher_batch(INPUTS, TARGETS)


def loss(model, dropout_key=None):
    def call(params):
        logits_BTV = model.logits(params, BATCH, dropout_key=dropout_key)
        return (jax.nn.log_softmax(logits_BTV) ** 2).mean()

    return call


@pytest.mark.parametrize(
    ("model", "remat"),
    [(tiny.T5_1_1, "full"), (tiny.LLAMA, "none"), (tiny.GEMMA, "full")],
    ids=["t5 full", "llama none", "gemma3 full"],
)
def test_value_gradient_and_parameters_are_the_same(model, remat):
    looped = dataclasses.replace(model, scan_layers=True, remat=remat)
    assert jax.tree.structure(registry.shapes(looped)) == jax.tree.structure(registry.shapes(model))
    params = tiny.params(model)
    (value, gradient), (again, looped_gradient) = (
        jax.jit(jax.value_and_grad(loss(one)))(params) for one in (model, looped)
    )
    np.testing.assert_allclose(again, value, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, looped_gradient
    )


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (tiny.T5_1_1, "num_decoder_layers"),
        (tiny.LLAMA, "num_layers"),
        (tiny.T5GEMMA, "num_decoder_layers"),
    ],
    ids=["t5", "llama", "t5gemma"],
)
def test_the_program_does_not_grow_with_the_layers(model, layers):
    def products(scan_layers, count):
        config = dataclasses.replace(model.config, **{layers: count})
        sized = dataclasses.replace(model, config=config, scan_layers=scan_layers)
        jaxpr = jax.make_jaxpr(jax.grad(loss(sized)))(registry.unboxed(registry.shapes(sized)))
        return str(jaxpr).count("dot_general[")

    assert products(False, 3) > products(False, 2)
    assert products(True, 3) == products(True, 2)


def test_dropout_draws_in_the_loop_too():
    config = dataclasses.replace(tiny.T5_1_1.config, dropout_rate=0.5)
    model = dataclasses.replace(tiny.T5_1_1, config=config, scan_layers=True)
    call = jax.jit(lambda key: loss(model, key)(tiny.params(model)))
    assert len({float(call(jax.random.key(seed))) for seed in range(3)}) == 3
