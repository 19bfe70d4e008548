"""A pilot: what is held out, what a killed run goes on with, what is refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from distillspec_jax import outputs
from distillspec_jax.cli import asked_flags, errors
from distillspec_jax.cli import pilot as command
from distillspec_jax.errors import UsageError
from distillspec_jax.operations import asked_training, pilot, prompts
from distillspec_jax.operations.gate import Conditions
from distillspec_jax.operations.pilot import PilotPlan
from tests import pair
from tests.operations import trainers
from tests.operations.trainers import Killed, Trainer

CONDITIONS = Conditions(least_prompts=5, pay_back_requests=10**6)
PLAN = PilotPlan(steps=8, pilot_steps=2, prompts=8, block_size=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    lengths = {"inputs": 16, "targets": 8}
    made = (
        dataclasses.replace(one, card=dataclasses.replace(one.card, feature_lengths=lengths))
        for one in (pair.target(), pair.draft())
    )
    return tuple(pair.write(folder / name, one) for name, one in zip(("target", "draft"), made, strict=True))


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write([{"inputs": f"say {i:03}", "temperature": 0} for i in range(60)])
    trainers.count(monkeypatch)
    # TensorFlow would read them.
    monkeypatch.setattr(asked_training, "task", lambda target, *files: " ".join(one.name for one in files))
    return tmp_path


def write(lines):
    Path("mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(models, train, plan=PLAN, conditions=CONDITIONS, **options):
    said = []
    found = pilot.pilot(*models, "mine.jsonl", "out", plan, conditions, train, say=said.append, **options)
    return found, said


def test_what_is_found(place, models):
    """5 / 4 tokens a call become 10 / 4 in 2 steps: by 8 steps they would be 3 times as many."""
    train = Trainer(pair.target())
    found, _ = run(models, train)
    assert train.asked == [("trained", 2)]
    assert (found.outcome, found.why, found.needed) == ("go", None, None)
    assert found.acceptance[0].value == 1 / 6
    assert found.block_efficiency[1].value == 2.5
    assert found.prospect.gain == (3.0, 2.0, 3.0)
    assert found.prospect.training_seconds == 0.25 * (2 + 8)
    names = ("train", "validation", "judge")
    trained, chosen_by, judged = ({one.inputs for one in read(name)} for name in names)
    assert not trained & judged
    assert train.tasks == ["train.jsonl validation.jsonl"]
    assert chosen_by
    assert not chosen_by & (trained | judged), "the best checkpoint was chosen by the prompts that judge it"
    assert found.prompts == (60, len(trained), len(judged)) == (60, len(trained), 8)
    assert all(one.held_out for one in read("judge"))
    numbers = json.loads(Path("out/pilot.json").read_text())
    assert numbers["prospect"]["gain"] == {"value": 3.0, "ci90": [2.0, 3.0]}


def read(name):
    return prompts.read_sample(Path(f"out/{name}.jsonl"))


def test_a_draft_that_learns_nothing_is_left_as_it_is(place, models):
    found, _ = run(models, Trainer(pair.draft()))
    assert (found.outcome, found.why) == ("no-go", "gain")


def test_a_killed_pilot_goes_on_and_one_that_has_ended_is_told_again(place, models):
    train = Trainer(pair.target(), dies_at=0)
    with pytest.raises(Killed):
        run(models, train)
    assert not Path("out/pilot.json").exists()
    train.dies_at = None
    found, said = run(models, train)
    assert said[0] == f"going on with the pilot in {place}/out"
    again, _ = run(models, train, conditions=dataclasses.replace(CONDITIONS, pay_back_requests=1))
    assert train.asked == [("trained", 2)]
    assert (found.outcome, again.outcome) == ("go", "no-go")
    assert again.prospect == found.prospect


def test_another_call_does_not_go_on_with_a_pilot(place, models):
    run(models, Trainer(pair.target()))
    with pytest.raises(UsageError, match="out holds a pilot whose steps is 8, not 9: give the same call"):
        run(models, Trainer(pair.target()), dataclasses.replace(PLAN, steps=9))
    write([{"inputs": f"tell {i:03}"} for i in range(60)])
    with pytest.raises(UsageError, match="out holds a pilot whose texts is "):
        run(models, Trainer(pair.target()))


def test_restart_removes_what_the_pilot_made_and_nothing_else(place, models):
    run(models, Trainer(pair.target()))
    Path("out/notes.txt").write_text("mine")
    train = Trainer(pair.draft())
    found, _ = run(models, train, dataclasses.replace(PLAN, steps=9), restart=True)
    assert found.outcome == "no-go"
    assert Path("out/notes.txt").read_text() == "mine"


def test_a_folder_of_others_stays_as_it_is(place, models):
    Path("out").mkdir()
    Path("out/train.jsonl").write_text("mine")
    with pytest.raises(UsageError, match=r"cannot save to out: it holds train.jsonl, but no job.json"):
        run(models, Trainer(pair.target()), restart=True)
    assert Path("out/train.jsonl").read_text() == "mine"


def test_prompts_in_its_own_folder_are_not_lost(place, models):
    """Giving up an earlier pilot removed the prompts that this one reads."""
    run(models, Trainer(pair.target()))
    Path("mine.jsonl").rename("out/judge.jsonl")
    with pytest.raises(UsageError, match="this run reads it"), outputs.run():
        pilot.pilot(*models, "out/judge.jsonl", "out", PLAN, CONDITIONS, Trainer(pair.target()), restart=True)
    assert len(read("judge")) == 60
    assert Path("out/pilot.json").exists()


@pytest.mark.parametrize("best", [False, True])
def test_short_time_means_fewer_steps(place, models, monkeypatch, best):
    """A minute, four fifths of it, at half a second a step by the clock; 1.5 s were for timing.

    With a DEPLOYMENT, the steps were looked for in the folder of the best evaluation, which has no log.
    """
    monkeypatch.setattr(pilot.time, "monotonic", lambda: 7.0)
    plan = dataclasses.replace(PLAN, steps=900, pilot_steps=300, minutes=1.0)
    train = Trainer(pair.target(), best=best)
    found, said = run(models, train, plan)
    assert train.asked == [("timed", 3), ("trained", 96)]
    assert "96 steps, not 300: --minutes=1, 0.5 s a step" in said
    assert (found.pilot_steps, found.prospect.training_seconds) == (96, 0.25 * (96 + 900))
    assert not Path("out/timed").exists()


def argv(models, *more):
    target, draft = models
    return [f"--target={target}", f"--draft={draft}", "--data=mine.jsonl", "--least_prompts=5", *more]


def test_the_command_writes_the_page_in_both_languages(place, models, monkeypatch, capsys):
    monkeypatch.setattr(asked_flags, "trainer", lambda flags, target: Trainer(pair.target()))
    for language, lang, word in (("en", "en", "Go: "), ("ja", "ja", "実施を推奨: ")):
        status = errors.run(
            command.main, argv(models, f"--language={language}", "--steps=9"), command="pilot"
        )
        assert status == 0
        assert word in capsys.readouterr().out
        assert f'<html lang="{lang}">' in Path("pilot/pilot.html").read_text()
    status = errors.run(command.main, argv(models, "--steps=9", "--pay_back_requests=1"), command="pilot")
    assert status == command.NO_GO


@pytest.mark.parametrize(
    ("lines", "flag", "said"),
    [
        (
            [{"inputs": f"say {i}"} for i in range(9)],
            "--least_prompts=30",
            "mine.jsonl: 9 different prompts, of which",
        ),
        ([{"prompt": "a", "id": 1}] * 9, "--field=promt", "'promt': did you mean 'prompt'? (valid: prompt)"),
        ([{"prompt": "a"}] * 9, "--field=inputs", "no prompts in 9 lines (9 lines without a prompt)"),
        ([], "--field=inputs", "no prompts in 0 lines"),
        (None, "--data=nowhere.jsonl", "cannot read 'nowhere.jsonl'"),
        (None, "--draft=nowhere", "nowhere is not a checkpoint directory"),
        (None, "--draft=words", "another vocabulary"),
        (None, "--minutes=0", "--minutes=0.0: must be at least 1"),
        (None, "--prompts=4", "--prompts=4: must be at least --least_prompts=5"),
        (None, "--pilot_steps=1", "--pilot_steps=1: must be at least 2"),
        (None, "--pilot_steps=500", "--pilot_steps=500: must be at most 300"),
        (None, "--language=fr", "--language"),
        (None, "--gin.TRAIN_STEPS=5", "--gin.TRAIN_STEPS is set by this command"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(place, models, capsys, lines, flag, said):
    if lines is not None:
        write(lines)
    if flag == "--draft=words":
        pair.write(place / "words", pair.without_padding())
    there = sorted(place.iterdir())
    assert errors.run(command.main, argv(models, flag), command="pilot") == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert said in line
    assert sorted(place.iterdir()) == there


@pytest.mark.slow
def test_the_command_as_it_is(place, models, monkeypatch, capsys):
    """Two steps of the tiny pair gain nothing; all of it but the counts."""
    monkeypatch.undo()
    monkeypatch.chdir(place)
    more = ("--steps=6", "--pilot_steps=2", "--prompts=8", "--gin.BATCH_SIZE=4", "--least_gain=0.9")
    assert errors.run(command.main, argv(models, *more), command="pilot") in (
        command.NO_GO,
        command.NOT_ENOUGH,
    )
    assert Path("pilot/pilot.html").is_file()
