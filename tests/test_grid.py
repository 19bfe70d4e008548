"""The grid of divergence and data source: whose rows a folder holds, and what a failing cell leaves."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import grid, made_of
from benchmarks.attempts import Attempts
from benchmarks.grid import Job
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.sweep import RESULTS
from distillspec_jax.training.preemption import Preempted
from tests import pair
from tests.evaluation import simulated

CELL = "FKL, fixed"
ROWS = [row for row in simulated.rows(prompts=6, block_sizes=(7,)) if row.drafter == "supervised"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return {name: pair.write(folder / name, getattr(pair, name)()) for name in ("target", "draft")}


@pytest.fixture
def job(tmp_path, models):
    for name, folder in models.items():
        (tmp_path / name).symlink_to(folder)
    return Job("wiki_leads", tmp_path / "grid", 90.0, 6, *(str(tmp_path / name) for name in models))


@pytest.fixture
def asked(job, monkeypatch):
    """The commands and sweeps that were asked for; no step takes any time, and sweeps write two rows."""
    found = []

    def sweep(target, drafters, *, output_dir, **_):
        found.append((target, drafters))
        for row in ROWS:
            results.append(output_dir / RESULTS, dataclasses.replace(row, drafter=next(iter(drafters))))
        return results.reopen(output_dir / RESULTS)

    monkeypatch.setattr(grid, "sweep", sweep)
    monkeypatch.setattr(grid.commands, "run", lambda argv, place: found.append(argv))
    monkeypatch.setattr(grid.arms, "timed_trial", lambda train, trial: 9.0)
    return found


def test_cells_are_trained_and_measured_with_the_pair_that_was_asked_for(job, asked):
    """It fails where training or measuring takes the zoo's models in the place of those of the flags."""
    assert len(list(grid.run_task(job, [CELL], 0, Attempts()))) == 3
    sweeps = [one for one in asked if isinstance(one, tuple)]
    assert [target for target, _ in sweeps] == [job.target] * 3
    assert sweeps[0][1] == {"supervised": job.draft}
    control, cell = (one for one in asked if isinstance(one, list))
    assert f"--gin.INITIAL_CHECKPOINT_PATH={job.draft}" in control
    assert {f"--gin.TARGET={job.target}", f"--gin.DRAFT={job.draft}", "--gin.TRAIN_STEPS=10"} <= set(cell)
    asked.clear()
    assert len(list(grid.run_task(job, [CELL], 0, Attempts()))) == 3
    assert not asked, "all rows are there"


def test_a_folder_of_other_weights_is_refused(job, asked, models):
    """It fails where rows are matched by label alone: a new draft under the old name has none yet."""
    list(grid.run_task(job, [], 0, Attempts()))
    with pytest.raises(UsageError, match="was made with another seed: choose another --output"):
        list(grid.run_task(job, [], 1, Attempts()))
    Path(job.draft).unlink()
    Path(job.draft).symlink_to(models["target"])
    with pytest.raises(UsageError, match="was made with another draft: choose another --output"):
        list(grid.run_task(job, [], 0, Attempts()))
    (job.folder / made_of.MADE_OF).unlink()
    with pytest.raises(UsageError, match=r"has results.jsonl but no made_of.json"):
        list(grid.run_task(job, [], 0, Attempts()))


def test_a_cell_that_fails_does_not_stop_the_others(job, asked, monkeypatch, capsys):
    def run(argv, place):
        if argv[0] == "finetune":
            raise UsageError("no room")

    monkeypatch.setattr(grid.commands, "run", run)
    attempts = Attempts()
    lines = list(grid.run_task(job, [CELL], 0, attempts))
    assert [line.split(": ")[1] for line in lines] == ["supervised", CELL]
    assert (attempts.failed, attempts.status) == (["wiki_leads: control"], 1)
    assert "wiki_leads: control failed: no room" in capsys.readouterr().err

    def stopped(argv, place):
        raise Preempted("stopped, resumable")

    monkeypatch.setattr(grid.commands, "run", stopped)
    with pytest.raises(Preempted):
        list(grid.run_task(job, [CELL], 0, attempts))


def test_published_folders_are_of_the_recipes_pair():
    """Their rows were measured with these weights, as the rows' own digests tell."""
    root = Path(__file__).parents[1] / "docs" / "results"
    for kind in ("grid", "chosen"):
        for folder in sorted((root / kind).iterdir()):
            flags = argparse.Namespace(output=root / kind, seconds=0.0, prompts=0, target=None, draft=None)
            there = json.loads((folder / made_of.MADE_OF).read_text())
            job = Job.of(folder.name, flags)
            assert {role: [name] for role, name in job.pair.items()} == {
                role: list(there[role]) for role in job.pair
            }
