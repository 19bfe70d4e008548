"""The acceptance record on counts small enough to do by hand, and its identities on simulated rounds."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillspec_jax import acceptance, metrics
from distillspec_jax.acceptance import AccountingError, Pace, Record
from distillspec_jax.decoding import Completion
from tests.evaluation import simulated

# γ = 2. The first prompt: a rejection at once, one draft accepted, both and a bonus: 1 + 2 + 3 tokens.
FIRST = Completion(tuple(range(2, 8)), "length", 3, 0, (3, 2), (2, 1), 3.5, 6)
# The second: both accepted and the second is EOS, so the round adds nothing of its own.
SECOND = Completion((5, 1), "eos", 1, 1, (1, 1), (1, 1), 1.5, 2)


def test_numbers_by_hand():
    total = FIRST.record + SECOND.record
    assert total.value("acceptance_tested") == 5 / 7
    assert total.value("acceptance_drafted") == 5 / 8
    assert total.value("accepted_length") == 9 / 4
    assert total.value("block_efficiency") == 8 / 4
    assert total.value("overlap") == 5.0 / 7
    assert total.acceptance_joint == [3 / 4, 2 / 4]
    assert total.acceptance_conditional == [3 / 4, 2 / 3]
    assert total.histogram == [1, 1, 2]
    assert (total.texts, total.cuts, total.whole_rounds) == (2, 1, 2)
    assert [record.emitted_tokens for record in (FIRST.record, SECOND.record)] == [6, 2]
    assert [record.tested for record in (FIRST.record, SECOND.record)] == [5, 2]
    assert [record.accepted for record in (FIRST.record, SECOND.record)] == [3, 2]


def test_decoding_without_a_draft_emits_a_token_a_call():
    completions = Completion((4, 5, 1), "eos", 3, 0, (), ()), Completion((4,), "length", 1, 0, (), ())
    total = Record.total(acceptance.checked([completion.record for completion in completions]))
    assert total.value("block_efficiency") == 1.0
    assert math.isnan(total.value("acceptance_tested"))
    assert total.acceptance_joint == []
    assert total.histogram == [4]
    assert total.sums("overlap") is None


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": FIRST.tokens[:-1]},
        {"target_calls": 4},
        {"cut_rounds": 1},
        {"accepted_at": (2, 2), "target_calls": 2},  # the identity holds, but 2 of 3 rounds cannot test 3
        {"accepted_at": (1, 2)},  # the second position accepted oftener than the first
        {"drafted": 4},  # five were tested
    ],
)
def test_counts_that_contradict_each_other_are_refused(change):
    changed = dataclasses.replace(FIRST, **change)
    with pytest.raises(AccountingError, match="prompt 1: "):
        acceptance.checked([SECOND.record, changed.record])
    acceptance.checked([SECOND.record, FIRST.record])


def test_what_one_source_does_not_tell_is_not_known_of_the_sum():
    told, untold = FIRST.record, dataclasses.replace(FIRST.record, drafted=None, tested_at=None, overlap=None)
    total = told + untold
    assert (total.drafted, total.tested_at, total.overlap) == (None, None, None)
    assert (total.accepted_at, total.tested) == ((4, 2), 10)
    assert total.sums("acceptance_drafted") is total.acceptance_conditional is total.reach is None
    assert math.isnan(total.value("acceptance_drafted"))
    assert Record.total([]).texts == 0


# --- rounds as an engine makes them ---


@dataclasses.dataclass(frozen=True)
class Text:
    """A text as its rounds.

    Attributes:
      rounds: of each the drafts offered, how many of them the target agrees with, and after how many of its
        tokens the text ends by its content (0: not at all).
    """

    block_size: int
    limit: int
    rounds: tuple[tuple[int, int, int], ...]

    def decode(self) -> tuple[Record, list[tuple[int, int, int]]]:
        """Decodes token by token, as one would with pencil and paper; nothing is shared with the record."""
        emitted = drafted = cut = 0
        found = []
        for offered, agreed, end in self.rounds:
            if emitted >= self.limit:
                break
            drafted += offered
            tested = accepted = here = 0
            over = False
            for i in range(offered):
                if emitted + here >= self.limit or over:
                    break
                tested += 1
                if i >= agreed:
                    break
                accepted += 1
                here += 1
                over = here == end
            if over or emitted + here >= self.limit:
                cut += 1
                emitted += here
                found.append((tested, accepted, here))
                break
            here += 1  # the target's own
            emitted += here
            found.append((tested, accepted, here))
            if here == end:
                break
        record = Record.of_rounds(found, drafted)
        return dataclasses.replace(record, cut_rounds=cut), found


@st.composite
def texts(draw, fixed: bool) -> Text:
    block_size = draw(st.integers(1, 5))
    offered = st.just(block_size) if fixed else st.integers(0, block_size)
    one = st.tuples(offered, st.integers(0, 6), st.integers(0, 7))
    rounds = draw(st.lists(one, min_size=1, max_size=9))
    return Text(block_size, draw(st.integers(1, 20)), tuple(rounds))


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(st.lists(texts(fixed=False), min_size=1, max_size=4))
def test_the_identities_hold_whatever_was_offered_and_wherever_texts_end(given_texts):
    decoded = [text.decode() for text in given_texts]
    records, rounds = [record for record, _ in decoded], [one for _, found in decoded for one in found]
    total = Record.total(records)
    for record in (*records, total):
        assert list(record.violations()) == []
    assert total.emitted_tokens == total.accepted + total.target_calls - total.cut_rounds
    by_hand = [sum(accepted == i for _, accepted, _ in rounds) for i in range(len(total.histogram))]
    assert total.histogram == by_hand
    assert sum(total.histogram) == total.target_calls == len(rounds)
    rejected = sum(tested > accepted for tested, accepted, _ in rounds)
    assert total.tested == total.accepted + rejected
    assert total.whole_rounds == len(rounds) - rejected
    merged = metrics.merge({"a": records[0].mean("block_efficiency")}, {})
    for record in records[1:]:
        merged = metrics.merge(merged, {"a": record.mean("block_efficiency")})
    assert merged["a"].compute() == pytest.approx(total.value("block_efficiency"), nan_ok=True)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(texts(fixed=True))
def test_with_full_blocks_tested_drafts_follow_from_the_histogram(text):
    record, rounds = text.decode()
    size = text.block_size
    assert record.drafted == size * record.target_calls
    all_of_them = sum(accepted == size for _, accepted, _ in rounds)
    short_cut = bool(record.cut_rounds) and rounds[-1][1] < size
    assert record.tested == record.target_calls + record.accepted - all_of_them - short_cut
    if not record.cut_rounds:
        assert record.tested == record.target_calls + record.accepted - all_of_them
    wide = (0,) * (size - len(record.accepted_at))
    record = dataclasses.replace(
        record, tested_at=(*record.tested_at, *wide), accepted_at=(*record.accepted_at, *wide)
    )
    assert list(record.violations(size)) == []


COUNTS = ("emitted_tokens", "target_calls", "tested", "accepted")


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(texts(fixed=True), st.sampled_from(COUNTS), st.sampled_from([-3, -2, 2, 3]))
def test_a_count_that_is_off_is_found(text, name, by):
    """By two or more: a single token less is a text that was cut, in a file that does not count cuts."""
    record, _ = text.decode()
    wrong = dataclasses.replace(record, **{name: getattr(record, name) + by})
    assert list(wrong.violations())
    bare = dataclasses.replace(wrong, cut_rounds=None, drafted=None, tested_at=None, accepted_at=None)
    if name != "tested":
        assert list(bare.violations())


def test_what_a_block_cannot_hold_is_found():
    record = FIRST.record
    assert list(record.violations(2)) == []
    assert [said.split(": ")[0] for said in record.violations(1)] == [
        "6 drafted in 3 rounds of at most 1",
    ]
    lost = dataclasses.replace(record, tested=4, tested_at=(3, 1))
    assert list(lost.violations()) == [], "a drafter may offer fewer"
    assert [said.split(": ")[1] for said in lost.violations(2)] == [
        "1 rounds neither rejected nor accepted all, 0 cut"
    ]


# --- formulas ---


def test_independent_drafts_reach_the_expected_block_efficiency():
    assert acceptance.expected_block_efficiency(0.5, 2) == 1.75
    assert acceptance.expected_block_efficiency(1.0, 5) == 6
    assert acceptance.expected_block_efficiency(0.0, 5) == 1
    rng = np.random.default_rng(0)
    total = Record.total(
        acceptance.checked([simulated.decode(0.7, 4, rng).record for _ in range(300)]),
    )
    expected = acceptance.expected_block_efficiency(0.7, 4)
    # The cut at the end of a prompt loses part of a round, of about 20.
    assert total.value("block_efficiency") == pytest.approx(expected, rel=0.03)
    assert total.value("acceptance_tested") == pytest.approx(0.7, abs=0.01)
    assert total.reach == pytest.approx([0.7**i for i in range(1, 5)], abs=0.02)


def test_memory_bound_speedup():
    assert acceptance.memory_bound_speedup(3.0, 0.1, 5) == 2.0
    assert acceptance.memory_bound_speedup(1.0, 0.0, 0) == 1.0


def test_a_pace_by_hand():
    pace = Pace(texts=4, tokens=60, seconds=12.0, concurrency=1, latency_N=[1.0, 2.0, 3.0, 6.0])
    assert pace.tokens_per_second == 5.0
    assert (pace.latency(0.5), pace.latency(0.95)) == pytest.approx((2.5, 5.55))
    assert pace.first_token(0.5) is None
    assert dataclasses.replace(pace, latency_N=None).latency(0.5) is None
