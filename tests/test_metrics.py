"""Sums and counts: however they are merged, the ratio is that of the whole."""

import jax.numpy as jnp
import numpy as np
import pytest

from distillspec_jax import metrics
from distillspec_jax.metrics import Mean


def test_a_mean_over_what_the_mask_leaves():
    mean = Mean.of(jnp.asarray([1.0, 2.0, 6.0]), jnp.asarray([1, 0, 1]))
    assert (float(mean.total), float(mean.count), mean.compute()) == (7.0, 2.0, 3.5)
    assert Mean.of(jnp.asarray([[1.0, 2.0], [3.0, 6.0]])).compute() == 3.0


def test_weights_weigh():
    assert Mean.of(jnp.asarray([1.0, 4.0]), jnp.asarray([3.0, 1.0])).compute() == 1.75


def test_a_masked_value_may_be_anything():
    mean = Mean.of(jnp.asarray([1.0, np.nan, -np.inf]), jnp.asarray([True, False, False]))
    assert mean.compute() == 1.0


def test_batches_and_hosts_of_unequal_counts_merge_to_the_whole():
    values = np.random.default_rng(0).normal(size=10).astype(np.float32)
    parts = [Mean.of(jnp.asarray(part)) for part in (values[:7], values[7:9], values[9:])]
    merged: dict[str, Mean] = {}
    for part in parts:
        merged = metrics.merge(merged, metrics.to_host({"x": part}))
    assert merged["x"].count == 10
    assert metrics.compute(merged)["x"] == pytest.approx(values.mean(), rel=1e-6)
    means = [float(part.compute()) for part in parts]
    assert abs(np.mean(means) - values.mean()) > 0.01  # what a mean of means would be


def test_names_of_either_side_are_kept():
    left, right = {"a": Mean(1.0, 2.0), "b": Mean(1.0, 1.0)}, {"b": Mean(3.0, 1.0), "c": Mean(5.0, 1.0)}
    assert metrics.compute(metrics.merge(left, right)) == {"a": 0.5, "b": 2.0, "c": 5.0}
    assert metrics.compute(left) == {"a": 0.5, "b": 1.0}  # untouched


def test_nothing_counted_is_no_zero():
    assert np.isnan(Mean(0.0, 0.0).compute())


def test_long_sums_keep_their_digits():
    """In float32 the sum would stick at 2^24."""
    total = {"x": Mean(float(2**24), float(2**24))}
    for _ in range(3):
        total = metrics.merge(total, metrics.to_host({"x": Mean(jnp.float32(1), jnp.float32(1))}))
    assert total["x"].total == 2**24 + 3
