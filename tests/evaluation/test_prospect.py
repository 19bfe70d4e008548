"""The prospect of a training, against sums by hand and other formulas."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from distillspec_jax.acceptance import Record
from distillspec_jax.evaluation import prospect
from distillspec_jax.evaluation.paired import Interval

ROUNDS = 20


def records(efficiency: float, prompts: int = 60, spread: float = 0.0, seed: int = 0) -> list[Record]:
    """Prompts of 20 rounds each that emit so many tokens a round."""
    noise_N = np.random.default_rng(seed).normal(0, spread, prompts)
    tokens_N = np.round(ROUNDS * efficiency + noise_N).astype(int)
    return [Record(emitted_tokens=t, target_calls=ROUNDS, tested=40, accepted=t - ROUNDS) for t in tokens_N]


def foresee(before, after, **more):
    known = {"seconds_per_round": 0.01, "pilot_steps": 25, "pilot_seconds": 50.0, "steps": 100}
    return prospect.foresee(before, after, **{**known, "block_size": 5, **more})


def test_by_hand():
    """2.0 tokens a call become 2.2: 10 %, and by four times the steps 20 %, since the root of 4 is 2."""
    found = foresee(records(2.0), records(2.2))
    assert found.seen == pytest.approx((1.1, 1.1, 1.1))
    assert found.gain == pytest.approx((1.2, 1.1, 1.2))  # at least what is there already
    assert found.training_seconds == 250.0  # 2 s a step, 25 + 100 steps
    assert found.seconds_a_request == pytest.approx(0.2)
    assert found.saved == pytest.approx((0.2 / 6, 0.2 / 11, 0.2 / 6))
    assert found.requests == pytest.approx((7500, 7500, 13750))


def test_a_loss_is_extrapolated_and_no_gain_is_promised_of_it():
    """The cautious end was that of the pilot, as if a training that harms came to a stop."""
    found = foresee(records(2.0), records(1.9))
    assert found.gain == pytest.approx((0.9, 0.9, 0.95))
    assert found.saved.high < 0
    assert found.requests == (math.inf, math.inf, math.inf)


def test_no_more_tokens_a_call_than_a_block_has():
    """A long training was foreseen to emit 9 tokens of blocks of 5."""
    found = foresee(records(3.0), records(4.0), steps=10_000)
    assert found.gain == pytest.approx((2.0, 4 / 3, 2.0))
    assert foresee(records(3.0), records(4.0), steps=10_000, block_size=None).gain.value > 7
    assert foresee(records(2.0), records(1.5), steps=10_000).gain.value == pytest.approx(0.5)


def of(gain, requests=(10_000.0, 5_000.0, 20_000.0)):
    found = foresee(records(2.0), records(2.2))
    return dataclasses.replace(found, gain=Interval(*gain), requests=Interval(*requests))


@pytest.mark.parametrize(
    ("gain", "requests", "decision"),
    [
        ((1.1, 1.05, 1.2), (10_000, 5_000, 20_000), ("go", None)),
        ((1.1, 1.02, 1.2), (10_000, 5_000, 20_000), ("go", None)),
        ((1.1, 1.01, 1.2), (10_000, 5_000, 20_000), ("not enough", "gain")),
        ((1.0, 0.98, 1.01), (math.inf, math.inf, math.inf), ("no-go", "gain")),
        ((1.1, 1.05, 1.2), (60_000, 40_000, 90_000), ("no-go", "cost")),
        ((1.1, 1.05, 1.2), (25_000, 20_000, 31_000), ("not enough", "cost")),
    ],
)
def test_it_is_decided_where_both_ends_agree(gain, requests, decision):
    assert of(gain, requests).decide(0.02, 30_000) == decision


def test_the_prompts_that_tell():
    """By the normal approximation: (1.645 + 0.842) standard deviations of the logarithm are the gain."""
    before, after = records(2.0, 40, 4.0), records(2.1, 40, 4.0, seed=1)
    found = prospect.prompts_to_tell(before, after, 0.01)
    tokens = [np.array([one.emitted_tokens for one in some]) for some in (after, before)]
    influence_N = tokens[0] / tokens[0].mean() - tokens[1] / tokens[1].mean()
    gain = math.log(tokens[0].sum() / tokens[1].sum() / 1.01)
    about = ((stats.norm.ppf(0.95) + stats.norm.ppf(0.8)) * influence_N.std(ddof=1) / gain) ** 2
    assert about > 20
    assert about <= found <= about + 3
    assert prospect.prompts_to_tell(before, after, 0.2) is None
    assert prospect.prompts_to_tell(before, before, 0.0) is None
