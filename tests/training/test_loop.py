"""The loop: learning, reporting, stopping at its steps; every way to stop and go on is in test_restart.py."""

import jax
import numpy as np
import optax
import pytest

from distillspec_jax import checkpoint
from distillspec_jax.errors import UsageError
from distillspec_jax.training.loop import LoopConfig
from tests.training import toy


def steps_on_disk(directory):
    return sorted(int(path.name) for path in (directory / "checkpoints").iterdir())


def test_the_loss_falls_to_the_noise(tmp_path):
    params = toy.run(tmp_path, total_steps=60, log_period=20, save_period=60)
    losses = [line["loss"] for line in toy.lines(tmp_path) if line["split"] == "train"]
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.1 < np.log(toy.VOCAB)
    following = np.argmax(params["table"] + params["bias"][None], axis=-1)
    np.testing.assert_array_equal(following, (np.arange(toy.VOCAB) + 2) % toy.VOCAB)


def test_reports_come_at_their_periods_and_at_the_end(tmp_path):
    toy.run(tmp_path)
    reported = [(line["step"], line["split"]) for line in toy.lines(tmp_path)]
    assert reported == [
        (4, "eval"),
        (5, "train"),
        (8, "eval"),
        (10, "train"),
        (12, "train"),
        (12, "eval"),
    ]


@jax.jit
def loss_of_step(step, batch):
    key = jax.random.fold_in(jax.random.key(0), step)
    return toy.toy_loss(toy.fresh_params(), batch, key)[:2]


def test_a_report_pools_the_tokens_of_its_steps(tmp_path):
    frozen = optax.sgd(lambda step: 0.0)  # parameters stay at zero: the expected loss needs no training
    toy.run(tmp_path, total_steps=3, log_period=3, optimizer=frozen, evaluate=None)
    total = count = 0.0
    for step in range(3):
        loss_sum, weight_sum = loss_of_step(step, toy.batch_at(step))
        total, count = total + float(loss_sum), count + float(weight_sum)
    (line,) = toy.lines(tmp_path)
    assert line["loss"] == pytest.approx(total / count, rel=1e-6)
    assert line["row_tokens"] == pytest.approx(count / (3 * toy.ROWS), rel=1e-6)


def test_without_an_evaluation_period_there_is_one_at_the_end(tmp_path):
    toy.run(tmp_path, eval_period=0)
    assert [line["step"] for line in toy.lines(tmp_path) if line["split"] == "eval"] == [12]


def test_the_last_steps_are_kept(tmp_path):
    toy.run(tmp_path, save_period=2, keep=3)
    assert steps_on_disk(tmp_path) == [8, 10, 12]


def test_the_last_step_is_saved_whatever_the_period(tmp_path):
    toy.run(tmp_path, total_steps=7, save_period=5)
    assert steps_on_disk(tmp_path) == [5, 7]


def test_a_time_limit_ends_the_run_as_its_last_step_does(tmp_path):
    toy.run(tmp_path, max_seconds=1e-9)
    assert [(line["step"], line["split"]) for line in toy.lines(tmp_path)] == [(1, "train"), (1, "eval")]
    assert steps_on_disk(tmp_path) == [1]


@pytest.mark.parametrize(
    ("at_step", "saved"), [(7, 6), (9, 6)]
)  # between all periods, and where a save is due
def test_a_loss_that_is_not_finite_stops_the_run_by_its_step(tmp_path, at_step, saved):
    with pytest.raises(UsageError, match=rf"the loss became nan at step {at_step}; step {saved} is saved"):
        toy.run(tmp_path, batches=toy.spoilt(toy.batches, {at_step}, np.nan))
    assert steps_on_disk(tmp_path)[-1] == saved
    kept = checkpoint.load_params(tmp_path, jax.eval_shape(toy.fresh_params))
    assert np.isfinite(kept["table"]).all()
    assert all(np.isfinite(list(line.values())[2:]).all() for line in toy.lines(tmp_path))
    with np.load(tmp_path / "non_finite" / f"step_{at_step}.npz") as batch:
        assert set(batch) == set(toy.batch_at(0))
        expected = toy.batch_at(at_step - 1)["decoder_input_tokens"]
        np.testing.assert_array_equal(batch["decoder_input_tokens"], expected)
        assert np.isnan(batch["decoder_loss_weights"]).any()


def test_a_gradient_that_is_not_finite_stops_the_run_though_the_loss_is(tmp_path):
    def steep(params, batch, key):
        # sqrt at 0: the value is 0, its slope infinite.
        loss_sum, weight_sum, metrics = toy.toy_loss(params, batch, key)
        return loss_sum + jax.numpy.sqrt(jax.numpy.abs(params["bias"]).sum()), weight_sum, metrics

    with pytest.raises(
        UsageError, match=r"the gradient_norm became .* at step 1; nothing was saved before it"
    ):
        toy.run(tmp_path, loss_fn=jax.tree_util.Partial(steep))
    assert steps_on_disk(tmp_path) == []


SKIPPING = {"on_non_finite": "skip", "batches": toy.spoilt(toy.batches, {7}, np.nan)}


def test_a_skipped_step_leaves_no_trace_but_its_number_and_its_batch(tmp_path, capsys):
    toy.run(tmp_path, save_period=1, keep=20, **SKIPPING)

    def table(step):
        return checkpoint.load_params(tmp_path, jax.eval_shape(toy.fresh_params), step=step)["table"]

    np.testing.assert_array_equal(table(6), table(7))
    assert not np.array_equal(table(7), table(8))
    assert "skipped step 7: the loss became nan; its batch is in " in capsys.readouterr().err
    assert (tmp_path / "non_finite" / "step_7.npz").is_file()
    lines = [line for line in toy.lines(tmp_path) if line["split"] == "train"]
    assert [line["skipped_steps"] for line in lines] == [0, 0.2, 0]
    rows = [int((toy.batch_at(step)["decoder_loss_weights"].sum(1) > 0).sum()) for step in (5, 7, 8, 9)]
    tokens = [toy.batch_at(step)["decoder_loss_weights"].sum() for step in (5, 7, 8, 9)]
    assert lines[1]["row_tokens"] == pytest.approx(sum(tokens) / sum(rows))
    assert np.isfinite(lines[1]["loss"])


def test_a_run_that_only_skips_ends(tmp_path):
    always = toy.spoilt(toy.batches, range(6, 99), np.nan)
    with pytest.raises(UsageError, match="all 5 steps since the last report were skipped"):
        toy.run(tmp_path, on_non_finite="skip", batches=always)
    assert steps_on_disk(tmp_path) == [6, 9]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"matmul_precision": "bf16"}, r"matmul_precision='bf16': "),
        ({"on_non_finite": "skp"}, r"on_non_finite='skp': did you mean 'skip'\?"),
        ({"microbatches": 3}, "MICROBATCHES=3 does not divide BATCH_SIZE=4"),
        ({"total_steps": 0}, "total_steps=0: must be at least 1"),
        ({"log_period": 0}, "log_period=0: must be at least 1"),
        ({"keep": 0}, "keep=0: must be at least 1"),
        ({"save_period": "often"}, "save_period='often': must be a whole number"),
        ({"max_seconds": "long"}, "max_seconds='long': must be a number"),
        ({"max_seconds": -1.0}, r"max_seconds=-1.0: must be at least 0"),
        ({"max_seconds": float("nan")}, r"max_seconds=nan: must be at least 0"),
    ],
)
def test_impossible_settings_are_refused_by_name(tmp_path, changes, says):
    with pytest.raises(UsageError, match=says):
        toy.run(tmp_path, **changes)
    assert not (tmp_path / "checkpoints").exists()


def test_the_defaults_are_possible():
    assert LoopConfig(total_steps=1, batch_size=1).microbatches == 1
