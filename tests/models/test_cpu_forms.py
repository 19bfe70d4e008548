"""Products with few rows: the numbers, and that their program is the one whose speed was measured."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax.models.cpu_forms import FEW_ROWS, compiled, few_queries, few_rows

product = compiled(few_rows)


@pytest.mark.parametrize(("outputs", "width"), [(17, 40), (18, 40), (20, 256)])
@pytest.mark.parametrize("shape", [(1, 1), (2,), (2, 3), (FEW_ROWS,), (FEW_ROWS + 1,)])
def test_few_rows_multiply_by_the_transposed_kernel(shape, outputs, width):
    rng = np.random.default_rng(0)
    x, kernel_NM = rng.normal(size=(*shape, width)).astype(np.float32), rng.normal(size=(outputs, width))
    found = product(x, kernel_NM.astype(np.float32))
    assert found.shape == (*shape, outputs)
    np.testing.assert_allclose(found, x.astype(np.float64) @ kernel_NM.T, atol=2e-5)


@pytest.mark.parametrize("queries", [1, 2, 3, FEW_ROWS + 1])
def test_few_queries_are_the_products_of_every_head(queries):
    rng = np.random.default_rng(0)
    query, key = (rng.normal(size=(2, 6, n, 8)).astype(np.float32) for n in (queries, 5))
    found = compiled(few_queries)(query, key)
    np.testing.assert_allclose(found, np.einsum("bhqd,bhsd->bhqs", query, key), atol=1e-5)


def test_not_a_number_stays_in_its_row():
    """Sums may be taken in any order, but not as if NaN and infinities did not exist."""
    x_RM = np.ones((3, 8), np.float32)
    x_RM[1, 2], x_RM[2, 0] = np.nan, np.inf
    found = np.asarray(product(x_RM, np.ones((4, 8), np.float32)))
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    assert np.isposinf(found[2]).all()


def test_what_makes_the_rows_is_computed_once():
    """Fused into the product it would be repeated for every output: the step took twice as long."""
    kernel_NM = jnp.ones((17, 40))
    program = compiled(lambda x: few_rows(jnp.exp2(x) * x, kernel_NM))
    text = program.lower(jnp.ones((3, 40))).compile().as_text()
    assert "opt-barrier" in text
