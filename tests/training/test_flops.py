"""Operations counted by hand."""

import types

import jax
import jax.numpy as jnp
import pytest

from distillspec_jax.models.program_counts import product_flops
from distillspec_jax.training.flops import peak
from tests import tiny

X_34, W_45, W_55 = jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((5, 5))
PRODUCT = 2 * 3 * 5 * 5


def counted(function, *arguments, trips=1):
    return product_flops(jax.jit(function).trace(*arguments).jaxpr, trips)


def repeated(y_35, w_55):
    return jax.lax.scan(lambda y, _: (jnp.tanh(y @ w_55), None), y_35, None, length=7)[0]


def until_large(y_35, w_55):
    return jax.lax.while_loop(lambda y: y.sum() < 99, lambda y: y @ w_55, y_35)


def test_a_product_its_gradient_and_loops():
    y_35 = X_34 @ W_45
    assert counted(jnp.dot, X_34, W_45) == 2 * 3 * 4 * 5
    assert counted(repeated, y_35, W_55) == 7 * PRODUCT
    assert counted(until_large, y_35, W_55, trips=11) == 11 * PRODUCT
    gradient = jax.grad(lambda *a: repeated(*a).sum(), argnums=(0, 1))
    assert counted(gradient, y_35, W_55) == 3 * 7 * PRODUCT


def test_a_network():
    """One token in, one out, a row: every weight of the decoder once, the encoder's once, and attention."""
    model, config = tiny.T5_1_1, tiny.T5_1_1.config
    m, joined, inner = config.emb_dim, config.num_heads * config.head_dim, config.mlp_dim
    attention, mlp = 4 * m * joined, 3 * m * inner
    weights = config.num_encoder_layers * (attention + mlp) + config.num_decoder_layers * (
        2 * attention + mlp
    )
    weights += m * config.vocab_size
    scores = 2 * joined * (config.num_encoder_layers + 2 * config.num_decoder_layers)
    one = tiny.tokens(0, 1, 1)
    found = counted(lambda params: model.logits(params, tiny.teacher_batch(one, one)), tiny.params(model))
    assert found == 2 * (weights + scores)


@pytest.mark.parametrize(
    ("kind", "teraflops"), [("TPU v5 lite", 197), ("TPU v5p", 459), ("NVIDIA H100 80GB HBM3", 989)]
)
def test_the_makers_figures_are_found_by_the_beginning_of_a_name(monkeypatch, kind, teraflops):
    device = types.SimpleNamespace(device_kind=kind)
    monkeypatch.setattr(jax, "devices", lambda: [device] * 4)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert peak.__wrapped__() == pytest.approx(4 * teraflops * 1e12)


def test_a_device_without_figures_is_measured():
    assert 1e8 < peak() < 1e16
