"""Products in the precision that JAX is asked for: rounded by hand, in float64, on the other side."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from distillspec_jax.models.projection import BFLOAT16, precision, project

RNG = np.random.default_rng(0)
X, KERNEL, GRADIENT = (RNG.normal(size=shape).astype(np.float32) for shape in ((2, 3, 8), (8, 5), (2, 3, 5)))


def rounded(x):
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def product_and_gradients(kernel, axis):
    y, pull = jax.vjp(lambda x, kernel: project(x, kernel, axis), X, kernel)
    return y, *pull(jnp.asarray(GRADIENT))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", [None, BFLOAT16])
def test_a_product_and_its_gradient(axis, name):
    """Catches a gradient that is not rounded, which costs what was to be saved, and one of the other axis."""
    kind = rounded if name else np.float64
    x, kernel, gradient = map(kind, (X, KERNEL, GRADIENT))
    expected = x @ kernel, gradient @ kernel.T, np.einsum("btm,bth->mh", x, gradient)
    turned = (lambda a: a.T) if axis else (lambda a: a)
    with precision(name):
        found = product_and_gradients(turned(KERNEL), axis)
    for got, want in zip(found, (*expected[:2], turned(expected[2])), strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


def test_operands_of_another_dtype_stay_as_they_are():
    with precision(BFLOAT16):
        assert project(X.astype(jnp.bfloat16), KERNEL.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_no_name_leaves_jax_its_setting():
    with jax.default_matmul_precision("highest"), precision(None):
        assert jax.config.jax_default_matmul_precision == "highest"
