"""`python -m benchmarks.curves [TASK ...]`: learning curves of data sources, until acceptance stops rising.

A cell is one `distillspec distill` from the zoo's supervised draft at a constant rate: task × source ×
divergence × learning rate, and over further seeds the best divergence and rate of each source, chosen on
validation prompts. Sources beyond the first five are run with the best divergence and rate of `on_policy`
alone. A cell ends when acceptance at T = 1 has not risen for 500 steps (experiments/curves). The seconds of a
step on each source are measured first, one after the other, on an otherwise idle machine. Last, the chosen
drafts are measured on test prompts.

A finished cell is a line of `curves.jsonl`, from which, with `test.json`, the page and its figures are made.
Run it again to resume. A cell that failed is a line, too, and the status is 1; remove the line to try again.
Hours, or days.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import arms, curves_page, curves_verdict, grid
from benchmarks.curves_results import ACCEPTANCE, Cell, Curve, add, check_made_of, finished, read
from distillspec_jax import checkpoint, files, training_log
from distillspec_jax.cli import errors
from distillspec_jax.errors import UsageError, check_number, nearest
from distillspec_jax.showcase.recipes import RECIPES
from distillspec_jax.training.writers import METRICS_FILE

SOURCES: Mapping[str, str] = {
    **{source: f"experiments/grid/{source}.gin" for source in grid.SOURCES},
    **{
        source: f"experiments/curves/{source}.gin"
        for source in (
            "fixed_own",
            "stale",
            "survival",
            "cooler",
            "growing",
            "turning",
            "replay",
            "replay_references",
        )
    },
}
"""The gin file of each source."""
FIRST = (*grid.SOURCES, "fixed_own")
"""Sources that are run by default, and with every divergence and rate."""
LEADER = "on_policy"
"""The source whose best divergence and rate the others are run with."""
_TURNED = ["--gin.schedules.Turning.begin=0", "--gin.schedules.Turning.end=0"]
TIMED_AS: Mapping[str, Sequence[str]] = {"growing": _TURNED, "turning": _TURNED}
"""Flags with which a step of a source is timed: after its turn. Before it, a step takes less than that."""
DIVERGENCES = ("FKL", "JSD 0.5", "TVD")
RATES = (2e-4, 5e-4, 1e-3, 2e-3)
Recipes = Sequence[tuple[str, float]]


def first_cells(tasks: Iterable[str], sources: Iterable[str], recipes: Recipes) -> Iterator[Cell]:
    """Every divergence and rate on every source, one seed."""
    for task, source, recipe in itertools.product(tasks, sources, recipes):
        yield Cell(task, source, *recipe, seed=0)


def following_cells(curves: Sequence[Curve], tasks: Iterable[str], sources: Iterable[str]) -> Iterator[Cell]:
    """Each source with the leader's best divergence and rate, one seed.

    Raises:
      UsageError: the leader has not been run on a task.
    """
    for task, source in itertools.product(tasks, sources):
        best = curves_page.chosen(curves, task, LEADER)
        if not best:
            raise UsageError(
                f"--source={source}: it takes the best divergence and rate of {LEADER}, of which there is no "
                f"curve on {task} yet: run that first, or give --divergence and --rate"
            )
        yield Cell(task, source, *best[0].recipe, seed=0)


def further_cells(
    curves: Sequence[Curve], tasks: Iterable[str], sources: Iterable[str], seeds: int
) -> Iterator[Cell]:
    """The other seeds of the best divergence and rate of each task and source."""
    for task, source in itertools.product(tasks, sources):
        for best in curves_page.chosen(curves, task, source)[:1]:
            for seed in range(1, seeds):
                yield Cell(task, source, *best.recipe, seed)


def run(cells: Iterable[Cell], root: Path, macros: Mapping[str, Any]) -> Iterator[str]:
    """Trains the cells that the results do not hold, adds a line for each, and says so.

    Args:
      macros: in the place of those of `until_flat.gin`.
    """
    for cell in cells:
        if any(curve.name == cell.name for curve in read(root)):
            continue
        seconds = _seconds_a_step(cell.task, cell.source, root)
        directory, failed = root / "models" / cell.name, None
        try:
            _train(cell, macros, directory)
        except UsageError as error:  # a loss that is not finite; the other cells go on
            failed = str(error)
        log = directory / METRICS_FILE
        evaluations = [
            {name: value for name, value in line.items() if name != "split"}
            for line in (training_log.read(log) if log.exists() else ())
            if line["split"] == "eval"
        ]
        curve = Curve(
            **dataclasses.asdict(cell), seconds_a_step=seconds, evaluations=evaluations, failed=failed
        )
        add(curve, root)
        shutil.rmtree(directory / checkpoint.STEPS, ignore_errors=True)  # the best draft stays
        if failed is not None:
            yield f"{cell.name}: failed: {failed}"
            continue
        best = curve.best()
        yield f"{cell.name}: {best[ACCEPTANCE]:.4f} at step {best['step']} of {curve.steps}"


def _seconds_a_step(task: str, source: str, root: Path) -> float:
    """Measured once, and kept with the results."""
    path = root / "steps.json"
    kept: dict[str, float] = files.read_json(path) if path.exists() else {}
    name = f"{task}/{source}"
    if name not in kept:
        cell = Cell(task, source, "FKL", RATES[0], 0)
        trial = {"TRAIN_STEPS": grid.TRIAL_STEPS, "EVAL_PERIOD": 0, "PATIENCE": 0, "OWN_TEXTS": 0}
        train = functools.partial(_train, cell, trial, flags=TIMED_AS.get(source, ()))
        kept[name] = arms.timed_trial(train, root / "trial")
        files.write_whole(path, files.as_json(kept, indent=1) + "\n")
    return kept[name]


def _train(cell: Cell, macros: Mapping[str, Any], directory: Path, flags: Sequence[str] = ()) -> Path:
    recipe = RECIPES[cell.task]
    gin_files = SOURCES[cell.source], "experiments/curves/until_flat.gin"
    command = ["distill", *(f"--gin_file={file}" for file in gin_files), "--check_prompts=0"]
    given = {"TARGET": recipe.target, "DRAFT": recipe.draft, "SEED": cell.seed}
    given |= {"LEARNING_RATE": cell.learning_rate, **macros}
    return grid.start(command, cell.task, given, [*grid.DIVERGENCES[cell.divergence], *flags], directory)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: {', '.join(grid.TASKS)}")
    parser.add_argument(
        "--source",
        action="append",
        metavar="SOURCE",
        help=f"repeatable; of {', '.join(SOURCES)} (default: {', '.join(FIRST)})",
    )
    parser.add_argument(
        "--divergence", action="append", help=f"repeatable; default: {', '.join(DIVERGENCES)}"
    )
    parser.add_argument("--rate", action="append", type=float, help="a learning rate; repeatable")
    parser.add_argument("--seeds", type=int, default=3, help="of the best of each source (default: 3)")
    parser.add_argument("--steps", type=int, default=20_000, help="the most of a cell (default: 20000)")
    parser.add_argument(
        "--cool_down",
        action="store_true",
        help="train for all of --steps, and lower the rate over the last fifth; in an --output of its own",
    )
    parser.add_argument("--prompts", type=int, default=128, help="of the test split (default: 128)")
    parser.add_argument("--page", action="store_true", help="train nothing; write the page again")
    parser.add_argument("--output", type=Path, default=Path("runs/curves"))
    flags = parser.parse_args(argv)
    for name in ("seeds", "steps", "prompts"):
        check_number(f"--{name}", getattr(flags, name), 1)
    tasks, sources = flags.tasks or grid.TASKS, flags.source or FIRST
    divergences = flags.divergence or DIVERGENCES
    for kind, named, valid in (
        ("recipe for task", tasks, RECIPES),
        ("source", sources, SOURCES),
        ("divergence", divergences, grid.DIVERGENCES),
    ):
        for name in named:
            if name not in valid:
                raise UsageError(f"no {kind} {name!r}: {nearest(name, valid)}")
    flags.output.mkdir(parents=True, exist_ok=True)
    if not flags.page:
        macros: dict[str, Any] = {"TRAIN_STEPS": flags.steps}
        schedule = "constant"
        if flags.cool_down:
            macros |= {"HOLD_UNTIL": flags.steps * 4 // 5, "PATIENCE": 0}
            schedule = f"{flags.steps} steps with a cool-down"
        check_made_of(flags.output, tasks, schedule)
        given = flags.divergence and flags.rate
        alone = sources if given else [source for source in sources if source in FIRST]
        led = [source for source in sources if source not in alone]
        recipes = list(itertools.product(divergences, flags.rate or RATES))
        if LEADER not in alone:  # before hours of training
            list(following_cells(finished(flags.output), tasks, led))
        for cells in (
            lambda: first_cells(tasks, alone, recipes),
            lambda: following_cells(finished(flags.output), tasks, led),
            lambda: further_cells(finished(flags.output), tasks, sources, flags.seeds),
        ):
            for line in run(list(cells()), flags.output, macros):
                print(line, flush=True)
        for line in curves_verdict.measure(finished(flags.output), tasks, flags.output, flags.prompts):
            print(line, flush=True)
    curves, known = finished(flags.output), curves_verdict.tested(flags.output)
    held = dict.fromkeys(curve.task for curve in curves)
    verdicts = [curves_verdict.verdict(curves, task, known) for task in held]
    print(curves_page.write(read(flags.output), verdicts, flags.output))
    return int(any(curve.failed is not None for curve in read(flags.output)))


if __name__ == "__main__":
    sys.exit(errors.run(main, command="curves"))
