"""`python -m benchmarks.curves [TASK ...]`: learning curves of data sources, until acceptance stops rising.

A cell is one `distillspec distill` from the zoo's supervised draft at a constant rate: task × source ×
divergence × learning rate, and over further seeds the best divergence and rate of each source, chosen on
validation prompts. It ends when acceptance at T = 1 has not risen for 500 steps (experiments/curves). The
seconds of a step on each source are measured first, one after the other, on an otherwise idle machine.

A finished cell is a line of `curves.jsonl`, from which alone the page and its figures are made. Run it
again to resume. Hours, or days.
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

from benchmarks import arms, curves_page, grid
from benchmarks.curves_page import ACCEPTANCE, Curve
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
"""The gin file of each source; the first four are run by default."""
_TURNED = ["--gin.schedules.Turning.begin=0", "--gin.schedules.Turning.end=0"]
TIMED_AS: Mapping[str, Sequence[str]] = {"growing": _TURNED, "turning": _TURNED}
"""Flags with which a step of a source is timed: after its turn. Before it, a step takes less than that."""
DIVERGENCES = ("FKL", "JSD 0.5", "TVD")
RATES = (5e-4, 1e-3, 2e-3)
RESULTS = "curves.jsonl"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A curve that is to be run."""

    task: str
    source: str
    divergence: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        """How lines and folders call it."""
        parts = (self.task, self.source, self.divergence, f"{self.learning_rate:g}", str(self.seed))
        return "-".join(parts).replace(" ", "_").replace("α", "alpha")


def first_cells(tasks: Iterable[str], sources: Iterable[str], rates: Iterable[float]) -> Iterator[Cell]:
    """Every divergence and rate on every source, one seed."""
    for values in itertools.product(tasks, sources, DIVERGENCES, rates):
        yield Cell(*values, seed=0)


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
        known = read(root)
        if any(curve.cell == dataclasses.astuple(cell) for curve in known):
            continue
        seconds = _seconds_a_step(cell.task, cell.source, root)
        directory = _train(cell, macros, root / "models" / cell.name)
        lines = training_log.read(directory / METRICS_FILE)
        evaluations = [
            {name: value for name, value in line.items() if name != "split"}
            for line in lines
            if line["split"] == "eval"
        ]
        curve = Curve(**dataclasses.asdict(cell), seconds_a_step=seconds, evaluations=evaluations)
        rows = [dataclasses.asdict(one) for one in (*known, curve)]
        files.write_whole(root / RESULTS, "".join(files.as_json(row) + "\n" for row in rows))
        shutil.rmtree(directory / checkpoint.STEPS, ignore_errors=True)  # the best draft stays
        best = curve.best
        yield f"{cell.name}: {best[ACCEPTANCE]:.4f} at step {best['step']} of {curve.steps}"


def read(root: Path) -> list[Curve]:
    """Reads the finished cells.

    Raises:
      UsageError: a line is none of a curve.
    """
    path, found = root / RESULTS, []
    for place, row in files.json_lines(files.read_lines(path) if path.exists() else [], path, gaps=True):
        try:
            found.append(Curve(**row))
        except TypeError as error:
            raise UsageError(f"{place}: not a line of {RESULTS}: {error}") from error
    return found


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
        "--source", action="append", metavar="SOURCE", help=f"repeatable; of {', '.join(SOURCES)}"
    )
    parser.add_argument("--rate", action="append", type=float, help="a learning rate; repeatable")
    parser.add_argument("--seeds", type=int, default=3, help="of the best of each source (default: 3)")
    parser.add_argument("--steps", type=int, default=20_000, help="the most of a cell (default: 20000)")
    parser.add_argument("--page", action="store_true", help="train nothing; write the page again")
    parser.add_argument("--output", type=Path, default=Path("runs/curves"))
    flags = parser.parse_args(argv)
    check_number("--seeds", flags.seeds, 1)
    tasks, sources = flags.tasks or grid.TASKS, flags.source or grid.SOURCES
    for kind, named, valid in (("recipe for task", tasks, RECIPES), ("source", sources, SOURCES)):
        for name in named:
            if name not in valid:
                raise UsageError(f"no {kind} {name!r}: {nearest(name, valid)}")
    flags.output.mkdir(parents=True, exist_ok=True)
    if not flags.page:
        macros = {"TRAIN_STEPS": flags.steps}
        for line in run(first_cells(tasks, sources, flags.rate or RATES), flags.output, macros):
            print(line, flush=True)
        further = list(further_cells(read(flags.output), tasks, sources, flags.seeds))
        for line in run(further, flags.output, macros):
            print(line, flush=True)
    print(curves_page.write(read(flags.output), flags.output))
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="curves"))
