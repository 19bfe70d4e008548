from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distillspec_jax.decoding import SamplingDistribution, SamplingParams
from distillspec_jax.decoding.truncation import heaviest_prefix
from distillspec_jax.errors import UsageError
from distillspec_jax.vocabulary import T5_IDS, Vocabulary
from tests.decoding.reference_distribution import reference_probs

VOCAB, PADDED = 7, 9
IDS = Vocabulary(VOCAB, eos_ids=(1,), padding_ids=(0,))
log_probs = jax.jit(SamplingDistribution.log_probs)


def made(*args: Any, **kwargs: Any) -> SamplingDistribution:
    return SamplingParams(*args, **kwargs).distribution(T5_IDS)


def probs(distribution: SamplingDistribution, logits: object) -> np.ndarray:
    return np.exp(np.asarray(log_probs(distribution, jnp.asarray(logits, jnp.float32))))


# Few distinct values, so that ties are common.
logit = st.integers(-4, 4).map(lambda n: n / 2)
row = st.tuples(
    st.lists(logit, min_size=PADDED, max_size=PADDED),
    st.sampled_from([0.0, 0.3, 0.7, 1.0, 1.5, 10.0]),
    st.integers(0, VOCAB + 1),
    st.sampled_from([1e-6, 0.1, 0.37, 0.5, 0.83, 0.999, 1.0]),
)


@given(st.lists(row, min_size=4, max_size=4))
def test_every_row_agrees_with_sorting_in_float64(rows: list[tuple[list[float], float, int, float]]) -> None:
    logits, temperature, top_k, top_p = zip(*rows, strict=True)
    for logits_V, t, k, p in rows:
        assume(t == 0 or not _mass_meets(logits_V, t, k, p))
    distribution = SamplingParams(temperature, top_k, top_p).distribution(IDS)
    # The same distribution for both positions of an axis between row and vocabulary.
    twice = probs(_truncating(distribution), np.repeat(np.array(logits)[:, None], 2, axis=1))
    for b, (logits_V, t, k, p) in enumerate(rows):
        expected = reference_probs(np.array(logits_V), t, k, p, vocab_size=VOCAB)
        np.testing.assert_allclose(twice[b], [expected, expected], atol=2e-6)
        assert ((twice[b] > 0) == (expected > 0)).all()


def _mass_meets(logits_V: list[float], t: float, k: int, p: float) -> bool:
    """Whether some prefix weighs p to within rounding: both answers would be right."""
    mass = np.sort(reference_probs(np.array(logits_V), t, k, vocab_size=VOCAB))[::-1].cumsum()
    return bool((abs(mass - p) < 1e-5).any()) and p < 1


def _truncating(distribution: SamplingDistribution) -> SamplingDistribution:
    """One compiled form for all examples."""
    return distribution.replace(truncates=True)


def test_without_truncation_nothing_is_sorted_and_nothing_changes() -> None:
    logits = jax.random.normal(jax.random.key(0), (3, PADDED))
    distribution = SamplingParams([0.0, 0.5, 2.0]).distribution(IDS)
    assert not distribution.truncates
    np.testing.assert_allclose(
        probs(distribution, logits), probs(_truncating(distribution), logits), atol=1e-7
    )


def test_hand_computed_order_of_the_steps() -> None:
    # Softmax of 1..4 would be [.1, .2, .3, .4]; id 0 is padding, so [0, 2, 3, 4] / 9.
    logits = np.log([[1.0, 2.0, 3.0, 4.0]])
    np.testing.assert_allclose(probs(made(), logits), [[0, 2 / 9, 3 / 9, 4 / 9]], rtol=1e-5)
    # At T = 1/2 the weights are squared: [0, 4, 9, 16] / 29.
    np.testing.assert_allclose(probs(made(0.5), logits), [[0, 4 / 29, 9 / 29, 16 / 29]], rtol=1e-5)
    # Top-2 leaves [3, 4] / 7; the mass 4 / 7 < 0.6 needs both, although 0.6 of the whole distribution would,
    # too...
    np.testing.assert_allclose(probs(made(1.0, 2, 0.6), logits), [[0, 0, 3 / 7, 4 / 7]], rtol=1e-5)
    # ... and 0.5 needs one only because top-k is renormalised first (4 / 9 < 0.5 < 4 / 7).
    np.testing.assert_allclose(probs(made(1.0, 2, 0.5), logits), [[0, 0, 0, 1]], rtol=1e-5)


def test_ties_go_to_the_lowest_id() -> None:
    logits = [[9.0, 1.0, 2.0, 2.0, 2.0]]
    assert probs(made(0.0), logits).tolist() == [[0, 0, 1, 0, 0]]
    np.testing.assert_allclose(probs(made(1.0, 2), logits), [[0, 0, 0.5, 0.5, 0]], rtol=1e-6)
    np.testing.assert_allclose(probs(made(1.0, 3, 0.6), logits), [[0, 0, 0.5, 0.5, 0]], rtol=1e-6)
    zeros = [[9.0, -1.0, -0.0, 0.0, -0.0]]
    np.testing.assert_allclose(probs(made(1.0, 1), zeros), [[0, 0, 1, 0, 0]])


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-6, 1e30])
def test_extreme_temperatures_and_logits_stay_finite(temperature: float) -> None:
    logits = [[0.0, -3e38, 3e38, 1e38, -np.inf]]
    found = probs(made(temperature, 4, 0.9), logits)
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1)
    assert found[0, 0] == 0
    assert found[0, 4] == 0


def test_a_temperature_below_the_normal_numbers_is_0() -> None:
    distribution = made(1e-40)
    assert distribution.temperature == 0
    # The distribution is a constant of the program.
    assert jax.jit(lambda logits: distribution.log_probs(logits))(jnp.arange(4.0)[None]).argmax() == 3


def test_excluded_and_padded_ids_have_no_probability() -> None:
    distribution = SamplingParams(1.0).distribution(Vocabulary(4, (1,), (0, 2)))
    np.testing.assert_allclose(probs(distribution, [[50.0, 0.0, 50.0, 0.0, 50.0]]), [[0, 0.5, 0, 0.5]])


def test_the_distribution_of_some_ids_is_that_of_all_with_nothing_beside_them() -> None:
    """An excluded id and one past the vocabulary among them, and a tie at the top."""
    ids = np.array([0, 2, 3, 5, 8])
    listed = np.array([[9.0, 1.0, 1.0, 0.5, 9.0], [9.0, 0.0, 2.0, 2.0, 9.0], [0.0, 3.0, 2.5, 1.0, 9.0]])
    wide = np.full((3, PADDED), -np.inf)
    wide[:, ids] = listed
    distribution = SamplingParams([0.0, 0.7, 1.5], [0, 0, 2]).distribution(IDS)
    found = np.exp(np.asarray(distribution.log_probs(jnp.asarray(listed, jnp.float32), tuple(ids.tolist()))))
    assert not found[:, [0, 4]].any()
    np.testing.assert_allclose(found[:, 1:4], probs(distribution, wide)[:, ids[1:4]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature, top_k", [(0.0, 0), (1.0, 0), (1.0, 2)])
def test_logits_that_are_not_finite_give_nan_in_their_row_alone(
    bad: float, temperature: float, top_k: int
) -> None:
    found = probs(made(temperature, top_k), [[0.0, 1.0, bad], [0.0, 1.0, 2.0]])
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()


@pytest.mark.parametrize("top_k", [2**32 + 1, 2**70, [2**33, 2**70, 4]])
def test_a_top_k_beyond_the_vocabulary_keeps_it_whole(top_k: int | list[int]) -> None:
    logits = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    found = probs(made(1.0, top_k), logits)
    assert (found[:2, 1:] > 0).all()
    assert (found[2, 1:] > 0).sum() == 4


def test_new_values_compile_nothing() -> None:
    logits = jnp.zeros((2, 5))
    log_probs(made([0.1, 1.0], [1, 2], 0.9), logits)
    before = log_probs._cache_size()
    log_probs(made([0.0, 2.0], [4, 0], 0.1), logits)
    assert log_probs._cache_size() == before


@pytest.mark.parametrize(
    "values, culprit",
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": [1.0, -1.0]}, "temperature is -1.0"),
        ({"temperature": 10**400}, "temperature is inf, must be 0 or more and finite"),
        ({"temperature": [1, -(10**400)]}, "temperature is -inf"),
        ({"top_p": 10**400}, r"top_p is inf, must be in \(0, 1\]"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k is 1.5"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": [[0.5]]}, "top_p has shape"),
        ({"temperature": "abc"}, "temperature is 'abc', must be a number"),
        ({"top_k": ["3"]}, r"top_k is \['3'\], must be a number"),
        ({"top_p": None}, "top_p is None, must be a number"),
    ],
)
def test_impossible_values_are_named(values: dict[str, Any], culprit: str) -> None:
    with pytest.raises(UsageError, match=culprit):
        SamplingParams(**values)


def test_a_vocabulary_has_at_least_one_id() -> None:
    with pytest.raises(UsageError, match="vocab_size is 0"):
        Vocabulary(0, eos_ids=(1,), padding_ids=())


def test_values_of_rows_are_hashable_and_compare_by_value() -> None:
    rows = SamplingParams(np.array([0.0, 0.5]), [0, 3])
    assert rows == SamplingParams((0.0, 0.5), (0, 3))
    assert len({rows, SamplingParams([0.0, 0.5], [0, 3])}) == 1


@given(
    st.lists(st.integers(-3, 3), min_size=6, max_size=6),
    st.lists(st.integers(0, 4), min_size=6, max_size=6),
    st.integers(1, 30),
)
def test_the_heaviest_prefix_is_the_shortest_that_weighs_enough(
    values: list[int], weights: list[int], target: int
) -> None:
    order = sorted(range(6), key=lambda v: (-values[v], v))
    mass = np.cumsum([weights[v] for v in order])
    expected = np.zeros(6, bool)
    expected[order[: int(np.argmax(mass >= target)) + 1 if mass[-1] >= target else 6]] = True
    as_float = [jnp.asarray(x, jnp.float32) for x in (values, weights, [target])]
    found = np.asarray(jax.jit(heaviest_prefix)(*as_float))
    # A weightless token may be marked or not.
    weighty = np.array(weights) > 0
    assert found[weighty].tolist() == expected[weighty].tolist()
