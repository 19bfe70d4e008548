"""The trainings and sweeps of the paper's experiments: made once, killed, bound, and whole on a tiny pair."""

import dataclasses
import json

import gin
import pytest
from matplotlib.figure import Figure

from benchmarks import arms, commands
from benchmarks.arms import Arm, Cut, Models, Snapshot
from benchmarks.paper import __main__ as paper
from benchmarks.paper import d_heat_map, models, pages, running, scales
from benchmarks.paper.experiment import Experiment, Found, InTurns, Measurement, figure
from benchmarks.paper.models import FOLDER
from benchmarks.paper.running import Run
from distillspec_jax.cli import bindings
from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.distillation.distill import distill
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import audit, results
from distillspec_jax.evaluation.sweep import RESULTS
from distillspec_jax.training.finetune import finetune
from tests import pair
from tests.test_paper import example

SMOKE = scales.SCALES["smoke"]

ARM = Arm("first", "wiki_leads", ("x.gin",), (("LEARNING_RATE", 0.1),), 16)
SECOND = Arm("second", "wiki_leads", ("x.gin",), (("REFERENCE", ARM), ("TARGET", "zoo:target")), 8)


@pytest.fixture
def commands_run(monkeypatch):
    """Stands in for training and sweeping; after so many commands the process is killed."""
    done, at_most = [], [100]

    def run(argv, place, in_process=False):
        if len(done) >= at_most[0]:
            raise KeyboardInterrupt
        given = dict(flag.removeprefix("--gin.").split("=", 1) for flag in argv if flag.startswith("--gin."))
        if argv[0] == "sweep":
            folder = given["OUTPUT_DIR"]
            known = {r.drafter for r in results.reopen(paper.Path(folder) / RESULTS)}
            wanted = ["none", *json.loads(given["DRAFTERS"].replace("'", '"'))]
            alone, row = example()
            for name in wanted:
                if name not in known:
                    made = alone if name == "none" else dataclasses.replace(row, drafter=name)
                    path = None if name == "none" else json.loads(given["DRAFTERS"].replace("'", '"'))[name]
                    made = dataclasses.replace(made, target=given["TARGET"], drafter_path=path)
                    results.append(paper.Path(folder) / RESULTS, made)
                    done.append(f"row {name}")
                    if len(done) >= at_most[0]:
                        raise KeyboardInterrupt
            return
        folder = paper.Path(given["MODEL_DIR"])
        folder.mkdir(parents=True, exist_ok=True)
        step_s = 0.5 if "dear" in place or given.get("DEAR") else 0.25
        lines = [{"step": s, "split": "train", "step_s": 9.0, "processor_s": step_s} for s in (4, 8)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        done.append(place.rpartition("/")[2])

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(arms, "_keep", lambda folder, step: (folder / f"step-{step}").mkdir(exist_ok=True))
    return done, at_most


@pytest.fixture(scope="module")
def tiny_pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return {name: pair.write(folder / name, getattr(pair, name)()) for name in ("target", "draft")}


def toy(scale, so_far):
    drafters = {"SD": "zoo:draft", "first, seed 0": ARM, "on its way": Snapshot(SECOND, 4), "second": SECOND}
    return [Measurement("b_algorithms", "wiki_leads", "zoo:target", drafters, 40)]


TOY = Experiment("b", "Toy: it", "A claim.", toy, lambda rows: Found("said", str(len(rows)), figure()))


def test_a_killed_run_goes_on_and_ends_with_the_rows_of_one_that_was_not(commands_run, tmp_path):
    """It fails where a training or a row is made twice, or one counts as done before its cost is known."""
    done, at_most = commands_run
    whole = Run(SMOKE, tmp_path / "whole", str).measure(TOY)
    names = list(done)
    assert len(names) == 2 + 5 == len(set(names))
    done.clear()
    for at_most[0] in (1, 2, 3, 5, 100):
        try:
            killed = Run(SMOKE, tmp_path / "killed", str).measure(TOY)
        except KeyboardInterrupt:
            assert at_most[0] < 100
    assert done == names
    assert [row.to_json() for row in killed] == [row.to_json() for row in whole]
    cost = {row.drafter: row.unknown.get("trained", {}) for row in whole}
    assert cost["SD"] == {}
    assert (cost["first, seed 0"]["seconds"], cost["first, seed 0"]["steps"]) == (16 * 0.25, 16)
    assert cost["on its way"]["seconds"] == 16 * 0.25 + 4 * 0.25  # what its reference cost is in it
    assert cost["second"]["seconds"] == 16 * 0.25 + 8 * 0.25


def test_equal_trainings_are_one_and_any_other_setting_makes_another():
    assert ARM.name == dataclasses.replace(ARM).name
    others = [
        dataclasses.replace(ARM, seed=1),
        dataclasses.replace(ARM, steps=8),
        dataclasses.replace(ARM, bindings=(("LEARNING_RATE", 0.2),)),
        dataclasses.replace(ARM, gin_files=("y.gin",)),
        SECOND,
        dataclasses.replace(SECOND, bindings=(("REFERENCE", dataclasses.replace(ARM, seed=1)),)),
    ]
    assert len({one.name for one in others} | {ARM.name}) == 7
    assert ARM.kept == (4, 8, 16)


def test_a_folder_of_other_settings_or_weights_is_refused(tmp_path, tiny_pair):
    draft, root = tmp_path / "draft", tmp_path / "run"
    draft.symlink_to(tiny_pair["draft"])
    scale = dataclasses.replace(SMOKE, target=tiny_pair["target"], draft=str(draft))
    Run(scale, root, str).open()
    Run(scale, root, str).open()
    with pytest.raises(UsageError, match="was made with another steps: choose another --output"):
        Run(dataclasses.replace(scale, steps=5), root, str).open()
    draft.unlink()
    draft.symlink_to(tiny_pair["target"])  # other weights under the same name
    with pytest.raises(UsageError, match="was made with another weights: choose another --output"):
        Run(scale, root, str).open()


def test_an_edited_recipe_is_another_training(tmp_path, monkeypatch):
    """It fails where an old draft is taken for one of a recipe that was edited since."""
    monkeypatch.chdir(tmp_path)
    names = set()
    for files in (
        {"x.gin": "include 'y.gin'", "y.gin": "A = 1"},
        {"x.gin": "include 'y.gin'  # said", "y.gin": "# more\nA = 1"},
        {"y.gin": "A = 2"},
    ):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        arms._name.cache_clear()
        names.add((ARM.name, SECOND.name))
    assert len(names) == len({name for pair in names for name in pair}) / 2 == 2
    arms._name.cache_clear()


def test_an_arm_trains_as_long_as_another_one_costs(commands_run, tmp_path):
    """It fails where equal steps stand for equal cost, or what a draft started from costs nothing."""
    done, _ = commands_run
    made = Models(tmp_path, tell=str)
    dear = dataclasses.replace(SECOND, bindings=(*SECOND.bindings, ("DEAR", 1)), as_long_as=SECOND)
    assert made.path(dear).endswith("step-4"), "(16 + 8) * 0.25 s, less 16 * 0.25 s of its start, at 0.5 s"
    assert made.cost(dear).seconds == made.cost(SECOND).seconds == 24 * 0.25
    assert made.cost(dear).unit == "CPU s"
    done.clear()
    assert Models(tmp_path, tell=str).path(dear) == made.path(dear)
    assert not done
    other = dataclasses.replace(dear, seed=1, as_long_as=dataclasses.replace(SECOND, seed=1))
    made.path(other)
    assert "trials" not in done, "seeds share a trial"


def test_learning_rates_are_chosen_before_anything_else(commands_run, tmp_path, monkeypatch):
    """It fails where (b) and others train at the middle rate although validation prompts prefer another."""
    best = {("wiki_leads", "FKL", "draft"): 1e-3}
    stages = []

    def measure(scale, rows):
        stages.append(scale)
        return toy(scale, rows)

    monkeypatch.setattr(d_heat_map, "chosen", lambda rows: best)
    monkeypatch.setattr(d_heat_map, "EXPERIMENT", dataclasses.replace(TOY, letter="d", measure=measure))
    scale = dataclasses.replace(SMOKE, rates=(1e-3, 2e-3, 4e-3))
    job = Run(scale, tmp_path, str)
    taken = dataclasses.replace(TOY, measure=lambda scale, rows: stages.append(scale) or toy(scale, rows))
    found = job.measure(taken)
    assert [one.chosen for one in stages] == [{}, best]
    arm = models.algorithm(stages[1], "wiki_leads", "DistillSpec")
    assert dict(arm.bindings)["LEARNING_RATE"] == 1e-3
    assert arm.name == models.cell(stages[1], "wiki_leads", "FKL", "draft").name, "one training"
    assert dict(models.algorithm(stages[1], "wiki_leads", "SeqKD").bindings)["LEARNING_RATE"] == 2e-3
    assert not any(row.unknown.get("trained", {}).get("edge") for row in found), "0.1 is none of the rates"


def test_rows_of_drafts_by_an_earlier_recipe_and_a_second_baseline_are_left_out(commands_run, tmp_path):
    job = Run(SMOKE, tmp_path, str)
    rows = job.measure(TOY)
    path = tmp_path / "rows" / "b" / "00-wiki_leads" / RESULTS
    stale = [
        dataclasses.replace(row, prompts_digest="f" * 16, drafter_path="old") for row in results.read([path])
    ]
    for row in stale[1:]:
        results.append(path, row)
    assert job.measure(TOY) == rows
    again = [dataclasses.replace(row, unknown={"part": "again"}) for row in rows]
    assert running.once([*rows, *again]) == rows


def test_an_experiment_that_fails_does_not_stop_the_others(
    commands_run, tiny_pair, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.touch())

    def fails(scale, rows):
        raise UsageError("no such thing")

    broken = dataclasses.replace(TOY, letter="c", title="Broken: it", measure=fails)
    monkeypatch.setattr(paper, "EXPERIMENTS", {"c": broken, "b": TOY})
    job = Run(dataclasses.replace(SMOKE, **tiny_pair), tmp_path / "run", str)
    assert paper.run(job, [broken, TOY], tmp_path / "docs") == 1
    said = capsys.readouterr()
    assert "(c) failed: no such thing" in said.err
    assert "(b) said" in said.out


def trainings(model):
    """The arms behind a model, those of its parents too."""
    model = model.arm if isinstance(model, Snapshot) else model
    if isinstance(model, Arm):
        yield model
        for _, value in model.bindings:
            yield from trainings(value)


def test_every_training_binds_to_its_command():
    """It fails where a macro or a parameter is none of the gin files'; one arm of each kind is bound."""
    kinds = {}
    for experiment in paper.EXPERIMENTS.values():
        for one in experiment.measure(SMOKE, None):
            for model in one.targets.values() if isinstance(one, InTurns) else one.drafters.values():
                for arm in trainings(model):
                    kinds[arm.gin_files] = arm
    assert len(kinds) >= 10
    for arm in kinds.values():
        job = {"distill": distill, "finetune": finetune}[arm.command]
        given = {name: "m" if isinstance(value, Arm | Cut) else value for name, value in arm.bindings}
        given |= {"MIXTURE_OR_TASK_NAME": arm.task, "TRAIN_STEPS": arm.steps, "MODEL_DIR": "m"}
        flags = GinFlags(arm.gin_files, tuple((name, str(value)) for name, value in given.items()))
        bindings.bind(job, flags, given=("gin",))
        found = gin.get_bindings(job)
        gin.clear_config()
        assert found["data"].eval_limit == 0
        assert found.get("deployment") is None
        assert found["loop"].keep > len(arm.kept)


def test_two_experiments_from_training_to_a_page(tmp_path, tiny_pair, monkeypatch):
    """(a) and (e) on a tiny pair, of one draft on its way and at its end; again, nothing is made twice."""
    names, scale = tiny_pair, dataclasses.replace(SMOKE, **tiny_pair)
    arm = models.algorithm(scale, "wiki_leads", "Supervised KD")  # without a sampler that compiles
    drafters = {"SD": names["draft"], "control, seed 0": Snapshot(arm, 2), "DistillSpec, seed 0": arm}
    only = {"TEMPERATURES": "(1.0,)"}
    one = Measurement("a_speedup", "wiki_leads", names["target"], drafters, 6, 5, bindings=only)
    first = dataclasses.replace(paper.EXPERIMENTS["a"], measure=lambda scale, rows: [one])
    monkeypatch.setattr(paper, "EXPERIMENTS", {**paper.EXPERIMENTS, "a": first})
    wanted, told = [first, paper.EXPERIMENTS["e"]], []
    job, docs = Run(scale, tmp_path / "run", told.append), tmp_path / "docs"
    assert paper.run(job, wanted, docs) == 0
    assert sum("training" in line for line in told) == 1
    text = (docs / "a_speedup" / RESULTS).read_text()
    assert str(tmp_path / "run") not in text
    assert not audit.audit(docs / "a_speedup" / RESULTS).violations
    found = {row.drafter: row for row in results.read([docs / "a_speedup" / RESULTS])}
    assert {name: row.unknown.get("trained", {}).get("steps") for name, row in found.items()} == {
        **{"none": None, "SD": None, "control, seed 0": 2, "DistillSpec, seed 0": 4}
    }
    page = (docs / "a_speedup" / pages.PAGE).read_text()
    assert "10 to 45 %" in page
    cells = next(line for line in page.splitlines() if "wiki_leads, T = 1" in line).split("|")
    assert cells[5].strip().startswith(f"{found['SD'].block_efficiency:.2f} (")
    assert "../a_speedup/results.jsonl" in (docs / "e_prompts" / pages.PAGE).read_text()
    assert "<svg" in (docs / "e_prompts" / pages.FIGURE).read_text()
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "models").rglob("*")}
    assert paper.run(job, wanted, docs) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "models").rglob("*")} == files
    assert (docs / "a_speedup" / RESULTS).read_text() == text
    assert paper.run(job, wanted, docs, only_pages=True) == 0
    assert (docs / "a_speedup" / pages.PAGE).read_text() == page


def test_the_models_folder_tells_a_name_from_a_training(tmp_path):
    assert Models(tmp_path).path("zoo:target") == "zoo:target"
    assert Models(tmp_path).cost("lookup") is None
    assert FOLDER.endswith("paper/embedded")
