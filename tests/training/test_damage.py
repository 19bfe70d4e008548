"""A run goes on from what it finds: steps that are not whole, damaged or of another run."""

import os
import shutil

import jax
import optax
import pytest

from distillspec_jax import checkpoint
from distillspec_jax.errors import UsageError
from distillspec_jax.training.preemption import Preempted
from tests.training import toy
from tests.training.homes import assert_same_as, everywhere
from tests.training.toy import terminate


def newest_step(directory):
    return directory / "checkpoints" / str(checkpoint.latest_step(directory))


def unfinished_by_name(step):
    step.rename(step.with_name(f"{step.name}.orbax-checkpoint-tmp-1"))


def without_params(step):
    shutil.rmtree(step / "params")


def with_params_half_written(step):
    (step / "params").rename(step / "params.orbax-checkpoint-tmp")


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


@everywhere(unfinished_by_name, without_params, with_params_half_written, empty)
def test_a_step_that_is_not_whole_is_skipped(home, uninterrupted, value):
    with pytest.raises(Preempted):
        toy.run(home.address, batches=toy.interrupting(terminate, 8))
    home.damage(lambda directory: value(newest_step(directory)))
    assert_same_as(uninterrupted, toy.run(home.address, save_period=3), home)
    assert sorted(os.listdir(home.found() / "checkpoints")) == ["12", "9"]


@pytest.mark.parametrize("broken", [unfinished_by_name, without_params, with_params_half_written, empty])
def test_a_step_that_is_not_whole_is_no_step(tmp_path, broken):
    toy.run(tmp_path, total_steps=6)
    broken(newest_step(tmp_path))
    assert checkpoint.latest_step(tmp_path) == 3


def test_a_skipped_step_is_named(tmp_path, capsys):
    toy.run(tmp_path, total_steps=6)
    empty(newest_step(tmp_path))
    toy.run(tmp_path, total_steps=6)
    assert f"skipped and removed {tmp_path}/checkpoints/6: it was not whole" in capsys.readouterr().err


def test_parameters_alone_cannot_be_continued(tmp_path):
    checkpoint.save_params(tmp_path, 3, toy.fresh_params())
    with pytest.raises(UsageError, match=r"checkpoints/3 holds parameters alone .*INITIAL_CHECKPOINT_PATH"):
        toy.run(tmp_path)


def test_another_optimizer_is_refused(tmp_path):
    toy.run(tmp_path, total_steps=3)
    with pytest.raises(UsageError, match="was trained with another OPTIMIZER"):
        toy.run(tmp_path, optimizer=optax.adafactor(0.1))


def test_parameters_of_another_shape_are_named(tmp_path):
    toy.run(tmp_path, total_steps=3)
    with pytest.raises(UsageError, match=r"parameter bias has shape \(7,\), the model wants \(8,\)"):
        toy.run(tmp_path, params=toy.fresh_params(width=8))


def metadata_cut_short(step):
    (step / "optimizer" / "_METADATA").write_text("{")


def progress_lost(step):
    (step / "progress" / "metadata").unlink()


def data_cut_short(step):
    for path in (step / "params").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def another_steps_moments(step):
    """Readable, and not what was saved."""
    shutil.rmtree(step / "optimizer")
    shutil.copytree(step.with_name("6") / "optimizer", step / "optimizer")


DAMAGES = [metadata_cut_short, progress_lost, data_cut_short, another_steps_moments]


# A read that fails leaves others of its kind behind, whose answers then find their event loop closed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@everywhere(*DAMAGES, also=[another_steps_moments])
def test_a_damaged_step_is_set_aside_and_the_one_before_is_used(home, uninterrupted, value, capsys):
    with pytest.raises(Preempted):
        toy.run(home.address, batches=toy.interrupting(terminate, 9))
    home.damage(lambda directory: value(newest_step(directory)))
    assert_same_as(uninterrupted, toy.run(home.address), home)
    said = capsys.readouterr().err
    assert f"skipped {home.address}/checkpoints/9 is damaged" in said
    assert f"it lies in {home.address}/damaged/9 now" in said
    assert (home.found() / "damaged" / "9").is_dir()
    assert sorted(os.listdir(home.found() / "checkpoints")) == ["12", "9"]


def test_a_stop_at_a_bad_step_goes_on_as_if_it_had_been_skipped_at_once(tmp_path):
    bad = {"batches": toy.spoilt(toy.batches, {8}, float("nan"))}
    skipped = toy.run(tmp_path / "skipped", on_non_finite="skip", **bad)
    with pytest.raises(UsageError, match="at step 8"):
        toy.run(tmp_path / "stopped", **bad)
    assert checkpoint.latest_step(tmp_path / "stopped") == 6
    toy.assert_equal(skipped, toy.run(tmp_path / "stopped", on_non_finite="skip", **bad))
    for step in (9, 12):
        shapes = jax.eval_shape(toy.fresh_params)
        stored = [checkpoint.load_params(tmp_path / name, shapes, step) for name in ("skipped", "stopped")]
        toy.assert_equal(*stored)


def test_a_damaged_step_without_another_before_it_is_named(tmp_path):
    toy.run(tmp_path, total_steps=3)
    (newest_step(tmp_path) / "optimizer" / "_METADATA").write_text("{")
    with pytest.raises(UsageError, match=r"checkpoints/3 is damaged or not a checkpoint of ours") as caught:
        toy.run(tmp_path)
    assert "\n" not in str(caught.value)
