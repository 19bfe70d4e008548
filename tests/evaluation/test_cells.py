"""What is timed, what is counted and what a row says, with engines that only pretend."""

import numpy as np
import pytest

from distillspec_jax.decoding import Completion
from distillspec_jax.evaluation import cells
from distillspec_jax.evaluation.cells import Measured, Workload
from distillspec_jax.evaluation.timing import Timing

WORKLOAD = Workload(
    prompts=[[10 + i, 1] for i in range(8)],
    max_new_tokens=4,
    batch_size=2,
    timed_prompts=5,
    repeats=2,
    seed=3,
)


class Pretender:
    """Answers every prompt with its own first id, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def generate(self, prompts, distribution, max_new_tokens, seed):
        self.asked.append(([prompt[0] for prompt in prompts], seed))
        return [Completion((prompt[0],), "length", 1, 0, (), ()) for prompt in prompts]


def test_timed_batches_first_then_the_rest_at_once():
    one, other = Pretender(), Pretender()
    timed = cells.in_turns([one, other], None, WORKLOAD)
    assert [list(unit) for unit in WORKLOAD.units] == [[0, 1], [2, 3], [4]]
    assert one.asked == other.asked, "the same prompts with the same seeds for every system"
    assert [prompts for prompts, _ in one.asked] == [[10, 11], *2 * [[10, 11]], *2 * [[12, 13]], *2 * [[14]]]
    assert timed[0].unit_tokens == [2, 2, 1]
    complete = cells.completed(timed[0], one, None, WORKLOAD)
    assert one.asked[-1][0] == [15, 16, 17]
    assert [c.tokens[0] for c in complete.completions] == list(range(10, 18))
    assert complete.timing is timed[0].timing


def test_no_two_batches_share_their_draws():
    engine = Pretender()
    cells.completed(cells.in_turns([engine], None, WORKLOAD)[0], engine, None, WORKLOAD)
    seeds = {tuple(prompts): seed for prompts, seed in engine.asked}
    assert len(set(seeds.values())) == len(seeds) == 4
    other = Pretender()
    cells.in_turns([other], None, Workload(**{**vars(WORKLOAD), "seed": 4}))
    assert not {seed for _, seed in other.asked} & set(seeds.values())


def test_counting_again_repeats_the_very_same_draws():
    engine, recorder = Pretender(), Pretender()
    timed = cells.in_turns([engine], None, WORKLOAD)[0]
    cells.completed(timed, engine, None, WORKLOAD)
    found = cells.again(timed, recorder, None, WORKLOAD)
    assert recorder.asked == [engine.asked[i] for i in (1, 3, 5, 7)]
    assert [c.tokens[0] for c in found.completions] == list(range(10, 18))
    assert found.timing is timed.timing


def test_untimed_work_is_one_call():
    engine = Pretender()
    untimed = Workload(**{**vars(WORKLOAD), "timed_prompts": 0})
    (part,) = cells.in_turns([engine], None, untimed)
    assert engine.asked == []
    assert part.timing is None
    assert len(cells.completed(part, engine, None, untimed).completions) == 8
    assert [prompts for prompts, _ in engine.asked] == [list(range(10, 18))]


def test_a_row_by_hand():
    # γ = 2: one draft accepted and a correction, then both accepted and the limit: 4 tokens in 2 calls.
    drafted = Completion((5, 6, 7, 8), "length", 2, 1, (2, 2), (2, 1))
    plain = Completion((5, 6, 7, 8), "length", 4, 0, (), ())
    seconds = np.array([[4.0, 2.0, 2.0, 2.0, 2.0], [3.0, 2.0, 2.0, 2.0, 2.0]])
    measured = Measured([drafted] * 6, Timing([[drafted]] * 5, seconds, 9.0))
    baseline = Measured([plain] * 5, Timing([[plain]] * 5, 2 * seconds, 9.0))
    row = cells.drafted_row("mine", 2, 0.25, measured, baseline, None)
    assert row["acceptance_tested"] == 3 / 4
    assert row["acceptance_joint"] == [1.0, 0.5]
    assert (row["block_efficiency"], row["block_efficiency_ci95"]) == (2.0, [2.0, 2.0])
    assert row["mbsu"] == pytest.approx(2.0 / 1.5)
    assert (row["seconds"], row["baseline_seconds"]) == (11.0, 22.0)
    assert (row["speedup"], row["speedup_ci95"]) == (2.0, [2.0, 2.0])
    assert row["timing"]["repeats"] == 2
    assert row["per_prompt"]["tested"] == [4] * 6
    assert row["quality"] == {}


def test_a_draft_that_is_never_tested_has_no_acceptance():
    idle = Completion((1,), "eos", 1, 0, (0, 0), (0, 0))
    row = cells.drafted_row("mine", 2, 0.25, Measured([idle] * 6, None), Measured([], None), None)
    assert row["acceptance_tested"] is row["acceptance_tested_ci95"] is row["speedup"] is None
    assert row["block_efficiency"] == 1.0
