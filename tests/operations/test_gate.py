"""The gate, on drafts whose gains and losses are known."""

import dataclasses
import re

import numpy as np
import pytest

from distillspec_jax.acceptance import Record
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import prospect
from distillspec_jax.operations import gate
from distillspec_jax.operations.gate import Conditions, Measured

ROUNDS = 20


def records(efficiency: float, prompts: int, seed: int = 0) -> list[Record]:
    """Prompts of 20 rounds each that emit so many tokens a round, with a difficulty of their own."""
    difficulty_N = np.random.default_rng(seed).normal(0, 2, prompts)
    tokens_N = np.round(ROUNDS * efficiency + difficulty_N).astype(int)
    return [
        Record(emitted_tokens=t, target_calls=ROUNDS, tested=2 * ROUNDS, accepted=t - ROUNDS)
        for t in tokens_N.tolist()
    ]


def measured(new: float, old: float, prompts: int = 60) -> Measured:
    return Measured(new=records(new, prompts), old=records(old, prompts, 1), seconds_per_round=0.01)


STABLE = measured(2.0, 2.0)


@pytest.mark.parametrize(
    ("candidate", "seconds", "outcome", "said"),
    [
        (measured(2.2, 2.0), 60.0, "passed", r"on new prompts, .* pay back after 3,[23]\d\d requests"),
        (measured(2.0, 2.0), 60.0, "refused", r"no gain of 1.0% on new prompts: \+0.0 %"),
        (measured(1.8, 2.0), 60.0, "refused", "pay back never, not within"),
        (measured(2.2, 1.8), 60.0, "refused", r"beyond 3.0% on old prompts cannot be ruled out: -10.0 %"),
        (measured(2.2, 2.0), 6000.0, "refused", r"6,000 s of training pay back after 3[23]\d,"),
        (measured(2.2, 2.0, 20), 60.0, "not enough", "^20 new held-out prompts, the gate needs 30; 20 old"),
    ],
)
def test_the_outcome_and_why(candidate, seconds, outcome, said):
    """The saving by hand: 20 rounds of 10 ms a request, of which 1 - 1 / 1.1 are spared, 18.2 ms."""
    stable = measured(2.0, 2.0, len(candidate.new))
    found = gate.judge(stable, candidate, seconds, Conditions())
    assert found.outcome == outcome
    assert re.search(said, found.reason)


def test_a_gain_that_may_be_chance_is_none():
    """The value was compared, and not the lower end of its interval."""
    lucky = [dataclasses.replace(one) for one in STABLE.new]
    lucky[0] = Record(emitted_tokens=160, target_calls=ROUNDS, tested=160, accepted=140)
    found = gate.judge(STABLE, dataclasses.replace(STABLE, new=lucky), 0.0, Conditions())
    assert found.new.value > 1.04
    assert found.outcome == "refused"


@pytest.mark.parametrize(
    ("new", "old", "seconds", "undecided"),
    [
        (2.2, 1.96, 60.0, True),
        (2.03, 2.0, 60.0, True),
        (2.2, 1.8, 60.0, False),  # surely lost
        (1.9, 1.96, 60.0, False),  # surely no gain
        (2.2, 1.96, 6000.0, False),  # never pays
        (2.2, 2.2, 60.0, False),  # passed
    ],
)
def test_more_prompts_may_tell(new, old, seconds, undecided):
    """Prompts that differ by 5 % of block efficiency, 60 of them: intervals of 2 % each way."""
    candidate = Measured(new=records(new, 60, 2), old=records(old, 60, 3), seconds_per_round=0.01)
    found = gate.judge(STABLE, candidate, seconds, Conditions(), looks=2)
    assert found.undecided == undecided
    once = gate.judge(STABLE, candidate, seconds, Conditions())
    assert found.old.low < once.old.low  # the second look has its part of the error
    assert found.as_json()["old"]["ci95"] == found.old.ends


def test_without_old_prompts_nothing_passes():
    found = gate.judge(
        dataclasses.replace(STABLE, old=[]),
        dataclasses.replace(measured(3.0, 2.0), old=[]),
        0.0,
        Conditions(),
    )
    assert found.outcome == "not enough"
    assert found.as_json()["old"] == {"ratio": None, "ci90": None}


def test_the_saving_is_rounds_that_are_spared():
    tokens = sum(one.emitted_tokens for one in STABLE.new) / len(STABLE.new)
    efficiency = tokens / ROUNDS
    seconds = [0.01 * tokens / (efficiency * gain) for gain in (1.0, 1.25)]
    assert prospect.saving(STABLE.new, STABLE.seconds_per_round, 1.25) == pytest.approx(
        seconds[0] - seconds[1]
    )
    assert prospect.saving(STABLE.new, STABLE.seconds_per_round, 0.8) < 0
    assert prospect.saving(STABLE.new, STABLE.seconds_per_round, float("nan")) == 0


@pytest.mark.parametrize("field", ["least_gain", "margin", "pay_back_requests", "least_prompts"])
def test_impossible_conditions(field):
    with pytest.raises(UsageError, match=f"--{field}=-1: must be at least"):
        Conditions(**{field: -1})
