"""Rematerialisation changes the program and no number."""

import dataclasses

import jax
import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.models import registry
from tests import tiny

MODEL = dataclasses.replace(tiny.T5_1_1, config=dataclasses.replace(tiny.T5_1_1.config, dropout_rate=0.1))
INPUTS, TARGETS = tiny.ragged(1, (4, 2, 5), 5), tiny.ragged(2, (3, 4, 2), 4)
BATCH = tiny.teacher_batch(INPUTS, TARGETS)


def loss(model):
    def call(params):
        logits_BTV = model.logits(params, BATCH, dropout_key=jax.random.key(3))
        return (jax.nn.log_softmax(logits_BTV) ** 2).mean()

    return call


@pytest.fixture(scope="module")
def plain():
    gradient = jax.jit(jax.grad(loss(MODEL)))
    return gradient(tiny.params(MODEL)), jax.make_jaxpr(jax.grad(loss(MODEL)))(tiny.params(MODEL))


def count(jaxpr, name):
    return str(jaxpr).count(f"{name}[")


@pytest.mark.parametrize("policy", ["minimal", "full"])
def test_the_gradient_is_the_same_and_layers_are_computed_again(plain, policy):
    model = dataclasses.replace(MODEL, remat=policy)
    assert jax.tree.structure(registry.shapes(model)) == jax.tree.structure(registry.shapes(MODEL))
    gradient = jax.jit(jax.grad(loss(model)))(tiny.params(MODEL))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain[0], gradient)

    jaxpr = jax.make_jaxpr(jax.grad(loss(model)))(tiny.params(MODEL))
    again = count(jaxpr, "dot_general") - count(plain[1], "dot_general")
    # Attention's two products have batch dimensions: all that `minimal` does not keep.
    assert (0 < again < 3 * 6) if policy == "minimal" else again >= 3 * 6


@pytest.mark.parametrize("model", [tiny.LLAMA, tiny.T5GEMMA], ids=["llama", "t5gemma"])
def test_other_families_layers_are_computed_again_with_their_dropout(model):
    config = dataclasses.replace(model.config, dropout_rate=0.1)
    kept, again = (dataclasses.replace(model, config=config, remat=remat) for remat in ("none", "full"))
    programs = [jax.make_jaxpr(jax.grad(loss(one)))(tiny.params(model)) for one in (kept, again)]
    assert count(programs[1], "dot_general") > count(programs[0], "dot_general")


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(UsageError, match=r"REMAT='fill': did you mean 'full'\?"):
        dataclasses.replace(MODEL, remat="fill")
