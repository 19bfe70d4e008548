"""The steps at which hosts that train together ask each other whether to stop."""

import jax
import numpy as np
import pytest

from distillspec_jax.training import hosts


@pytest.mark.parametrize(
    ("seconds", "asked"),
    [
        (60.0, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]),
        (4.0, [5, 10, 15, 20]),
        (3.0, [5, 10, 16, 20]),  # a report follows step 10 and step 20
        (0.001, [5, 10, 20]),
    ],
)
def test_hosts_ask_as_often_as_a_step_of_the_first_takes(monkeypatch, seconds, asked):
    """They asked at reports alone: 50 slow steps are minutes, and a scheduler waits for half a minute."""
    seen = []

    def of_both(mine):
        seen.append(step)
        return np.stack([np.float32([seconds, 0, step >= 16]), mine])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.multihost_utils, "process_allgather", of_both)
    polls, told = hosts.Polls(start=4, period=10), {}
    for step in range(5, 25):
        told[step] = polls.any_host(step, False, False)
    assert seen == asked
    assert told == {step: (False, step >= 16 and step in asked) for step in range(5, 25)}


def test_one_host_asks_nobody():
    assert hosts.Polls(start=0, period=10).any_host(3, True, False) == (True, False)
