"""The choice of a block size: its arithmetic, and what it does on made-up machines and drafts."""

from __future__ import annotations

import numpy as np
import pytest

from distillspec_jax.decoding import adaptive
from distillspec_jax.decoding.adaptive import BlockSizeChoice, Pace
from distillspec_jax.decoding.round_costs import RoundCosts, tokens_per_round

COSTS = RoundCosts({0: 1.0, 1: 1.25, 3: 1.6, 5: 2.0, 7: 2.5})


def test_tokens_of_a_round_are_the_closed_form_for_independent_drafts() -> None:
    """(1 - a**(G + 1)) / (1 - a), arXiv 2211.17192; positions that nobody measured go on at the last rate."""
    for rate in (0.0, 0.3, 0.9):
        for size in (1, 4, 7):
            expected = (1 - rate ** (size + 1)) / (1 - rate)
            assert tokens_per_round([rate, rate**2], size) == pytest.approx(expected)
            assert tokens_per_round(rate ** np.arange(1, 8), size) == pytest.approx(expected)


def test_break_even_is_where_the_speedup_is_one() -> None:
    for size in (1, 3, 5, 7):
        rate = COSTS.break_even(size)
        assert rate is not None
        assert 0 < rate < 1
        assert COSTS.speedup(size, tokens_per_round([rate], size)) == pytest.approx(1)
    assert RoundCosts({0: 1.0, 1: 2.5}).break_even(1) is None


def test_break_even_counts_the_reading_of_prompts_and_the_ends_of_texts() -> None:
    costs = RoundCosts(COSTS.seconds, start={0: 5.0, 1: 6.0, 3: 6.0, 5: 6.0, 7: 6.0})
    for size in (1, 3, 5, 7):
        rate, alone = costs.break_even(size, 40), COSTS.break_even(size)
        assert rate is not None
        assert alone is not None
        assert rate > alone
        tokens = tokens_per_round(rate ** np.arange(1, size + 1), size, 40)
        assert costs.speedup(size, tokens, 40) == pytest.approx(1)
    assert RoundCosts({0: 1.0, 1: 1.2}, start={0: 1.0, 1: 20.0}).break_even(1, 20) is None


@pytest.mark.parametrize("size, length", [(1, 25), (3, 16), (7, 20), (7, 55)])
def test_a_text_s_end_cuts_its_last_block(size: int, length: int) -> None:
    """Against texts drawn draft by draft; a text that begins is not yet in its steady state: hence 2 %."""
    rng, rate = np.random.default_rng(0), 0.8
    drawn = rng.random((2000, length, size)) < rate
    ends_TR = np.cumsum(1 + np.cumprod(drawn, axis=2).sum(2), axis=1)
    calls = (ends_TR < length).sum(1) + 1
    expected = tokens_per_round(rate ** np.arange(1, size + 1), size, length)
    assert 2000 * length / calls.sum() == pytest.approx(expected, rel=0.02)


def served(
    choice: BlockSizeChoice, rate: float, runs: int, offers: float = 1.0, seed: int = 0
) -> list[tuple[int, int]]:
    """What is chosen run by run where drafts are accepted with one probability, in rounds that have any."""
    rng, chosen = np.random.default_rng(seed), []
    for _ in range(runs):
        size, rounds = choice.next()
        chosen.append((size, rounds))
        accepted = np.cumprod(rng.random((rounds, size)) < rate, axis=1)
        offered = rng.random((rounds, 1)) < offers
        choice.observe(size, rounds, (accepted & offered).sum(0))
    return chosen


@pytest.mark.parametrize("rate", [0.15, 0.5, 0.7, 0.95])
def test_it_settles_on_the_best_size(rate: float) -> None:
    promised = {size: COSTS.speedup(size, tokens_per_round([rate], size)) for size in COSTS.seconds}
    chosen = [size for size, _ in served(BlockSizeChoice(COSTS, rounds=32), rate, 60)][10:]
    assert np.mean([promised[size] for size in chosen]) > 0.97 * max(promised.values())


def test_the_median_of_costs_is_of_ratios_to_plain_rounds() -> None:
    """The same machine at three speeds; a median of seconds would mix them where a size has an outlier."""
    found = [
        RoundCosts({0: s, 3: r * s}, {0: 4 * s, 3: 5 * s}) for s, r in ((1.0, 9.0), (2.0, 1.5), (4.0, 1.5))
    ]
    middle = RoundCosts.median(found)
    assert middle == RoundCosts({0: 2.0, 3: 3.0}, {0: 8.0, 3: 10.0})
    assert RoundCosts.median([RoundCosts({0: 1.0, 3: 2.0})]) == RoundCosts({0: 1.0, 3: 2.0})


def test_a_useless_draft_costs_next_to_nothing() -> None:
    chosen = served(BlockSizeChoice(COSTS, rounds=32), 0.02, 200)
    seconds = sum(COSTS.seconds[size] * rounds for size, rounds in chosen)
    plain = sum(rounds for _, rounds in chosen)  # a round yields one token either way
    assert seconds < 1.01 * plain
    assert sum(size > 0 for size, _ in chosen) > 3  # but it goes on looking


@pytest.mark.parametrize("offers", [0.0, 1 / 6])
def test_a_drafter_that_seldom_offers_anything_is_judged_by_what_its_rounds_yield(offers: float) -> None:
    """Prompt lookup without a match: nothing is tested, and verifying costs as much as ever."""
    costs = RoundCosts({0: 1.0, 1: 1.25, 3: 1.5, 5: 1.75, 7: 2.0})
    chosen = [size for size, _ in served(BlockSizeChoice(costs, rounds=32), 0.8, 60, offers)][10:]
    assert np.mean(np.array(chosen) > 0) < 0.1


def test_it_notices_that_the_text_has_changed() -> None:
    """From a text that cannot be drafted to one that can, and back."""
    choice = BlockSizeChoice(COSTS, rounds=32)
    served(choice, 0.0, 40)
    assert served(choice, 0.95, 120)[-1][0] >= 5
    last = served(choice, 0.0, 40)[20:]
    assert set(last) <= {(0, 32), (1, choice.probe_rounds)}
    assert sum(size > 0 for size, _ in last) <= 2


@pytest.mark.parametrize("gain, speculates", [(1.02, False), (1.05, True)])
def test_a_gain_within_the_error_of_the_costs_is_left(gain: float, speculates: bool) -> None:
    choice = BlockSizeChoice(RoundCosts({0: 1.0, 1: 1.5 / gain}), rounds=32)
    choice.observe(1, 100_000, np.array([50_000]))
    assert choice.promises()[1] == pytest.approx(gain, abs=1e-3)
    assert (choice.next()[0] == 1) is speculates


def test_where_verification_costs_a_round_for_every_token_it_never_speculates_for_long() -> None:
    costs = RoundCosts({0: 1.0, 1: 2.1, 3: 4.1})
    chosen = served(BlockSizeChoice(costs, rounds=32), 1.0, 100)
    assert sum(rounds for size, rounds in chosen if size) < 0.05 * sum(rounds for _, rounds in chosen)


def test_counts_of_shorter_blocks_fill_the_front() -> None:
    choice = BlockSizeChoice(COSTS, rounds=32)
    choice.observe(1, 1000, np.array([200]))
    assert choice.reach_G()[0] == pytest.approx(0.2, abs=0.01)
    assert choice.reach_G()[6] < 1e-3


def test_rounds_between_visits_fill_the_time_that_nobody_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.02, 20.0, 20.9, 30.0, 31.0])
    monkeypatch.setattr(adaptive.time, "perf_counter", lambda: next(clock))
    pace = Pace()
    assert pace.rounds(4) == 4  # nothing is known
    pace.begun()
    pace.ended(8)
    assert pace.rounds(4) == 16  # 2.5 ms each
    pace.begun()
    pace.ended(4)
    assert pace.rounds(4) == 4  # a large model
    pace.begun()
    pace.ended(0)  # nothing ran: nothing is learnt, and nothing divided by it
    assert pace.rounds(1) == 1
