"""The best evaluation of a run: which is kept, through restarts and cut-short saves, and when to give up."""

import json
import signal

import jax
import numpy as np
import pytest

from distillspec_jax import checkpoint, model_card
from distillspec_jax.errors import UsageError
from distillspec_jax.model_card import ModelCard
from distillspec_jax.training.preemption import Preempted
from distillspec_jax.training.selection import BEST, RECORD, Selection
from tests.training import toy

TOKENIZER = b"pieces"


@pytest.fixture
def run_dir(tmp_path):
    card = ModelCard("toy", {}, model_card.fingerprint(TOKENIZER), prefix="my: ")
    model_card.write_card(tmp_path, card, TOKENIZER)
    return tmp_path


def scripted(*values):
    """An evaluation that gives one value after the other, whatever the parameters."""
    left = list(values)
    return lambda params: {"score": left.pop(0)}


def best_of(run_dir):
    record = json.loads((run_dir / BEST / RECORD).read_text())
    assert [p.name for p in (run_dir / BEST / "checkpoints").iterdir()] == [str(record["step"])]
    return record["step"], record["value"]


def params_of(directory):
    return checkpoint.load_params(directory, jax.eval_shape(toy.fresh_params))


def run(directory, *values, **changes):
    settings = {"total_steps": 12, "eval_period": 4, "select": "score", "evaluate": scripted(*values)}
    return toy.run(directory, **settings | changes)


def test_the_highest_value_is_kept_beside_the_run_as_a_model_of_its_own(run_dir, tmp_path_factory):
    run(run_dir, 0.2, 0.1, 0.5, 0.3)
    assert best_of(run_dir) == (8, 0.5)
    until_then = toy.run(tmp_path_factory.mktemp("other"), total_steps=8)
    toy.assert_equal(params_of(run_dir / BEST), until_then)
    assert checkpoint.latest_step(run_dir) == 12  # the run itself goes on from its end
    assert model_card.read_card(run_dir / BEST) == model_card.read_card(run_dir)
    assert model_card.read_tokenizer(run_dir / BEST) == TOKENIZER


def test_of_equal_values_the_first_is_kept_and_no_number_never_is(run_dir):
    run(run_dir, float("nan"), float("nan"), 0.5, 0.5)
    assert best_of(run_dir) == (8, 0.5)


def test_a_restart_remembers_what_was_best(run_dir):
    run(run_dir, 0.1, 0.5, total_steps=4)
    first = params_of(run_dir / BEST)
    run(run_dir, 0.4, 0.45)
    assert best_of(run_dir) == (4, 0.5)
    toy.assert_equal(params_of(run_dir / BEST), first)
    run(run_dir, 0.7, total_steps=16)
    assert best_of(run_dir) == (16, 0.7)


def test_parameters_without_a_record_are_not_believed(run_dir):
    """A kill between the two writes of step 8; step 4 was best until then."""
    run(run_dir, 0.1, 0.5, total_steps=4)
    checkpoint.save_params(run_dir / BEST, 8, toy.fresh_params())
    again = Selection(run_dir, "score")
    assert (again.step, again.value) == (4, 0.5)
    assert best_of(run_dir) == (4, 0.5)


def test_what_another_metric_chose_is_not_deleted(run_dir):
    """A rerun with another DEPLOYMENT, which a run may otherwise change."""
    run(run_dir, 0.1, 0.5, total_steps=4)
    with pytest.raises(UsageError, match="best was chosen by score, not another score: choose another MODEL"):
        Selection(run_dir, "another score")
    assert best_of(run_dir) == (4, 0.5)


def test_patience_ends_the_run_and_a_restart_leaves_it_ended(run_dir):
    settings = {"eval_period": 2, "patience": 2, "save_period": 50, "log_period": 50}
    run(run_dir, 0.1, 0.2, 0.5, 0.4, 0.3, **settings)
    assert [line["step"] for line in toy.lines(run_dir) if line["split"] == "eval"] == [0, 2, 4, 6, 8]
    assert best_of(run_dir) == (4, 0.5)
    assert checkpoint.latest_step(run_dir) == 8
    before = params_of(run_dir)
    toy.assert_equal(run(run_dir, **settings), before)  # no value is asked for
    run(run_dir, 0.6, **settings | {"patience": 3, "total_steps": 10})
    assert best_of(run_dir) == (10, 0.6)


def test_patience_does_not_end_a_run_before_the_steps_that_it_has_in_any_case(run_dir):
    settings = {"eval_period": 2, "patience": 1, "save_period": 50, "log_period": 50}
    run(run_dir, 0.5, 0.1, 0.2, **settings, patience_after=3)
    assert [line["step"] for line in toy.lines(run_dir) if line["split"] == "eval"] == [0, 2, 4]
    run(run_dir, 0.4, **settings, patience_after=6)  # the ended run goes on, to step 6
    assert [line["step"] for line in toy.lines(run_dir) if line["split"] == "eval"] == [0, 2, 4, 6]


def test_a_run_that_patience_ended_goes_on_with_the_metrics_of_its_open_interval(run_dir, tmp_path_factory):
    settings = {"eval_period": 2, "save_period": 50, "log_period": 3}
    run(run_dir, 0.5, 0.4, patience=1, **settings)  # ends at step 2, one step before a report
    run(run_dir, 0.6, 0.7, 0.8, patience=0, **settings | {"total_steps": 6})
    whole = tmp_path_factory.mktemp("whole")
    toy.run(whole, **settings | {"total_steps": 6})
    reports = [[line for line in toy.lines(one) if line["split"] == "train"] for one in (run_dir, whole)]
    assert reports[0] == reports[1]
    assert [line["step"] for line in reports[0]] == [3, 6]


def test_a_run_that_only_gets_worse_keeps_what_it_started_from(run_dir, capsys):
    run(run_dir, 0.5, 0.4, 0.3, patience=2)
    assert best_of(run_dir) == (0, 0.5)
    toy.assert_equal(params_of(run_dir / BEST), toy.fresh_params())
    assert checkpoint.latest_step(run_dir) == 8
    assert "eval       0/12  score 0.5\n" in capsys.readouterr().err


def test_a_start_that_was_judged_is_not_judged_again(run_dir):
    def terminate(params):
        signal.raise_signal(signal.SIGTERM)
        return {"score": 0.5}

    with pytest.raises(Preempted, match="step 0 of 12"):
        run(run_dir, evaluate=terminate)
    run(run_dir, 0.1, 0.2, 0.3)
    assert best_of(run_dir) == (0, 0.5)
    assert [line["step"] for line in toy.lines(run_dir) if line["split"] == "eval"] == [0, 4, 8, 12]


def test_no_patience_waits_for_ever(run_dir):
    selection = Selection(run_dir, "score")
    assert selection.offer(1, 0.5, toy.fresh_params())
    assert not selection.exhausted(10**6)
    assert np.isfinite(selection.value)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ("{", "not the record of a selection: malformed JSON"),
        ('{"step": "8", "metric": "score", "value": 0.5}', "field step: expected int, got '8'"),
        ('{"step": 8, "metric": "score"}', "it has no field 'value'"),
    ],
)
def test_a_record_that_is_damaged_costs_no_parameters(run_dir, record, said):
    """It was taken for none, and the best step was removed as that of a save cut short."""
    run(run_dir, 0.1, 0.5, total_steps=4)
    (run_dir / BEST / RECORD).write_text(record)
    with pytest.raises(UsageError) as caught:
        Selection(run_dir, "score")
    assert str(run_dir / BEST / RECORD) in str(caught.value)
    assert said in str(caught.value)
    assert checkpoint.latest_step(run_dir / BEST) == 4
