"""Timing against a clock that the test owns."""

import numpy as np
import pytest

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import timing


class Machine:
    """Systems that advance a clock by what they are told, and a log of who ran when."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def clock(self):
        return self.now

    def system(self, name, seconds):
        def run(unit):
            self.log.append((name, unit))
            self.now += seconds(len([entry for entry in self.log if entry[0] == name]))
            return f"{name}{unit}/{len(self.log)}"

        return run


def test_systems_take_turns_and_the_first_call_is_kept_apart():
    machine = Machine()
    slow = machine.system("slow", lambda call: 100.0 if call == 1 else 4.0)
    fast = machine.system("fast", lambda call: 50.0 if call == 1 else 2.0)
    a, b = timing.interleaved([slow, fast], units=3, repeats=2, clock=machine.clock)
    assert (a.first_call_seconds, b.first_call_seconds) == (100.0, 50.0)
    assert a.seconds_RU.tolist() == [[4.0] * 3] * 2
    assert b.seconds_U.tolist() == [2.0] * 3
    measured = machine.log[2:]
    assert all(
        {first[0], second[0]} == {"slow", "fast"}
        for first, second in zip(measured[::2], measured[1::2], strict=True)
    )
    assert {measured[0][0], measured[2][0]} == {"slow", "fast"}, "the order must rotate"
    assert [unit for _, unit in measured] == [u for u in range(3) for _ in range(4)]


def test_the_fastest_repeat_counts_and_the_first_result_is_kept():
    machine = Machine()
    noisy = machine.system("noisy", lambda call: [9.0, 5.0, 3.0, 4.0][call - 1])
    (found,) = timing.interleaved([noisy], units=1, repeats=3, clock=machine.clock)
    assert found.seconds_U.tolist() == [3.0]
    assert found.results == ["noisy0/2"], "the result of the first measured run, not of the one that compiles"


@pytest.mark.parametrize("sizes", [{"units": 0}, {"units": 1, "repeats": 0}])
def test_nothing_to_time_is_refused(sizes):
    with pytest.raises(UsageError, match="must be at least 1"):
        timing.interleaved([lambda unit: unit], **sizes)


def test_speedup_is_of_tokens_a_second():
    seconds, tokens = [4.0, 2.0, 6.0, 3.0, 5.0], [40, 20, 60, 30, 50]
    same = timing.speedup(seconds, tokens, [s / 2 for s in seconds], tokens)
    assert same == (2.0, 2.0, 2.0)
    # Twice the text in the same time is twice the speed.
    assert timing.speedup(seconds, tokens, seconds, [2 * t for t in tokens]).value == 2.0


def test_the_interval_of_a_speedup_is_over_units():
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 90, 24)
    slow, fast = 0.003 * tokens, 0.002 * tokens * rng.lognormal(0, 0.1, 24)
    found = timing.speedup(slow, tokens, fast, tokens)
    assert found.low < 1.5 < found.high
    assert 0.04 < found.high - found.low < 0.25
