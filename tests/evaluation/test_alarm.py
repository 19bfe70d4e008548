"""The alarm's evidence: against gamblers who are played one by one, and by its rate of false alarms."""

import dataclasses

import numpy as np
import pytest
from scipy.special import zeta

from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import alarm
from distillspec_jax.evaluation.alarm import BLOCK, Evidence, Spread
from distillspec_jax.evaluation.reference import ALL, Reference

RNG = np.random.default_rng(7)


def requests(number: int, rate: float, streams: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Tested and accepted drafts; requests differ in difficulty."""
    tested = RNG.integers(4, 60, (streams, number))
    own = RNG.beta(15 * rate, 15 * (1 - rate), (streams, number))
    return tested, RNG.binomial(tested, own)


def test_evidence_is_the_mean_wealth_of_gamblers_who_begin_at_every_unit():
    factors_UL = RNG.uniform(0.5, 1.6, (60, len(alarm.BETS)))
    shares = np.arange(1, 61) ** -1.2 / zeta(1.2)
    money_L, evidence_U = alarm.advance(np.zeros(len(alarm.BETS)), factors_UL, 1)
    for now in (1, 17, 60):
        begun = [shares[start] * factors_UL[start:now].prod(0).mean() for start in range(now)]
        waiting = 1 - shares[:now].sum()
        assert evidence_U[now - 1] == pytest.approx(sum(begun) + waiting)
    assert money_L.mean() + 1 - shares.sum() == pytest.approx(evidence_U[-1])


@pytest.mark.parametrize("rate", [0.9, 0.95, 0.99])
def test_evidence_stays_a_number_whatever_a_block_loses(rate):
    """All drafts are accepted for long, whatever variance was foreseen; then none is."""
    gain_B = np.repeat([rate - 1.0, rate], [64, 200])
    for variance in np.geomspace(1e-6, 1e-3, 60):
        factors_BL = alarm.block_factors(gain_B, np.full(len(gain_B), variance), rate)
        _, evidence_B = alarm.advance(np.zeros(len(alarm.EFFECTS)), factors_BL, 1)
        assert evidence_B[-1] > 20


def test_no_bet_gains_in_expectation_at_the_threshold():
    """Every gamble is fair there: the expected factor is 1 exactly, for requests of two kinds."""
    threshold, tested = 0.6, np.array([10.0, 10.0, 40.0, 40.0])
    accepted = np.array([4.0, 8.0, 20.0, 28.0])  # 0.6 on average at either length
    gain_U = alarm.gains(accepted, tested, threshold, 25.0)
    assert gain_U == pytest.approx([0.4 * 0.2, -0.4 * 0.2, 0.1, -0.1])
    factors_UL = alarm.request_factors(gain_U, threshold)
    assert factors_UL.mean(0) == pytest.approx(np.ones(len(alarm.BETS)))
    worst = alarm.request_factors(np.array([threshold - 1.0]), threshold)  # all accepted, of a long text
    assert worst.min() == pytest.approx(1 - max(alarm.BETS))


def test_bets_on_blocks_are_fair_to_gaussian_gains_of_the_variance_that_is_allowed():
    """E exp(b g - b² v / 2) = 1 for g of mean 0 and variance v; by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    variance = 2e-4
    gain_B = nodes * np.sqrt(alarm.SAFETY * variance)
    factors_BL = alarm.block_factors(gain_B, np.full(len(gain_B), variance), 0.6)
    assert (weights @ factors_BL) / weights.sum() == pytest.approx(np.ones(len(alarm.EFFECTS)))


def test_the_variance_of_a_block_is_foreseen_from_those_before_it_alone():
    gain_B = RNG.normal(0, 0.05, 40)
    variance_B, after = Spread(1e-4).foreseen(gain_B)
    other_B, _ = Spread(1e-4).foreseen(np.concatenate([gain_B[:20], gain_B[20:] + 9]))
    assert variance_B[:21] == pytest.approx(other_B[:21])
    assert variance_B[:2] == pytest.approx(1e-4)
    seen = (np.diff(gain_B[:30]) ** 2).sum() / 2
    assert variance_B[30] == pytest.approx((20 * 1e-4 + seen) / (20 + 29))
    first_B, part = Spread(1e-4).foreseen(gain_B[:13])
    again_B, _ = part.foreseen(gain_B[13:])
    assert [*first_B, *again_B] == pytest.approx(variance_B.tolist())
    assert after.count == 40


@pytest.mark.parametrize("intervals", [False, True])
def test_it_does_not_matter_in_how_many_parts_a_stream_is_read(intervals):
    tested, accepted = (x[0] for x in requests(700, 0.5))
    gain_U = alarm.gains(accepted, tested, 0.55, 60.0)
    whole = Evidence().after(gain_U, 0.55, 40.0, 4e-4, intervals)
    parts, start = Evidence(), 0
    for size in (1, 3, BLOCK - 4, 0, BLOCK, 2, 300, 1000):
        parts = parts.after(gain_U[start : start + size], 0.55, 40.0, 4e-4, intervals)
        start += size
    assert whole.alarm_at is not None
    for field in ("units", "alarm_at", "since", "open_count", "spread_count"):
        assert getattr(parts, field) == getattr(whole, field), field
    for field in ("now", "highest", "open_total", "spread_squares"):
        assert getattr(parts, field) == pytest.approx(getattr(whole, field)), field


def test_a_block_counts_when_it_is_whole_and_the_smaller_evidence_decides():
    gain_U = np.full(3 * BLOCK - 1, 0.3)  # half of what should be accepted
    found = Evidence().after(gain_U, 0.6, 1e9, 4e-4)
    assert found.blocks.units == 2
    assert found.requests.units == len(gain_U)
    assert found.now == min(found.blocks.now, found.requests.now)
    assert found.blocks.now > 1


def test_a_fall_is_dated_and_an_alarm_stays():
    before, after = requests(3_000, 0.65), requests(1_500, 0.55)
    tested, accepted = (np.concatenate(x, axis=1)[0] for x in zip(before, after, strict=True))
    gain_U = alarm.gains(accepted, tested, 0.62, 64.0)
    found = Evidence().after(gain_U, 0.62, 40.0, 4e-4)
    assert 3_000 < found.alarm_at < 4_000
    assert 2_900 < found.since < 3_200
    good = alarm.gains(*requests(5_000, 0.7)[::-1], 0.62, 64.0)[0]
    later = found.after(good, 0.62, 40.0, 4e-4)
    assert (later.alarm_at, later.since) == (found.alarm_at, found.since)
    assert later.now < 40 <= later.highest


def test_false_alarms_at_the_threshold_itself_keep_their_rate():
    """The worst case: streams whose acceptance is the threshold, and bets on requests alone.

    At a rate of 20 %, 300 streams give more than 84 alarms with a probability below 0.0005.
    """
    tested, accepted = requests(1_500, 0.6, streams=300)
    gain_SU = alarm.gains(accepted, tested, 0.6, 64.0)
    _, evidence_SU = alarm.advance(np.zeros((300, 5)), alarm.request_factors(gain_SU, 0.6), 1)
    alarms = int((evidence_SU.max(1) >= 1 / 0.2).sum())
    assert 8 < alarms <= 84, "fewer would mean that the evidence says nothing"


def test_sessions_deceive_bets_on_requests_and_not_the_smaller_evidence():
    """Eight requests of a session share a difficulty: the evidence of requests alone cries wolf."""
    rate = np.repeat(RNG.beta(8, 4.5, (40, 500)), 8, axis=1)
    tested = RNG.integers(4, 60, rate.shape)
    gain_SU = alarm.gains(RNG.binomial(tested, rate), tested, 0.635, 64.0)  # 0.64 on average
    _, alone_SU = alarm.advance(np.zeros((40, 5)), alarm.request_factors(gain_SU, 0.635), 1)
    gain_SB = gain_SU.reshape(40, -1, BLOCK).mean(-1)
    variance_SB, _ = Spread(np.full(40, 3e-4), 0, np.zeros(40), np.zeros(40)).foreseen(gain_SB)
    _, blocks_SB = alarm.advance(np.zeros((40, 5)), alarm.block_factors(gain_SB, variance_SB, 0.635), 1)
    smaller_SB = np.minimum(alone_SU[:, BLOCK - 1 :: BLOCK], blocks_SB)
    assert (alone_SU.max(1) >= 40.0).sum() >= 8
    assert (smaller_SB.max(1) >= 40.0).sum() <= 2


def reference(number: int, rate: float) -> Reference:
    tested, accepted = requests(number, rate)
    pairs = zip(tested[0].tolist(), accepted[0].tolist(), strict=True)
    return Reference("profile", {ALL: [PartialRecord(tested=t, accepted=a) for t, a in pairs]})


def test_the_threshold_is_the_lower_of_margin_and_interval():
    few, many = reference(40, 0.65), reference(800, 0.65)
    small = few.threshold(ALL, "acceptance_tested", 0.01, 0.05)
    assert small.value < 0.99 * small.estimate  # the interval decides
    large = many.threshold(ALL, "acceptance_tested", 0.05, 0.05)
    assert large.value == pytest.approx(0.95 * large.estimate)
    tested, accepted = np.array([(one.tested, one.accepted) for one in many.segments[ALL]]).T
    weight = np.minimum(tested, 2 * tested.mean())
    assert large.estimate == pytest.approx((weight * accepted / tested).sum() / weight.sum())
    pooled = many.threshold(ALL, "acceptance_tested", 0.05, 0.05, intervals=True)
    assert pooled.estimate == pytest.approx(accepted.sum() / tested.sum())
    gap = accepted - pooled.estimate * tested
    independent = pooled.estimate * (1 - pooled.estimate) * tested.sum()
    assert pooled.spread == pytest.approx((gap**2).sum() / independent)


def test_a_reference_needs_prompts_and_bounds():
    with pytest.raises(UsageError, match="profile: 9 prompts with drafts, a reference needs 10"):
        reference(9, 0.6).threshold(ALL, "acceptance_tested", 0.05, 0.05)
    records = [PartialRecord(emitted_tokens=30, target_calls=10)] * 20
    rounds = Reference("profile", {ALL: records})
    assert rounds.measures() == ["block_efficiency"]
    with pytest.raises(UsageError, match="block_efficiency is bounded by the drafts a round: give them by"):
        rounds.threshold(ALL, "block_efficiency", 0.05, 0.05)
    found = dataclasses.replace(rounds, block_size=5).threshold(ALL, "block_efficiency", 0.05, 0.05)
    assert found.shown == pytest.approx(0.95 * 3.0)


def test_delays_that_are_reckoned_are_about_those_that_come():
    known = reference(500, 0.65).threshold(ALL, "acceptance_tested", 0.05, 0.05)
    top_N, bottom_N = known.scores_N2.T
    dropped = alarm.gains(top_N * 0.9, bottom_N, known.value, known.cap)
    told = alarm.reckoned_delay(alarm.request_factors(dropped, known.value), 40.0, 1_000)
    delays = []
    for _ in range(12):
        parts = requests(1_000, 0.65), requests(3_000, 0.585)
        tested, accepted = (np.concatenate(x, axis=1)[0] for x in zip(*parts, strict=True))
        gain_U = alarm.gains(accepted, tested, known.value, known.cap)
        _, evidence_U = alarm.advance(np.zeros(5), alarm.request_factors(gain_U, known.value), 1)
        delays.append(int(np.flatnonzero(evidence_U >= 40.0)[0]) + 1 - 1_000)
    assert np.median(delays) == pytest.approx(told, rel=0.5)
    assert alarm.reckoned_delay(alarm.request_factors(-abs(dropped), known.value), 40.0, 0) == np.inf
