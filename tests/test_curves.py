"""The learning curves' driver and page, on curves that a formula draws; nothing is trained."""

import json

import gin
import pytest

from benchmarks import curves, curves_page, curves_results, curves_verdict, grid
from benchmarks.curves_results import Curve
from benchmarks.curves_verdict import overtakes
from distillspec_jax.cli import bindings, errors
from distillspec_jax.cli.gin_flags import GinFlags
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.distillation.distill import distill
from distillspec_jax.distillation.replay import Replayed
from distillspec_jax.distillation.schedules import Turning
from distillspec_jax.distillation.sources import Fixed, Mixture, OnPolicy
from distillspec_jax.distillation.stale import Stale
from distillspec_jax.distillation.survival import Survival
from distillspec_jax.errors import UsageError

TOPS = {"fixed": 0.70, "on_policy": 0.74, "stale": 0.72}


def height(source, learning_rate, seed):
    """Own samples reach more than references, more slowly; the middle rate is the best."""
    top = TOPS[source]
    return top - 20 * abs(learning_rate - 1e-3) + 0.01 * seed


def evaluations(cell):
    steps = range(0, 700, 100)
    rise = 0.2 * (2 if cell.source == "on_policy" else 1)
    top = height(cell.source, cell.learning_rate, cell.seed)
    for step in steps:
        value = top - rise * max(0.0, 1 - step / 400)
        yield {"step": step, "acceptance_expected_T1": value, "acceptance_expected_T0": value / 2}


@pytest.fixture
def trained(monkeypatch):
    """The cells that were trained, by name, and how many may be; each leaves the metrics that a run would.

    A model is its name and its own fingerprint; test prompts give a draft what validation prompts gave."""
    found, at_most = [], [100]

    def train(cell, macros, directory, flags=()):
        if macros.get("EVAL_PERIOD") != 0:  # no trial
            assert len(found) < at_most[0], "killed"
            found.append(cell.name)
        directory.mkdir(parents=True)
        lines = [{"split": "eval", **one} for one in evaluations(cell)]
        step_s = 0.1 if cell.source == "fixed" else 0.2
        lines.append({"step": 600, "split": "train", "step_s": step_s})
        (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return directory

    def measured(task, folders, prompts):
        for name in folders:
            _, source, _, rate, seed = name.split("-")
            alpha = height(source, float(rate), int(seed))
            yield name, {"acceptance": [10 * alpha] * prompts, "tokens": [10] * prompts}

    monkeypatch.setattr(curves, "_train", train)
    monkeypatch.setattr(curves_verdict, "measured", measured)
    monkeypatch.setattr(curves_results, "weights", lambda names: {name: name for name in names})
    return found, at_most


ARGV = ["wiki_leads", "--source=fixed", "--source=on_policy", "--seeds=3"]


def test_a_killed_run_goes_on_and_trains_no_cell_twice(trained, tmp_path):
    names, most = trained
    argv = [*ARGV, f"--output={tmp_path}"]
    for most[0] in (5, 25):
        with pytest.raises(AssertionError, match="killed"):
            curves.main(argv)
    most[0] = 100
    assert curves.main(argv) == 0
    # Two sources, three divergences, four rates; and two more seeds of each source's best.
    assert len(names) == len(set(names)) == 24 + 4
    assert len(curves.read(tmp_path)) == 28
    assert names[-1] == "wiki_leads-on_policy-FKL-0.001-2"
    before = (tmp_path / "page.md").read_text()
    assert curves.main([*argv, "--page"]) == 0
    assert (tmp_path / "page.md").read_text() == before
    # Both rise for 400 steps, of which one of own samples takes twice as long. Three seeds a hundredth apart:
    # Welch's half width is 2.776 * 0.01 * sqrt(2 / 3).
    assert (
        "`on_policy` (own samples alone): +0.040 over `fixed` (+0.040 to +0.040 over prompts, +0.017 to "
        "+0.063 over 3 and 3 seeds): the paper's order holds; on validation prompts never behind from 400 "
        "steps on, never behind from 80 seconds on." in before
    )
    assert "`mix` (half own samples, half the target's texts): not yet measured" in before
    assert "| FKL | 0.700 (0.001) | 0.740 (0.001) |" in before
    assert "| on_policy | FKL, 0.001 | 3 | 0.750 (0.740–0.760) | – | 400 | 80 | 600 |" in before
    assert "| on_policy | FKL, 0.001 | 3 | 0.375 (0.370–0.380) | – | 400 | 80 | 600 |" in before
    assert "<svg" in (tmp_path / "wiki_leads.svg").read_text()
    del names[:]
    assert curves.main(["wiki_leads", "--source=stale", "--seeds=1", f"--output={tmp_path}"]) == 0
    assert names == ["wiki_leads-stale-FKL-0.001-0"]  # at the best of on_policy alone


FEW = ["wiki_leads", "--source=fixed", "--divergence=TVD", "--seeds=1"]


def test_a_cell_that_fails_stops_no_other_and_is_told(trained, tmp_path, monkeypatch, capsys):
    names, train = trained[0], curves._train

    def diverges(cell, macros, directory, flags=()):
        if cell.learning_rate == 5e-4 and macros.get("EVAL_PERIOD") != 0:
            raise UsageError("loss is not finite")
        return train(cell, macros, directory, flags)

    monkeypatch.setattr(curves, "_train", diverges)
    for _ in range(2):
        assert curves.main([*FEW, f"--output={tmp_path}"]) == 1
        assert len(names) == 3
        assert "Failed: wiki_leads-fixed-TVD-0.0005-0 (loss is not finite)." in capsys.readouterr().out


def test_what_another_process_added_meanwhile_stays(trained, tmp_path, monkeypatch):
    train, other = curves._train, Curve("wiki_leads", "mix", "RKL", 1e-3, 0, 0.1, [{"step": 0}], "stopped")

    def trains_beside_another(cell, macros, directory, flags=()):
        if macros.get("EVAL_PERIOD") != 0:
            curves_results.add(other, tmp_path)
        return train(cell, macros, directory, flags)

    monkeypatch.setattr(curves, "_train", trains_beside_another)
    assert curves.main([*FEW, "--rate=1e-3", f"--output={tmp_path}"]) == 1
    assert [curve.source for curve in curves.read(tmp_path)] == ["mix", "fixed"]


def test_other_weights_or_another_schedule_need_another_folder(trained, tmp_path, monkeypatch):
    argv = [*FEW, "--rate=1e-3", f"--output={tmp_path}"]
    assert curves.main(argv) == 0
    with pytest.raises(UsageError, match=r"schedule is 'constant', not '20000 steps with a cool-down'"):
        curves.main([*argv, "--cool_down"])
    monkeypatch.setattr(curves_results, "weights", lambda names: {name: f"new {name}" for name in names})
    with pytest.raises(UsageError, match=r"target of wiki_leads is 'zoo:.*', not 'new zoo:.*choose another"):
        curves.main(argv)
    (tmp_path / curves_results.MADE_OF).unlink()
    with pytest.raises(UsageError, match="holds curves of unknown models"):
        curves.main(argv)


def test_a_difference_counts_if_prompts_and_seeds_agree():
    def seeds(*alphas):
        return [{"acceptance": [10 * alpha] * 8, "tokens": [10] * 8} for alpha in alphas]

    def found(ours, theirs):
        return curves_verdict.outcome(*curves_verdict.differences(seeds(*ours), seeds(*theirs)))

    assert found((0.74, 0.745, 0.75), (0.70, 0.705, 0.71)) == "above"
    assert found((0.70, 0.705, 0.71), (0.74, 0.745, 0.75)) == "below"
    assert found((0.60, 0.70, 0.80), (0.65, 0.66, 0.67)) == "undecided"  # the seeds do not agree
    assert found((0.74,), (0.70,)) == "undecided"  # one seed tells nothing of others


def test_one_curve_overtakes_another_where_it_is_never_below_again():
    rising = {0: 0.0, 100: 0.5, 200: 1.0}
    assert overtakes(rising, {0: 0.4, 100: 0.4, 200: 0.4}) == 100
    assert overtakes(rising, rising) == 0
    assert overtakes(rising, {0: 0.0, 100: 0.0, 200: 1.1}) is None
    assert overtakes(rising, {0: 0.6, 50: 0.8}) == 200  # where it ended, the other stays at 0.8
    assert overtakes({}, rising) is None


def test_a_gap_in_a_value_is_no_value():
    """What is no number in metrics.jsonl is null."""
    rows = [
        {"step": 0, "acceptance_expected_T1": 0.2},
        {"step": 100, "acceptance_expected_T1": None},
        {"step": 200, "acceptance_expected_T1": 0.1},
    ]
    curve = Curve("wiki_leads", "fixed", "FKL", 1e-3, 0, 0.1, rows)
    assert curve.best() == rows[0]
    mean = curves_page.mean_curve([curve], "acceptance_expected_T1")
    assert mean == {0: 0.2, 200: 0.1}
    assert curves_verdict.best_so_far(mean, 0.5) == {0: 0.2, 100: 0.2}


def test_each_temperature_has_its_own_step():
    rows = [
        {"step": step, "acceptance_expected_T1": at_one, "acceptance_expected_T0": at_zero}
        for step, at_one, at_zero in ((0, 0.2, 0.5), (100, 0.3, 0.4))
    ]
    curve = Curve("wiki_leads", "fixed", "FKL", 1e-3, 0, 0.1, rows)
    assert (curve.best()["step"], curve.best("acceptance_expected_T0")["step"]) == (100, 0)


def test_bad_input_is_one_line(tmp_path, capsys):
    for argv, says in (
        (["wiki_lead"], "no recipe for task 'wiki_lead': did you mean 'wiki_leads'"),
        (["--source=on_polcy"], "no source 'on_polcy': did you mean 'on_policy'"),
        (["--divergence=FKLL"], "no divergence 'FKLL': did you mean 'FKL'"),
        (["--seeds=0"], "--seeds=0: must be at least 1"),
    ):
        assert errors.run(curves.main, [*argv, f"--output={tmp_path / 'none'}"], command="curves") == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    (tmp_path / "curves.jsonl").write_text('{"task": "wiki_leads"}\n')
    with pytest.raises(
        UsageError, match=r"curves\.jsonl:1: not a line of curves\.jsonl: .* missing 6 required"
    ):
        curves.read(tmp_path)


SOURCES = {
    "fixed_own": Mixture((Fixed(), OnPolicy()), (0.5, 0.5)),
    "stale": Stale(),
    "survival": OnPolicy(),
    "cooler": OnPolicy(0.5),
    "growing": Turning(Fixed(), OnPolicy(), 0, 2000),
    "turning": Turning(Fixed(), OnPolicy(), 1000, 1000),
    "replay": Replayed(max_tokens=7),
    "replay_references": Replayed(max_tokens=7, texts=Fixed(), cut="random"),
}


@pytest.mark.parametrize("name", curves.SOURCES)
def test_every_source_binds_to_a_run_until_its_curve_is_flat(name):
    needed = {"TARGET": "t", "DRAFT": "d", "MODEL_DIR": "m", "MIXTURE_OR_TASK_NAME": "x"}
    gin_files = (curves.SOURCES[name], "experiments/curves/until_flat.gin")
    bindings.bind(distill, GinFlags(gin_files, tuple(needed.items())), given=("gin",))
    bound = gin.get_bindings(distill)
    loop = bound["loop"]
    assert (loop.patience * loop.eval_period, loop.patience_after) == (500, 2000)
    assert bound["deployment"] == Deployment(1.0)
    assert bound["own_texts"] > 0
    assert name in grid.SOURCES or bound["source"] == SOURCES[name]
    assert bound["weighting"] == (Survival() if name == "survival" else None)
    assert set(curves.DIVERGENCES) <= set(grid.DIVERGENCES)
    assert isinstance(bound["source"], Turning) == (name in curves.TIMED_AS)
