"""What is timed and what is counted, with engines that only pretend."""

import dataclasses

from distillspec_jax.decoding import Completion
from distillspec_jax.evaluation import measured
from distillspec_jax.evaluation.measured import Workload

WORKLOAD = Workload(
    prompts=[[10 + i, 1] for i in range(13)],
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
    timed = measured.in_turns([one, other], None, WORKLOAD)
    pairs = [[i, i + 1] for i in range(0, 10, 2)]
    assert [list(unit) for unit in WORKLOAD.units] == pairs, "whole batches, and as many as an interval needs"
    few = dataclasses.replace(WORKLOAD, batch_size=32)
    assert few.units == [range(13)], "fewer prompts than a batch"
    assert dataclasses.replace(few, batch_size=1).units == [range(i, i + 1) for i in range(5)]
    assert one.asked == other.asked, "the same prompts with the same seeds for every system"
    asked = [[10 + i for i in pair] for pair in pairs]
    assert [prompts for prompts, _ in one.asked] == [asked[0], *(pair for pair in asked for _ in range(2))]
    assert timed[0].unit_tokens == [2] * 5
    complete = measured.completed(timed[0], one, None, WORKLOAD)
    assert one.asked[-1][0] == [20, 21, 22]
    assert [c.tokens[0] for c in complete.completions] == list(range(10, 23))
    assert complete.timing is timed[0].timing


def test_no_two_batches_share_their_draws():
    engine = Pretender()
    measured.completed(measured.in_turns([engine], None, WORKLOAD)[0], engine, None, WORKLOAD)
    seeds = {tuple(prompts): seed for prompts, seed in engine.asked}
    assert len(set(seeds.values())) == len(seeds) == 6
    other = Pretender()
    measured.in_turns([other], None, dataclasses.replace(WORKLOAD, seed=4))
    assert not {seed for _, seed in other.asked} & set(seeds.values())


def test_counting_again_repeats_the_very_same_draws():
    engine, recorder = Pretender(), Pretender()
    timed = measured.in_turns([engine], None, WORKLOAD)[0]
    measured.completed(timed, engine, None, WORKLOAD)
    found = measured.again(timed, recorder, None, WORKLOAD)
    assert recorder.asked == [engine.asked[i] for i in (1, 3, 5, 7, 9, 11)]
    assert [c.tokens[0] for c in found.completions] == list(range(10, 23))
    assert found.timing is timed.timing


def test_untimed_work_is_one_call():
    engine = Pretender()
    untimed = dataclasses.replace(WORKLOAD, timed_prompts=0)
    (part,) = measured.in_turns([engine], None, untimed)
    assert engine.asked == []
    assert part.timing is None
    assert len(measured.completed(part, engine, None, untimed).completions) == 13
    assert [prompts for prompts, _ in engine.asked] == [list(range(10, 23))]


def test_repeated_prompts_and_the_batches_that_share_them_are_told():
    assert WORKLOAD.clusters is None
    workload = dataclasses.replace(WORKLOAD, prompts=[[10 + i % 5, 1] for i in range(8)], timed_prompts=8)
    (part,) = measured.in_turns([Pretender()], None, workload)
    assert len(set(part.clusters)) == 5
    assert part.clusters[:3] == part.clusters[5:]
    assert part.unit_clusters == [0, 0, 0, 0], "01 23 40 12: each shares a prompt with another"
