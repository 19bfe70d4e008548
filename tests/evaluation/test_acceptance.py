"""The metrics contract on counts small enough to do by hand."""

import dataclasses

import numpy as np
import pytest

from distillspec_jax.decoding import Completion
from distillspec_jax.evaluation import acceptance
from distillspec_jax.evaluation.acceptance import AccountingError, Tally
from tests.evaluation import simulated

# γ = 2. The first prompt: a rejection at once, one draft accepted, both and a bonus: 1 + 2 + 3 tokens.
FIRST = Completion(tuple(range(2, 8)), "length", 3, 0, (3, 2), (2, 1), 3.5)
# The second: both accepted and the second is EOS, so the round adds nothing of its own.
SECOND = Completion((5, 1), "eos", 1, 1, (1, 1), (1, 1), 1.5)


def test_numbers_by_hand():
    tally = Tally.of([FIRST, SECOND])
    assert acceptance.acceptance_tested(tally) == 5 / 7
    assert acceptance.acceptance_joint(tally) == [3 / 4, 2 / 4]
    assert acceptance.block_efficiency(tally) == 8 / 4
    assert acceptance.overlap(tally) == 5.0 / 7
    assert tally.emitted_N.tolist() == [6, 2]
    assert tally.tested_N.tolist() == [5, 2]
    assert tally.accepted_N.tolist() == [3, 2]


def test_decoding_without_a_draft_emits_a_token_a_call():
    tally = Tally.of([Completion((4, 5, 1), "eos", 3, 0, (), ()), Completion((4,), "length", 1, 0, (), ())])
    assert acceptance.block_efficiency(tally) == 1.0
    assert np.isnan(acceptance.acceptance_tested(tally))
    assert acceptance.acceptance_joint(tally) == []
    assert acceptance.overlap(tally) is None


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": FIRST.tokens[:-1]},
        {"target_calls": 4},
        {"cut_rounds": 1},
        {"accepted_at": (2, 2), "target_calls": 2},  # the identity holds, but 2 of 3 rounds cannot test 3
        {"accepted_at": (1, 2)},  # the second position accepted oftener than the first
    ],
)
def test_counts_that_contradict_each_other_are_refused(change):
    with pytest.raises(AccountingError, match="prompt 1: "):
        Tally.of([SECOND, dataclasses.replace(FIRST, **change)])


def test_no_completions_are_refused():
    with pytest.raises(ValueError, match="no completions"):
        Tally.of([])


def test_independent_drafts_reach_the_expected_block_efficiency():
    assert acceptance.expected_block_efficiency(0.5, 2) == 1.75
    assert acceptance.expected_block_efficiency(1.0, 5) == 6
    assert acceptance.expected_block_efficiency(0.0, 5) == 1
    rng = np.random.default_rng(0)
    tally = Tally.of([simulated.decode(0.7, 4, rng) for _ in range(300)])
    expected = acceptance.expected_block_efficiency(0.7, 4)
    # The cut at the end of a prompt loses part of a round, of about 20.
    assert acceptance.block_efficiency(tally) == pytest.approx(expected, rel=0.03)
    assert acceptance.acceptance_tested(tally) == pytest.approx(0.7, abs=0.01)


def test_memory_bound_speedup():
    assert acceptance.memory_bound_speedup(3.0, 0.1, 5) == 2.0
    assert acceptance.memory_bound_speedup(1.0, 0.0, 0) == 1.0
