"""Distilling again: what passes the gate, what does not, and what a killed run leaves."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from distillspec_jax.cli import errors, redistill
from distillspec_jax.data import catalog
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import profiling
from distillspec_jax.operations import admission, gate, prompts, redistillation, rollout
from distillspec_jax.operations.gate import Conditions
from distillspec_jax.operations.held_out import HeldOut
from distillspec_jax.operations.prompts import Prompt
from distillspec_jax.operations.redistill_folder import Plan
from distillspec_jax.training import job
from tests import pair
from tests.operations import trainers
from tests.operations.trainers import Killed, Trainer

CONDITIONS = Conditions(least_prompts=5, pay_back_requests=10**6)
PLAN = Plan(steps=8, pilot_steps=2, prompts=8, block_size=3)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The pair with the lengths of `tests.cli`'s task, whose training is compiled for these, too."""
    folder = tmp_path_factory.mktemp("models")
    target, draft = (
        dataclasses.replace(
            model, card=dataclasses.replace(model.card, feature_lengths={"inputs": 16, "targets": 8})
        )
        for model in (pair.target(), pair.draft())
    )
    return pair.write(folder / "target", target), pair.write(folder / "draft", draft)


@pytest.fixture
def logs(tmp_path):
    for name, start in (("new", 0), ("old", 100)):
        lines = [
            {"inputs": f"say {i:03}", "outputs": f"{i}", "temperature": 0} for i in range(start, start + 60)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [str(tmp_path / "new.jsonl")], [str(tmp_path / "old.jsonl")]


@pytest.fixture
def counted(monkeypatch):
    trainers.count(monkeypatch)
    profiled = []
    monkeypatch.setattr(profiling, "profile", lambda folder, **options: profiled.append(folder))
    return profiled


@pytest.fixture
def registry(tmp_path, models):
    return admission.create(tmp_path / "drafts", *models)


def run(registry, logs, train, plan=PLAN, conditions=CONDITIONS, **options):
    said = []
    found = redistillation.redistill(
        registry, None, *logs, plan, conditions, train, say=said.append, **options
    )
    return found, said


def test_a_better_draft_becomes_a_version(registry, counted, logs):
    train = Trainer(pair.target())
    found, _ = run(registry, logs, train)
    assert (found.outcome, found.version) == ("passed", "v2")
    assert train.asked == [("pilot", 2), ("full", 8)]
    kept = registry.check("v2")
    assert (kept.parent, kept.training.seconds) == ("v1", 0.25 * (2 + 8))
    assert kept.gate is not None
    assert kept.gate["outcome"] == "passed"
    assert kept.gate["acceptance"] == [1 / 6, 1.0]
    assert kept.gate["new"] == {"ratio": 2.0, "ci95": [2.0, 2.0]}  # there might have been a second look
    assert counted == [registry.path / "redistill" / "full"]
    assert registry.state().revision == 1  # it serves nothing yet
    assert not (registry.path / "redistill").exists()
    sample = prompts.read_sample(registry.path / "prompts.jsonl")
    assert sorted(one.inputs for one in sample) == [f"say {i:03}" for i in (*range(60), *range(100, 160))]
    assert {one.since for one in sample if one.inputs < "say 100"} == {"v2"}
    # The same log once more holds nothing new.
    again, _ = run(registry, (logs[0], []), train)
    assert (again.outcome, again.reason) == ("not enough", "0 new held-out prompts, the gate needs 5")


def test_a_gate_that_cannot_tell_asks_more_prompts(registry, counted, logs, monkeypatch):
    """A training was thrown away because eight old prompts could not show that nothing was lost."""
    looks, judge = [], gate.judge

    def at_first_unknown(stable, candidate, cost, conditions, most):
        found = judge(stable, candidate, cost, conditions, most)
        looks.append((len(stable.new), len(candidate.old), most))
        return found if len(looks) > 1 else dataclasses.replace(found, outcome="refused", reason="who knows")

    monkeypatch.setattr(gate, "judge", at_first_unknown)
    found, said = run(registry, logs, Trainer(pair.target()))
    assert (found.outcome, found.version) == ("passed", "v2")
    held_out = [sum(Prompt(inputs=f"say {i:03}").held_out for i in range(s, s + 60)) for s in (0, 100)]
    assert looks == [(8, 8, 2), (*held_out, 2)]
    assert f"who knows; to tell, {held_out[0] - 8} new and {held_out[1] - 8} old prompts more" in said
    assert registry.lineage("v2").gate["acceptance"] == [1 / 6, 1.0]


def test_what_is_held_out_is_never_trained_on(registry, counted, logs):
    seen = {}

    class Reader(Trainer):
        def __call__(self, draft, folder, task, steps):
            spec = catalog.find_task(task)
            seen["validation"] = {row["inputs"] for row in catalog.read_rows(spec, "validation")}
            for name in ("train", "new", "old", "more_new", "more_old"):
                seen[name] = {one.inputs for one in prompts.read_sample(folder.parent / f"{name}.jsonl")}
            return super().__call__(draft, folder, task, steps)

    run(registry, logs, Reader(pair.target()))
    judged = [seen[name] for name in ("new", "old", "more_new", "more_old")]
    assert not seen["train"] & set().union(*judged)
    assert seen["validation"]
    assert not seen["validation"] & set().union(seen["train"], *judged), (
        "the best checkpoint was chosen by the prompts that judge it"
    )
    assert len(set().union(*judged)) == sum(map(len, judged))
    assert len(seen["new"]) >= 5
    assert any(text >= "say 100" for text in seen["train"])  # old ones, too


def test_the_gate_decodes_as_the_service_does(registry, counted, logs, monkeypatch):
    """Its top_k and top_p were ignored."""
    path = Path(logs[0][0])
    path.write_text(
        path.read_text().replace('"temperature": 0', '"temperature": 1, "top_k": 7, "top_p": 0.5')
    )
    seen, known = [], HeldOut._decode

    def noted(self, draft):
        seen.append(self.settings)
        return known(self, draft)

    monkeypatch.setattr(HeldOut, "_decode", noted)
    run(registry, logs, Trainer(pair.draft()))
    assert set(seen) == {Deployment(1.0, 7, 0.5)}


def test_a_draft_that_gained_nothing_is_refused(registry, counted, logs, tmp_path):
    train = Trainer(pair.draft())
    found, _ = run(
        registry, logs, train, dataclasses.replace(PLAN, pilot_steps=0), keep=str(tmp_path / "kept")
    )
    assert (found.outcome, found.version) == ("refused", None)
    assert "no gain of 1.0% on new prompts: +0.0 %" in found.reason
    assert registry.versions() == ["v1"]
    assert (tmp_path / "kept" / "model.json").is_file()
    sample = prompts.read_sample(registry.path / "prompts.jsonl")
    assert all(one.inputs >= "say 100" for one in sample)  # what no draft was trained on is not old


def test_a_pilot_without_a_gain_ends_it(registry, counted, logs):
    train = Trainer(pair.draft())
    found, _ = run(registry, logs, train)
    assert train.asked == [("pilot", 2)]
    assert found.outcome == "refused"
    assert "the pilot of 2 steps changed block efficiency on new prompts by +0.0%" in found.reason


def test_a_pilot_that_forgets_ends_it(registry, counted, logs, monkeypatch):
    """The whole training was paid for, and then refused for what the pilot had shown."""
    known = HeldOut._decode

    def forgetful(self, draft):
        records, seconds = known(self, draft)
        lost = dataclasses.replace(records[0], emitted_tokens=4, tested=4, accepted=0)
        gained = records[0].accepted > 1
        return [
            *records[: len(self.new)],
            *(lost if gained else one for one in records[len(self.new) :]),
        ], seconds

    monkeypatch.setattr(HeldOut, "_decode", forgetful)
    train = Trainer(pair.target())
    found, _ = run(registry, logs, train)
    assert train.asked == [("pilot", 2)]
    assert found.outcome == "refused"
    assert "the pilot of 2 steps has lost more than 3.0% on old prompts: -20.0%" in found.reason


def test_a_training_that_never_pays_is_not_begun(registry, counted, logs):
    train = Trainer(pair.target())
    found, _ = run(registry, logs, train, conditions=dataclasses.replace(CONDITIONS, pay_back_requests=1))
    assert train.asked == [("pilot", 2)]
    assert "paid back after" in found.reason


@pytest.mark.parametrize("at", [0, 1])
def test_a_killed_run_goes_on_with_what_it_had(registry, counted, logs, at):
    """The log had grown, and the second half of a run was trained on other prompts."""
    train = Trainer(pair.target(), dies_at=at)
    with pytest.raises(Killed):
        run(registry, logs, train)
    with open(logs[0][0], "a") as log:
        log.write('{"inputs": "later"}\n')
    train.dies_at = None
    found, said = run(registry, logs, train)
    assert said[0] == "going on with the prompts that were read for v2"
    assert found.version == "v2"
    sample = prompts.read_sample(registry.path / "prompts.jsonl")
    assert "later" not in {one.inputs for one in sample}


def test_killed_between_the_version_and_the_end(registry, counted, logs, monkeypatch):
    """The version was there, and the same call trained it again as the next one."""
    train = Trainer(pair.target())
    with monkeypatch.context() as patched:
        emptied = []
        patched.setattr(redistillation, "empty", emptied.append)
        assert run(registry, logs, train)[0].version == "v2"
    found, _ = run(registry, logs, train)
    assert (found.outcome, found.version, found.reason) == ("passed", "v2", "it was added before")
    assert registry.versions() == ["v1", "v2"]


def test_a_version_that_passed_may_begin_its_rollout(registry, counted, logs, monkeypatch):
    """Killed before the first share was given, the version waited for ever."""
    train, plan = Trainer(pair.target()), dataclasses.replace(PLAN, stage=True)
    with monkeypatch.context() as patched:
        patched.setattr(rollout, "start", Trainer(None, dies_at=0))
        with pytest.raises(Killed):
            run(registry, logs, train, plan)
    assert registry.state().candidate is None
    found, _ = run(registry, logs, train, plan)
    assert found.reason == "it was added before"
    assert (registry.state().candidate, registry.state().share) == ("v2", 0.01)
    with pytest.raises(UsageError, match="v2 is being rolled out: leave --stage out"):
        run(registry, logs, train, plan)


def test_somebody_elses_version_of_that_name_is_not_taken_for_its_own(registry, counted, logs, models):
    train = Trainer(pair.target(), dies_at=1)
    with pytest.raises(Killed):
        run(registry, logs, train)
    assert admission.add(registry, models[1]) == "v2"
    train.dies_at = None
    assert run(registry, logs, train)[0].version == "v3"
    sample = prompts.read_sample(registry.path / "prompts.jsonl")
    assert {one.since for one in sample if one.inputs < "say 100"} == {"v3"}


def test_another_call_does_not_go_on_with_a_run(registry, counted, logs):
    train = Trainer(pair.target(), dies_at=1)
    with pytest.raises(Killed):
        run(registry, logs, train)
    train.dies_at = None
    with pytest.raises(UsageError, match="a redistillation whose steps is 8, not 9: give the same call"):
        run(registry, logs, train, dataclasses.replace(PLAN, steps=9))
    found, _ = run(registry, logs, train, dataclasses.replace(PLAN, steps=9), restart=True)
    assert found.version == "v2"


def test_a_registry_that_knows_no_earlier_prompts_asks_for_some(registry, counted, logs):
    with pytest.raises(UsageError, match=r"knows no earlier prompts: give some of those that v1 was"):
        run(registry, (logs[0], []), Trainer(pair.target()))


def test_a_refused_call_writes_nothing(registry, counted, logs):
    """Old prompts were remembered of a call that then could not tell its temperature."""
    with open(logs[0][0], "a") as log:
        log.write('{"inputs": "warm", "temperature": 1}\n')
    with pytest.raises(UsageError, match=r"several temperatures \(0, 1\)"):
        run(registry, logs, Trainer(pair.target()))
    shutil.rmtree(registry.path_of("v1"))
    with pytest.raises(UsageError, match="has no version 'v1'"):
        run(registry, logs, Trainer(pair.target()), dataclasses.replace(PLAN, temperature=0.0))
    assert sorted(one.name for one in registry.path.iterdir()) == ["registry.json", "versions"]


def command(registry, logs) -> list[str]:
    argv = [f"--registry={registry.path}", f"--log={logs[0][0]}", f"--old={logs[1][0]}", "--pilot_steps=0"]
    return [*argv, "--steps=2", "--prompts=8", "--least_prompts=5", "--gin.BATCH_SIZE=4"]


def test_the_command_trains_by_the_recipe(registry, counted, logs, capsys, monkeypatch, models):
    """All of `distill` but the steps themselves."""

    def trained(directory, card, model, params, loss, data, loop, *others, verb, **more):
        assert (loop.total_steps, loop.batch_size, verb) == (2, 4, "distil")
        assert card.provenance["parents"] == {"target": models[0], "draft": str(registry.path_of("v1"))}
        assert "DIVERGENCE = @divergences.TotalVariation()" in card.provenance["gin"]
        rows = [row["inputs"] for row in catalog.read_rows(catalog.find_task(card.task), "train")]
        assert any(row < "say 100" for row in rows)
        pair.write(Path(directory), dataclasses.replace(pair.target(), card=card))
        (Path(directory) / "metrics.jsonl").write_text('{"step": 2, "split": "train", "step_s": 0.5}\n')
        return Path(directory)

    monkeypatch.setattr(job, "run", trained)
    argv = [*command(registry, logs), "--gin.DIVERGENCE=@divergences.TotalVariation()"]
    assert errors.run(redistill.main, argv, command="redistill") == 0
    captured = capsys.readouterr()
    assert "drafts: passed: v2: block efficiency +100.0 % (+100.0 to +100.0) on new prompts" in captured.out
    assert "full: 2 steps from v1" in captured.err
    assert registry.check("v2").training.gin
    assert errors.run(redistill.main, [*command(registry, logs), "--gin.CHAT=True"], command="redistill") == 2


@pytest.mark.slow
def test_the_command_as_it_is(registry, logs, capsys):
    """Two steps of the tiny pair gain nothing."""
    argv = [*command(registry, logs), "--least_gain=0.9"]
    assert errors.run(redistill.main, argv, command="redistill") == 1
    assert "refused: no new version: no gain of 90.0% on new prompts" in capsys.readouterr().out
    assert registry.versions() == ["v1"]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--gin.TRAIN_STEPS=5", "--gin.TRAIN_STEPS is set by this command"),
        ("--pilot_steps=500", "--pilot_steps=500: must be at most 300"),
        ("--prompts=29", "--prompts=29: must be at least --least_prompts=30"),
        ("--old_share=1", "--old_share=1.0: must be at most 0.95"),
        ("--margin=nan", "--margin=nan: must be at least 0"),
        ("--temperature=-1", "--temperature=-1.0: must be at least 0"),
        ("--log=nowhere.jsonl", "cannot read 'nowhere.jsonl'"),
        ("--target=nowhere", "nowhere is not a checkpoint directory"),
    ],
)
def test_bad_flags(registry, logs, capsys, flag, said):
    argv = [f"--registry={registry.path}", f"--log={logs[0][0]}", flag]
    assert errors.run(redistill.main, argv, command="redistill") == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "error" in one]
    assert said in line
