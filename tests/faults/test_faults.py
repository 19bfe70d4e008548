"""The short form of `make test-faults`: processes of the smallest job, killed, stopped, and side by side."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from distillspec_jax import checkpoint
from tests.faults.killing import kill
from tests.training import toy

SETTINGS = {"total_steps": 40, "save_period": 2}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    return toy.run(directory, **SETTINGS), toy.lines(directory)


def start(directory, environment=(), **settings):
    flags = [f"{name}={value}" for name, value in (SETTINGS | settings).items()]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.toy", str(directory), *flags],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "JAX_PLATFORMS": "cpu", **dict(environment)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_while_saving_and_asked_to_stop_a_run_is_the_same(tmp_path, uninterrupted):
    found = kill(start(tmp_path), tmp_path, "save", random.Random(0))
    assert found["fate"] == "killed"

    process, killed_at = start(tmp_path), checkpoint.latest_step(tmp_path) or 0
    while process.poll() is None and (checkpoint.latest_step(tmp_path) or 0) <= killed_at:
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75, said
    step = checkpoint.latest_step(tmp_path)
    assert f"stopped by SIGTERM: resumable, step {step} of 40 is saved" in said

    toy.assert_equal(uninterrupted[0], toy.run(tmp_path, **SETTINGS))
    assert toy.lines(tmp_path) == uninterrupted[1]


def together(directory, *settings):
    """What two processes say that train together, each by its own settings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    peers = {"DISTILLSPEC_MULTIHOST": "1", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [
        start(directory, {**peers, "JAX_PROCESS_ID": str(index)}, **own) for index, own in enumerate(settings)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    return said


def test_two_processes_train_together_and_one_goes_on(tmp_path, uninterrupted):
    """The first reads a clock that says stop at once; both stop where they agree on it, at a report."""
    said = together(tmp_path, {"max_seconds": 1e-4}, {"max_seconds": 99.0})
    assert checkpoint.latest_step(tmp_path) == 5
    assert "train      5/40" in said[0]
    assert "train" not in said[1]  # the first host speaks

    toy.run(tmp_path, **SETTINGS)
    found = toy.lines(tmp_path)
    (at_the_stop,) = (line for line in found if line["step"] == 5 and line["split"] == "eval")
    found.remove(at_the_stop)
    expected = uninterrupted[1]
    assert [line.pop("split") for line in found] == [line["split"] for line in expected]
    assert found == [
        pytest.approx({k: v for k, v in line.items() if k != "split"}, rel=1e-5) for line in expected
    ]


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_for_fifty_steps(tmp_path):
    settings = {"total_steps": 50, "log_period": 1, "eval_period": 0, "save_period": 50}
    together(tmp_path / "two", settings, settings)
    toy.run(tmp_path / "one", **settings)
    one, two = (
        [line["loss"] for line in toy.lines(tmp_path / name) if line["split"] == "train"]
        for name in ("one", "two")
    )
    print(f"largest relative difference: {max(abs(b / a - 1) for a, b in zip(one, two, strict=True)):.1e}")
    assert len(one) == 50
    assert two == pytest.approx(one, rel=1e-5)
