"""`python -m benchmarks.chosen CELL [TASK ...]`: one cell of the grid over several seeds, on test prompts.

The cell is chosen on validation prompts (`benchmarks.grid`) and reported here once: for every seed it and
the control, more supervised training for the same time, are trained from the zoo's supervised draft and
decode the same test prompts. Tokens and target calls of a prompt are added up over seeds; intervals resample
prompts. Run it again to resume.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import grid
from benchmarks.grid import Job
from distillspec_jax.cli import errors
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.paired import Interval, ratio_of_ratios
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.evaluation.sweep import RESULTS
from distillspec_jax.reports import summary
from distillspec_jax.showcase.recipes import RECIPES


def run_task(job: Job, cell: str, seeds: int) -> Iterator[str]:
    """Trains and measures what is missing of a task; yields a line a draft."""
    steps = job.open()
    for seed in range(seeds):
        for name in (cell, grid.CONTROL):
            drafter = _drafter(name, seed)
            grid.measure(job, name, drafter, "test", steps, seed)
            yield f"{job.task}: {drafter}"


def _drafter(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"


def over_control(rows: Sequence[ResultRow], cell: str, seeds: int, temperature: float) -> Interval:
    """Block efficiency of the cell over the control's, seeds added up prompt by prompt."""
    columns = []
    for name in (cell, grid.CONTROL):
        for field in ("emitted", "target_calls"):
            of_seeds = []
            for seed in range(seeds):
                row = summary.find(rows, _drafter(name, seed), temperature, grid.BLOCK_SIZE)
                assert row is not None
                of_seeds.append(getattr(row.per_prompt, field))
            columns.append(np.sum(of_seeds, axis=0))
    return ratio_of_ratios(*columns)


def table(tasks: Sequence[str], cell: str, seeds: int, root: Path) -> str:
    """Every task's ratio at each temperature, in Markdown."""
    lines = [
        f"Block efficiency on test prompts, γ = {grid.BLOCK_SIZE}, {cell} over the control, {seeds} seeds:\n",
        "| task | " + " | ".join(f"T = {t:g}" for t in grid.TEMPERATURES) + " | prompts |",
        "|---|" + "---|" * (len(grid.TEMPERATURES) + 1),
    ]
    for task in tasks:
        rows = results.read([root / task / RESULTS])
        ratios = [over_control(rows, cell, seeds, t) for t in grid.TEMPERATURES]
        shown = " | ".join(f"{r.value:.2f} ({r.low:.2f}–{r.high:.2f})" for r in ratios)
        lines.append(f"| {task} | {shown} | {len(rows[0].per_prompt.emitted)} |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chosen", description=__doc__)
    parser.add_argument("cell", metavar="CELL", help="as grid's table calls it: 'FKL, mix'")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="default: all embedded tasks")
    parser.add_argument("--seeds", type=int, default=3)
    grid.add_flags(parser, "test", 128)
    parser.add_argument("--output", type=Path, default=Path("runs/chosen"))
    flags = parser.parse_args(argv)
    if flags.cell not in grid.CELLS:
        raise UsageError(f"no cell {flags.cell!r}: {nearest(flags.cell, grid.CELLS)}")
    for task in flags.tasks:
        if task not in RECIPES:
            raise UsageError(f"no recipe for task {task!r}: {nearest(task, RECIPES)}")
    tasks = flags.tasks or list(RECIPES)
    for task in tasks:
        for line in run_task(Job.of(task, flags), flags.cell, flags.seeds):
            print(line, flush=True)
    text = table(tasks, flags.cell, flags.seeds, flags.output)
    (flags.output / "table.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="chosen"))
