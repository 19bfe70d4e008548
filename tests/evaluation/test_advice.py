"""What follows from costs and acceptance."""

from __future__ import annotations

import dataclasses

import pytest

from distillspec_jax.decoding.engine import Completion
from distillspec_jax.decoding.round_costs import RoundCosts, tokens_per_round
from distillspec_jax.evaluation.advice import Advice, SizeAdvice


def advice(costs: RoundCosts, rate: float) -> Advice:
    def size(block_size: int) -> SizeAdvice:
        tokens = tokens_per_round([rate], block_size)
        speedup, break_even = costs.speedup(block_size, tokens), costs.break_even(block_size)
        return SizeAdvice(block_size, costs.seconds[block_size], 0, 0, tokens, speedup, break_even)

    sizes = tuple(size(block_size) for block_size in costs.seconds if block_size)
    return Advice("t", "d", 1, 0.0, "cpu", costs.seconds[0], (0, 0), rate, 10, 100, sizes)


def test_the_best_size_and_break_even_are_named() -> None:
    found = advice(RoundCosts({0: 1.0, 1: 1.4, 3: 1.9}), 0.8)
    assert (found.best.block_size, found.pays) == (3, True)
    assert found.best.speedup == pytest.approx((1 + 0.8 + 0.64 + 0.512) / 1.9)
    assert found.sentence.startswith(
        "best block size: 3, predicted speed-up ×1.55. Break-even acceptance: 0.40"
    )


def test_a_poor_draft_does_not_pay_and_the_rate_that_would_is_named() -> None:
    found = advice(RoundCosts({0: 1.0, 1: 1.4, 3: 1.9}), 0.2)
    assert not found.pays
    assert found.sentence.startswith("speculation does not pay here: at best ×0.86")
    assert "Break-even acceptance: 0.40" in found.sentence
    assert "measured: 0.20" in found.sentence


def test_where_no_draft_could_pay_it_says_so() -> None:
    found = advice(RoundCosts({0: 1.0, 1: 2.2, 3: 4.5}), 1.0)
    assert not found.pays
    assert "No acceptance rate makes it pay" in found.sentence


def test_reading_the_prompt_dilutes_a_speedup() -> None:
    """Amdahl: with a start as long as the text's decoding, twice as fast rounds give four thirds."""
    costs = RoundCosts({0: 1.0, 3: 1.5}, {0: 10.0, 3: 10.0})
    assert costs.speedup(3, 3.0, length=10) == pytest.approx(4 / 3)
    assert costs.speedup(3, 3.0) == pytest.approx(2)


def test_the_reach_of_drafts_is_pooled_position_by_position() -> None:
    first = Completion((5,) * 7, "length", 4, 0, (4, 2), (2, 1))
    second = dataclasses.replace(first, tested_at=(4, 4), accepted_at=(4, 2))
    assert (first.record + second.record).reach == pytest.approx([6 / 8, 6 / 8 * 3 / 6])
