"""Intervals: literal values, an independent implementation, coverage, and that pairing pays."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from distillspec_jax.evaluation import paired


def counts(rng, prompts, efficiency=2.5):
    """Emitted tokens and target calls of prompts that differ in length and in difficulty."""
    calls = rng.integers(5, 40, prompts)
    return calls + rng.binomial(calls, rng.beta(6, 4, prompts) * (efficiency - 1) / 0.6 / 2.5), calls


def test_values_are_pooled_and_not_means_of_ratios():
    assert paired.ratio([10, 1], [1, 10]).value == 1.0
    assert paired.ratio_of_ratios([6, 6], [2, 4], [3, 3], [4, 2]).value == 2.0
    assert paired.difference_of_means([1.0, 3.0], [0.0, 1.0]).value == 1.5


def test_the_interval_agrees_with_another_implementation():
    rng = np.random.default_rng(3)
    emitted, calls = rng.lognormal(3, 1.2, 30), rng.integers(5, 9, 30)  # skewed, so that BCa has work to do
    ours = paired.ratio(emitted, calls, resamples=20_000)
    theirs = stats.bootstrap(
        (emitted, calls),
        lambda top, bottom, axis=-1: top.sum(axis) / bottom.sum(axis),
        paired=True,
        vectorized=True,
        method="BCa",
        n_resamples=20_000,
        # scipy does not expand its percentiles: ask it for the level whose normal tails are ours.
        confidence_level=1 - 2 * stats.norm.sf(stats.t.isf(0.025, 29) * np.sqrt(30 / 29)),
        rng=np.random.default_rng(0),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert abs(ours.low - theirs.low) < 0.04 * width
    assert abs(ours.high - theirs.high) < 0.04 * width


@pytest.mark.parametrize(("prompts", "least"), [(8, 0.92), (16, 0.93), (40, 0.93)])
def test_the_interval_covers_the_truth_as_often_as_it_says(prompts, least):
    """Without the expansion of the percentiles 8 prompts covered 88 %."""
    rng, trials, hits = np.random.default_rng(0), 1_000, 0
    for _ in range(trials):
        calls = rng.poisson(20, prompts) + 1
        emitted = rng.binomial(calls, rng.beta(3, 3, prompts))  # expected ratio 1/2
        found = paired.ratio(emitted, calls, resamples=2_000)
        hits += found.low <= 0.5 <= found.high
    # 95 % of 1,000 has a standard deviation of 0.7 %.
    assert least <= hits / trials <= 0.97, hits / trials


def test_repeated_prompts_are_one_unit():
    rng = np.random.default_rng(4)
    top, bottom = rng.integers(5, 20, 48), rng.integers(5, 9, 48)
    labels = [f"prompt {i % 12}" for i in range(48)]
    found = paired.ratio(top, bottom, clusters=labels)
    assert found == paired.ratio(top.reshape(4, 12).sum(0), bottom.reshape(4, 12).sum(0))
    assert found.value == paired.ratio(top, bottom).value
    assert paired.ratio(top, bottom, clusters=["the same"] * 48).ends is None
    with pytest.raises(ValueError, match="2 labels of clusters for 48 entries"):
        paired.ratio(top, bottom, clusters=["a", "b"])


def test_batches_that_share_a_prompt_are_one_unit():
    batches = [range(i, i + 2) for i in range(0, 8, 2)]
    assert paired.joined(None, batches) is None
    first, second, third, fourth = paired.joined(list("abcdefac"), batches)
    assert first == second == fourth != third, "the last batch joins the first two"


def test_a_skewed_statistic_has_a_skewed_interval():
    values = np.random.default_rng(1).lognormal(0, 1.2, 40)
    found = paired.ratio(values, np.ones(40))
    assert found.high - found.value > 1.2 * (found.value - found.low)


def test_no_spread_gives_an_interval_of_no_width():
    assert paired.ratio([3, 6, 9, 12, 15], [1, 2, 3, 4, 5]) == (3.0, 3.0, 3.0)
    emitted, calls = counts(np.random.default_rng(0), 20)
    assert paired.ratio_of_ratios(emitted, calls, emitted, calls) == (1.0, 1.0, 1.0)


def test_pairing_narrows_the_interval_of_correlated_prompts():
    rng = np.random.default_rng(0)
    emitted, calls = counts(rng, 60)
    better = emitted + rng.binomial(calls, 0.1)
    together = paired.ratio_of_ratios(better, calls, emitted, calls)
    shuffled = rng.permutation(60)
    apart = paired.ratio_of_ratios(better, calls, emitted[shuffled], calls[shuffled])
    assert together.value == apart.value
    assert together.high - together.low < 0.5 * (apart.high - apart.low)


def test_the_same_counts_give_the_same_interval_and_more_confidence_a_wider_one():
    emitted, calls = counts(np.random.default_rng(0), 25)
    once = paired.ratio(emitted, calls)
    assert once == paired.ratio(emitted, calls)
    wider = paired.ratio(emitted, calls, level=0.99)
    assert wider.low < once.low < once.high < wider.high


def test_many_prompts_take_no_memory_to_speak_of():
    rng = np.random.default_rng(2)
    tested = rng.integers(5, 20, 20_000)
    accepted = rng.binomial(tested, 0.7)
    tracemalloc.start()
    found = paired.ratio(accepted, tested, resamples=1_000)  # the matrix of them has 160 MB
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    error = np.sqrt(0.7 * 0.3 / tested.sum())
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.15)
    assert found.high - found.value == pytest.approx(1.96 * error, rel=0.15)


def test_too_few_prompts_and_undefined_ratios_have_no_interval():
    few = paired.ratio([3, 5, 4, 6], [1, 2, 2, 3])
    assert (few.value, few.ends) == (18 / 8, None)
    assert np.isnan(paired.ratio([0] * 9, [0] * 9).value)
    assert paired.ratio([0] * 9, [0] * 9).ends is None


@pytest.mark.parametrize("columns", [([], []), ([1, 2], [1])])
def test_columns_that_cannot_be_paired_are_refused(columns):
    with pytest.raises(ValueError, match="columns of one length"):
        paired.ratio(*columns)
