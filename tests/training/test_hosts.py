"""The steps at which hosts that train together ask each other whether to stop."""

import jax
import numpy as np
import pytest

from distillspec_jax.checkpoint import DamagedCheckpointError
from distillspec_jax.errors import Unavailable, UsageError
from distillspec_jax.training import hosts, job


@pytest.mark.parametrize(
    ("seconds", "asked"),
    [
        (12.0, [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]),
        (0.75, [5, 10, 15, 20]),
        (0.6, [5, 10, 16, 20]),  # a report follows step 10 and step 20
        (0.001, [5, 10, 20]),
    ],
)
def test_hosts_ask_as_often_as_a_step_of_the_first_takes(monkeypatch, seconds, asked):
    """They asked at reports alone: 50 slow steps are minutes, and a scheduler waits for 15 to 30 seconds."""
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


@pytest.fixture
def second(monkeypatch):
    """Makes this process the second of two hosts; is called with the error of the first."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)

    def beside(error):
        def of_both(mine):
            return np.stack([hosts._encoded(error), mine])

        monkeypatch.setattr(hosts.multihost_utils, "process_allgather", of_both)

    return beside


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (UsageError("MODEL_DIR=ü: in use"), UsageError, "MODEL_DIR=ü: in use"),
        (Unavailable("reset by peer"), Unavailable, "reset by peer"),
        (DamagedCheckpointError("3 is damaged"), DamagedCheckpointError, "3 is damaged"),
        (ZeroDivisionError("ours"), UsageError, "host 0 has ended: ZeroDivisionError: ours"),
        (UsageError("x" * 9_999), UsageError, "x" * 2_000),
    ],
)
def test_what_fails_on_one_host_fails_on_all(second, error, kind, said):
    """The others waited for it in the next collective operation."""
    second(error)
    done = []
    with pytest.raises(kind) as caught:
        hosts.agreed(lambda: done.append(1))
    assert (str(caught.value), caught.type, done) == (said, kind, [1])


def test_a_host_raises_its_own_error_after_it_has_told_it(second):
    second(None)
    with pytest.raises(OSError, match="mine"):
        hosts.agreed(lambda: (_ for _ in ()).throw(OSError("mine")))


def test_what_the_first_host_does_no_other_does(second):
    second(None)
    assert hosts.agreed(pytest.fail, first=True) is None
    assert hosts.agreed(lambda: 3) == 3


def test_a_folder_that_only_the_first_host_sees_is_refused(second, tmp_path, monkeypatch):
    second(None)
    monkeypatch.setattr(job, "VISIBLE_WITHIN", 0.0)
    with pytest.raises(UsageError, match=rf"MODEL_DIR={tmp_path}: host 1 does not see .* all hosts share"):
        job.open_directory(tmp_path, None, b"")


def test_one_host_asks_nobody():
    assert hosts.Polls(start=0, period=10).any_host(3, True, False) == (True, False)
