"""Two arms compared at any time: how often a bound is wrong, and how soon a difference shows."""

import math

import numpy as np
import pytest

from distillspec_jax.operations import two_arms

LEVEL = 240.0


def streams(rate, streams, units, seed=0):
    """Requests of 8 to 80 tested drafts, each with a difficulty of its own: `[S, U]` accepted and tested."""
    rng = np.random.default_rng(seed)
    tested = rng.integers(8, 80, (streams, units))
    own = rng.beta(rate * 8, (1 - rate) * 8, (streams, units))
    return rng.binomial(tested, own), tested


def test_the_bounds_are_those_of_the_bets():
    """Against wealth that is computed unit by unit, mean by mean, on a fine grid."""
    accepted, tested = (one[0, :60] for one in streams(0.7, 1, 60))
    found = two_arms.bounds(accepted, tested, 20.0)

    def wealth(mean, score_U):
        gain_U = np.minimum(tested, 32) / 32 * (mean - score_U)
        return np.mean([math.prod(1 + bet * gain_U / (1 - mean)) for bet in (0.8, 0.4, 0.2, 0.1, 0.05)])

    grid = np.linspace(0.001, 0.999, 999)
    high = min(mean for mean in grid if wealth(mean, accepted / tested) >= 20)
    low = 1 - min(mean for mean in grid if wealth(mean, 1 - accepted / tested) >= 20)
    assert abs(found.high - high) < 0.0011
    assert abs(found.low - low) < 0.0011
    assert found.value == accepted.sum() / tested.sum()


def test_nothing_is_known_of_nothing():
    found = two_arms.bounds(np.zeros(0), np.zeros(0), LEVEL)
    assert (found.units, found.low, found.high) == (0, 0.0, 1.0)


def test_bounds_are_rarely_wrong_however_often_one_looks():
    """At a level of 10, each side of 1 stream in 10 may ever be wrong.

    Of 40 streams that are wrong with a probability of 0.2, 16 are with one of 0.003. A bet of the wrong sign
    is wrong in all of them.
    """
    rate, wrong = 0.9, 0
    accepted_SU, tested_SU = streams(rate, 40, 400, seed=1)
    for accepted_U, tested_U in zip(accepted_SU, tested_SU, strict=True):
        looks = (two_arms.bounds(accepted_U[:n], tested_U[:n], 10.0) for n in (25, 50, 100, 200, 400))
        wrong += any(not look.low <= rate <= look.high for look in looks)
    assert wrong < 16


def compared(candidate, units=2_000, margin=0.05):
    arms = [
        two_arms.bounds(*(one[0] for one in streams(rate, 1, count, seed)), LEVEL)
        for seed, (rate, count) in enumerate(((0.7, 20_000), (candidate, units)))
    ]
    return two_arms.compare(*arms, margin)


@pytest.mark.parametrize(
    ("candidate", "units", "sound", "worse"),
    [
        (0.7, 2_000, True, False),  # as good
        (0.75, 500, True, False),  # better
        (0.6, 2_000, False, True),  # worse by 14 %
        (0.665, 2_000, False, False),  # at the margin
        (0.7, 20, False, False),  # too few
        (0.7, 0, False, False),
    ],
)
def test_what_is_sure(candidate, units, sound, worse):
    found = compared(candidate, units)
    assert (found.sound, found.worse) == (sound, worse)


@pytest.mark.parametrize(
    ("factor", "sound", "worse"),
    [(1.0, True, False), (0.8, True, False), (1.1, False, False), (1.4, False, True)],
)
def test_seconds_are_compared_by_their_share_below_a_threshold(factor, sound, worse):
    """A heavy tail, of which the mean says nothing."""
    rng = np.random.default_rng(0)
    stable_U, candidate_U = 0.01 * rng.lognormal(0, 0.4, 5_000), 0.01 * rng.lognormal(0, 0.4, 3_000)
    candidate_U[::50] *= 1000.0
    found = two_arms.compare_seconds(stable_U, factor * candidate_U, 0.01, 0.1, LEVEL)
    assert (found.sound, found.worse) == (sound, worse)
