"""Stopped at any step, in any way, and started again: the same numbers, bit for bit."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

from distillspec_jax import checkpoint
from distillspec_jax.errors import UsageError
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.training import optimizers
from distillspec_jax.training.preemption import Preempted, ended_by_sigterm, stop_signals, stoppable
from distillspec_jax.training.snapshots import Snapshots
from distillspec_jax.training.step import create_state
from tests.training import toy
from tests.training.homes import assert_same_as, everywhere
from tests.training.toy import terminate


# Reports come at 5, 10 and 12, evaluations at 4, 8 and 12, saves at 3, 6, 9 and 12.
@everywhere(1, 2, 4, 5, 7, 8, 12, also=[7])
def test_a_stop_at_any_step_changes_nothing(home, uninterrupted, value):
    stopping = toy.interrupting(terminate, value)
    with pytest.raises(Preempted) as stop:
        toy.run(home.address, batches=stopping)
    assert str(stop.value) == f"stopped by SIGTERM: resumable, step {value} of 12 is saved"
    assert stop.value.exit_status == 75
    assert checkpoint.latest_step(home.found()) == value
    assert_same_as(uninterrupted, toy.run(home.address), home)


@everywhere((2, 3, 9))
def test_a_run_that_is_stopped_again_and_again(home, uninterrupted, value):
    for step in value:
        with pytest.raises(Preempted):
            toy.run(home.address, batches=toy.interrupting(terminate, step))
        home.found()
    assert_same_as(uninterrupted, toy.run(home.address), home)


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def kill():
    raise Killed


@everywhere(2, 8, 11, also=[8])  # before the first save, and after lines that a restart repeats
def test_a_kill_costs_the_steps_since_the_last_save_and_nothing_else(home, uninterrupted, value):
    with pytest.raises(Killed):
        toy.run(home.address, batches=toy.interrupting(kill, value))
    assert_same_as(uninterrupted, toy.run(home.address), home)


@everywhere(0)
def test_a_kill_during_an_evaluation_leaves_no_gap(home, uninterrupted, value):
    def killed(params):
        raise Killed

    with pytest.raises(Killed):
        # The last step is saved, its evaluation is missing.
        toy.run(home.address, evaluate=killed, eval_period=0)
    toy.assert_equal(uninterrupted[0], toy.run(home.address, eval_period=0))
    assert toy.lines(home.found())[-1] == uninterrupted[1][-1]


@everywhere(0)
def test_a_finished_run_is_left_as_it_is(home, uninterrupted, value):
    toy.run(home.address)
    home.found()
    assert_same_as(uninterrupted, toy.run(home.address), home)


def test_a_finished_run_goes_on_to_a_later_step(tmp_path):
    def constant(steps):
        return {"optimizer": optax.adam(optax.constant_schedule(0.1)), "total_steps": steps}

    toy.run(tmp_path / "two", **constant(6))
    longer = toy.run(tmp_path / "two", **constant(9))
    toy.assert_equal(toy.run(tmp_path / "one", **constant(9)), longer)


def test_a_run_past_its_end_is_refused(tmp_path):
    toy.run(tmp_path, total_steps=6)
    with pytest.raises(UsageError, match=r"TRAIN_STEPS=5, but .* is already at step 6"):
        toy.run(tmp_path, total_steps=5)


def test_every_saved_step_is_the_state_of_its_step(tmp_path):
    """The buffers that a save copies in the background are given away to the next step."""
    toy.run(tmp_path / "long", save_period=1, keep=20)
    short = toy.run(tmp_path / "short", total_steps=6)
    stored = checkpoint.load_params(tmp_path / "long", jax.eval_shape(toy.fresh_params), step=6)
    toy.assert_equal(short, stored)


# --- a snapshot holds everything ---


@pytest.mark.parametrize("optimizer", [optimizers.adamw, optimizers.adafactor])
def test_a_snapshot_brings_back_optimizer_step_and_pending_metrics(tmp_path, optimizer):
    partitioner = make_partitioner()
    params = toy.fresh_params()
    transform = optimizer(optimizers.warmup_cosine(0.1, 10, 2))
    state, shardings = create_state(params, toy.replicated(params, partitioner), transform, partitioner)
    gradient = jax.tree.map(lambda p: jnp.arange(p.size, dtype=p.dtype).reshape(p.shape) + 1, params)
    _, moments = transform.update(gradient, state.optimizer, params)
    state = state.replace(optimizer=moments)
    pending = {"loss": toy.Mean(0.1 + 0.2, 3.0)}
    with Snapshots(tmp_path, keep=1) as snapshots:
        snapshots.save(7, state, pending)
    fresh, _ = create_state(params, toy.replicated(params, partitioner), transform, partitioner)
    with Snapshots(tmp_path, keep=1) as snapshots:
        restored, step, metrics = snapshots.restore(fresh, shardings)
    assert step == int(restored.step) == 7
    assert metrics == pending
    toy.assert_equal(moments, restored.optimizer)
    assert jax.tree.structure(moments) == jax.tree.structure(restored.optimizer)


# --- signals ---


def test_a_second_interrupt_does_not_wait():
    with stop_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert (stop.requested, stop.name) == (True, "SIGINT")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def as_a_command(directory, then=lambda: None, **changes):
    with ended_by_sigterm() as progress:
        progress.newest = lambda: checkpoint.latest_step(directory)
        toy.run(directory, **changes)
        then()


def test_a_sigterm_outside_the_loop_ends_at_once(tmp_path):
    with pytest.raises(Preempted, match=r"^stopped by SIGTERM: resumable, step 3$"):
        as_a_command(tmp_path, terminate, total_steps=3)


def test_a_sigterm_while_a_checkpoint_is_read_does_not_pass_for_damage(tmp_path):
    with pytest.raises(Preempted, match=r"resumable$"), ended_by_sigterm(), checkpoint.reading(tmp_path):
        terminate()


def test_a_sigterm_before_the_loop_is_answered_before_a_step_compiles(tmp_path, monkeypatch):
    toy.run(tmp_path, total_steps=3)
    whole = Snapshots._read

    def interrupted(self, *arguments):
        terminate()
        return whole(self, *arguments)

    monkeypatch.setattr(Snapshots, "_read", interrupted)
    with pytest.raises(Preempted, match=r"^stopped by SIGTERM: resumable, step 3 of 12$"):
        toy.run(tmp_path, batches=None)


def test_a_sigterm_during_the_last_evaluation_is_answered_after_it(tmp_path, uninterrupted):
    def last(params):
        terminate()
        return toy.held_out(params)

    with pytest.raises(Preempted, match=r"step 12$"):
        as_a_command(tmp_path, evaluate=last, eval_period=0)
    assert toy.lines(tmp_path)[-1] == uninterrupted[1][-1]


def test_a_stop_between_two_parts_of_an_evaluation_saves_its_step(tmp_path, uninterrupted):
    """It was noticed a step after the evaluation, which takes longer than a scheduler waits."""

    def parts(params):
        for _ in stoppable(range(2)):
            terminate()
        pytest.fail("nobody looked")

    with pytest.raises(Preempted, match=r"^stopped by SIGTERM: resumable, step 4 of 12 is saved$"):
        toy.run(tmp_path, evaluate=parts)
    toy.assert_equal(uninterrupted[0], toy.run(tmp_path))
    assert toy.lines(tmp_path) == uninterrupted[1]


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with ended_by_sigterm(), stop_signals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


# --- a full disk ---


FILLING_UP = """
import resource, sys
from pathlib import Path
from distillspec_jax.cli import errors
from tests.training import toy

def main(argv):
    directory = Path(argv[0])
    toy.run(directory, total_steps=3, params=toy.large_params(), evaluate=None)
    # As a full disk does: no file may grow further. Python ignores the signal and sees EFBIG.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    toy.run(directory, params=toy.large_params(), evaluate=None)

sys.exit(errors.run(main, command="finetune"))
"""


def test_a_disk_that_fills_up_while_saving_keeps_the_step_before(tmp_path):
    # In a process of its own: after a failed write TensorStore's threads complain whenever they like.
    command = [sys.executable, "-c", FILLING_UP, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 2
    message = f"cannot save to {tmp_path / 'run'}: {os.strerror(errno.EFBIG)}"
    # Once, and without the complaints of every task and thread beside it.
    complaints = [line for line in done.stderr.splitlines() if "rror" in line or "Traceback" in line]
    assert complaints == [f"distillspec finetune: error: {message}"]
    assert checkpoint.latest_step(tmp_path / "run") == 3

    def finished(name):
        return toy.run(tmp_path / name, params=toy.large_params(), evaluate=None)

    toy.assert_equal(finished("whole"), finished("run"))


def test_a_full_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    toy.run(tmp_path, total_steps=3)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(
        UsageError, match=r"No space left on device \(step 6 takes 0\.0 MB, 0\.0 MB are free\)"
    ):
        toy.run(tmp_path)
    assert os.listdir(tmp_path / "checkpoints") == ["3"]


def test_a_full_disk_while_reporting_is_one_line_and_no_hang(tmp_path, monkeypatch):
    def full(writer, event):
        if event.HasField("summary"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tensorboardX.event_file_writer.EventsWriter.write_event", full)
    with pytest.raises(UsageError, match=rf"cannot save to {tmp_path}: {os.strerror(errno.ENOSPC)}"):
        toy.run(tmp_path)
