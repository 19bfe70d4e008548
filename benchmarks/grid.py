"""`python -m benchmarks.grid [TASK ...]`: divergence × data source, by gin alone, equal time a cell.

A cell is one `distillspec distill` from the zoo's supervised draft. First the seconds of a step on each
source are measured, one after the other on an otherwise idle machine; a cell trains for as many steps as fit
its time, so that what else the machine does later changes no result. Cells are measured on validation
prompts, without timing, beside the supervised draft and a control that trained on the references alone for
the same time.

Takes hours. After an interruption the same command resumes, without the cells that the results already have.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import arms, commands
from distillspec_jax.cli import errors
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.evaluation import power, results, sample_size
from distillspec_jax.evaluation.power import Findings
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.evaluation.sweep import RESULTS, sweep
from distillspec_jax.reports import summary
from distillspec_jax.reports.tables import with_interval
from distillspec_jax.showcase.recipes import RECIPES

TASKS = ("wiki_leads", "gsm_symbolic")
SOURCES = ("fixed", "target", "on_policy", "mix")
"""Files of gin_configs/experiments/grid."""
_JSD = "@divergences.JensenShannon()"
DIVERGENCES: Mapping[str, Sequence[str]] = {
    "FKL": ["--gin.DIVERGENCE=@divergences.ForwardKL()"],
    "RKL": ["--gin.DIVERGENCE=@divergences.ReverseKL()"],
    **{
        f"JSD {beta}": [f"--gin.DIVERGENCE={_JSD}", f"--gin.divergences.JensenShannon.beta={beta}"]
        for beta in (0.1, 0.5, 0.9)
    },
    "TVD": ["--gin.DIVERGENCE=@divergences.TotalVariation()"],
    "-log α": ["--gin.DIVERGENCE=@divergences.NegativeLogAcceptance()"],
}
SUPERVISED, CONTROL = "supervised", "control"
BLOCK_SIZE, TEMPERATURES, BATCH_SIZE = 7, (0.0, 1.0), 16
LEARNING_RATE = 2e-3
TRIAL_STEPS = 20


def label(divergence: str, source: str) -> str:
    """How tables call a cell."""
    return f"{divergence}, {source}"


CELLS: Mapping[str, tuple[str, Sequence[str]]] = {
    label(divergence, source): (source, flags)
    for source in SOURCES
    for divergence, flags in DIVERGENCES.items()
}
"""Source and flags of every cell, by its label."""


def run_task(
    task: str, cells: Iterable[str], seconds: float, prompts: int, seed: int, root: Path
) -> Iterator[str]:
    """Trains and measures what is missing of a task; yields a line a cell."""
    folder = root / task
    steps = steps_in(task, seconds, folder)
    for name in (SUPERVISED, CONTROL, *cells):
        measured = measure(task, name, name, "validation", prompts, steps, seed, folder)
        efficiency = [
            with_interval(row, "block_efficiency") for t in TEMPERATURES if (row := _row(measured, name, t))
        ]
        yield f"{task}: {name}: " + ", ".join(efficiency)


def measure(
    task: str,
    cell: str,
    drafter: str,
    split: str,
    prompts: int,
    steps: Mapping[str, int],
    seed: int,
    folder: Path,
) -> list[ResultRow]:
    """Trains and measures a cell, the control or the supervised draft, unless the folder's results hold it.

    Args:
      cell: key of `CELLS`, `SUPERVISED` or `CONTROL`.
      drafter: what the results call it.
      split, prompts: that it is measured on.
      steps: see `steps_in`.
    """
    measured = results.reopen(folder / RESULTS)
    if sum(row.drafter == drafter for row in measured) >= len(TEMPERATURES):
        return measured
    draft = f"zoo:{task}/draft"
    if cell != SUPERVISED:
        source, flags = CELLS.get(cell, (CONTROL, ()))
        draft = str(_train(task, source, flags, steps[source], seed, folder / "models" / _slug(drafter)))
    return sweep(
        f"zoo:{task}/target",
        {drafter: draft},
        output_dir=folder,
        task=task,
        split=split,
        limit=prompts,
        block_sizes=(BLOCK_SIZE,),
        temperatures=TEMPERATURES,
        batch_sizes=(BATCH_SIZE,),
        timing_prompts=0,
        seed=seed,
    )


def table(task: str, rows: Sequence[ResultRow]) -> str:
    """Block efficiency of every cell over the supervised draft's, paired by prompt, in Markdown."""
    lines = [f"\n## {task}\n"]
    for temperature in TEMPERATURES:
        base = _row(rows, SUPERVISED, temperature)
        if base is None:
            continue
        lines += [
            f"\nT = {temperature:g}, γ = {BLOCK_SIZE}: the supervised draft emits "
            f"{with_interval(base, 'block_efficiency')} tokens a target call on {base.prompts} prompts; "
            "each cell's ratio to it.\n",
            "| | " + " | ".join(SOURCES) + " |\n|---|" + "---|" * len(SOURCES),
        ]
        for divergence in DIVERGENCES:
            found = [_row(rows, label(divergence, source), temperature) for source in SOURCES]
            if any(found):
                lines.append(f"| {divergence} | " + " | ".join(_ratio(row, base) for row in found) + " |")
        lines.append(f"\nThe control: {_ratio(_row(rows, CONTROL, temperature), base)}.")
    lines.append(f"\n{comparisons(rows).sentence}")
    return "\n".join(lines)


def comparisons(rows: Sequence[ResultRow]) -> Findings:
    """Counts the cells of a task that differ from the supervised draft, with the number of looks in mind."""
    pairs = [(row, _row(rows, SUPERVISED, row.temperature)) for row in rows if row.drafter in CELLS]
    return power.findings([sample_size.pilot(row, base).p_value for row, base in pairs if base is not None])


def _ratio(row: ResultRow | None, base: ResultRow) -> str:
    if row is None:
        return "–"
    found = summary.block_efficiency_ratio(row, base)
    return f"{found.value:.2f} ({found.low:.2f}–{found.high:.2f})"


def _row(rows: Sequence[ResultRow], name: str, temperature: float) -> ResultRow | None:
    return summary.find(rows, name, temperature, BLOCK_SIZE)


def steps_in(task: str, seconds: float, folder: Path) -> dict[str, int]:
    """Steps that fit the time, by source; measured once, and kept with the results."""
    path = folder / "steps.json"
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["seconds"] != seconds:
            raise UsageError(
                f"cells in {folder} train for {kept['seconds']:g} s, not {seconds:g}: choose another --output"
            )
        return dict(kept["steps"])
    per_step = {}
    for source in (*SOURCES, CONTROL):
        flags = DIVERGENCES["FKL"] if source in SOURCES else []
        per_step[source] = arms.timed_trial(
            functools.partial(_train, task, source, flags, TRIAL_STEPS, 0), folder / "trial"
        )
    steps = {source: max(1, round(seconds / s)) for source, s in per_step.items()}
    path.write_text(json.dumps({"seconds": seconds, "seconds_a_step": per_step, "steps": steps}, indent=1))
    return steps


def _train(task: str, source: str, flags: Sequence[str], steps: int, seed: int, directory: Path) -> Path:
    recipe = RECIPES[task]
    macros: dict[str, Any] = {"TRAIN_STEPS": steps, "SEED": seed, "EVAL_PERIOD": 0}
    if source == CONTROL:
        command = ["finetune", "--gin_file=runs/finetune.gin"]
        macros |= {"MODEL": None, "INITIAL_CHECKPOINT_PATH": recipe.draft}
        macros |= {"LEARNING_RATE": recipe.control_learning_rate}
    else:
        command = ["distill", f"--gin_file=experiments/grid/{source}.gin", "--check_prompts=0"]
        macros |= {"TARGET": recipe.target, "DRAFT": recipe.draft, "LEARNING_RATE": LEARNING_RATE}
    few = "--gin.data_config.DataConfig.eval_limit=8"  # what counts is measured below
    return start(command, task, macros, [few, *flags], directory)


def start(
    command: Sequence[str], task: str, macros: Mapping[str, Any], flags: Sequence[str], directory: Path
) -> Path:
    """Trains on a task with the grid's settings; see `commands.run`."""
    shared = {
        "MIXTURE_OR_TASK_NAME": task,
        "TASK_FEATURE_LENGTHS": dict(RECIPES[task].lengths),
        "MODEL_DIR": str(directory),
        "BATCH_SIZE": 24,
    }
    commands.run([*command, *commands.gin_flags((), {**shared, **macros}), *flags], str(directory))
    return directory


def _slug(name: str) -> str:
    return name.replace(", ", "-").replace(" ", "_").replace("α", "alpha").strip("-")


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grid", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: {', '.join(TASKS)}")
    parser.add_argument("--cell", action="append", metavar="CELL", help="only this one; repeatable")
    parser.add_argument("--seconds", type=float, default=90.0, help="of training a cell (default: 90)")
    parser.add_argument("--prompts", type=int, default=64, help="validation prompts (default: 64)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/grid"))
    flags = parser.parse_args(argv)
    for task in flags.tasks:
        if task not in RECIPES:
            raise UsageError(f"no recipe for task {task!r}: {nearest(task, RECIPES)}")
    for cell in flags.cell or ():
        if cell not in CELLS:
            raise UsageError(f"no cell {cell!r}: {nearest(cell, CELLS)}")
    tasks = flags.tasks or TASKS
    for task in tasks:
        (flags.output / task).mkdir(parents=True, exist_ok=True)
        for line in run_task(
            task, flags.cell or CELLS, flags.seconds, flags.prompts, flags.seed, flags.output
        ):
            print(line, flush=True)
    text = "\n".join(table(task, results.read([flags.output / task / RESULTS])) for task in tasks)
    (flags.output / "table.md").write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="grid"))
