"""`python -m benchmarks.grid [TASK ...]`: divergence × data source, by gin alone, equal time a cell.

A cell is one `distillspec distill` from the zoo's supervised draft. First the seconds of a step on each
source are measured, one after the other on an otherwise idle machine; a cell trains for as many steps as fit
its time, so that what else the machine does later changes no result. Cells are measured on validation
prompts, without timing, beside the supervised draft and a control that trained on the references alone for
the same time.

Takes hours. After an interruption the same command resumes, without the cells that the results already have.
A cell that fails is reported, and the others are run (exit status 1).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import arms, commands, made_of
from benchmarks.attempts import Attempts
from distillspec_jax import files
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


@dataclasses.dataclass(frozen=True)
class Job:
    """A task's cells: of which pair, for how long each, and where.

    Attributes:
      task: of `RECIPES`.
      folder: of results, trainings and the steps that fit the time.
      seconds: of training a cell.
      prompts: decoded.
      target, draft: names or paths.
    """

    task: str
    folder: Path
    seconds: float
    prompts: int
    target: str
    draft: str

    @classmethod
    def of(cls, task: str, flags: argparse.Namespace) -> Job:
        """Reads the flags that `add_flags` adds; the pair is the recipe's where none is named."""
        recipe = RECIPES[task]
        target, draft = flags.target or recipe.target, flags.draft or recipe.draft
        return cls(task, flags.output / task, flags.seconds, flags.prompts, target, draft)

    def open(self, **more: Any) -> dict[str, int]:
        """Makes the folder, or checks that it is of this pair and these prompts; returns the steps by source.

        Args:
          more: what else all rows of the folder have in common.

        Raises:
          UsageError: it is of something else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        digests = made_of.weights((self.target, self.draft))
        models = {role: {name: digests[name]} for role, name in self.pair.items()}
        made_of.check(self.folder, {**models, "prompts": self.prompts, **more}, RESULTS)
        return steps_in(self)

    @property
    def pair(self) -> dict[str, str]:
        """The models by role."""
        return {"target": self.target, "draft": self.draft}


def add_flags(parser: argparse.ArgumentParser, split: str, prompts: int) -> None:
    """Adds the flags that `Job.of` reads, but the folder.

    Args:
      split, prompts: that drafts are measured on, and how many by default.
    """
    parser.add_argument("--seconds", type=float, default=90.0, help="of training a draft (default: 90)")
    parser.add_argument("--prompts", type=int, default=prompts, help=f"{split} prompts (default: {prompts})")
    parser.add_argument("--target", metavar="MODEL", help="a path or a zoo name (default: the zoo's)")
    parser.add_argument("--draft", metavar="MODEL", help="that every cell starts from (default: the zoo's)")


def run_task(job: Job, cells: Iterable[str], seed: int, attempts: Attempts) -> Iterator[str]:
    """Trains and measures what is missing of a task; yields a line a cell."""
    steps = job.open(seed=seed)
    for name in (SUPERVISED, CONTROL, *cells):
        with attempts.at(f"{job.task}: {name}"):
            measured = measure(job, name, name, "validation", steps, seed)
            efficiency = [
                with_interval(row, "block_efficiency")
                for t in TEMPERATURES
                if (row := _row(measured, name, t))
            ]
            yield f"{job.task}: {name}: " + ", ".join(efficiency)


def measure(
    job: Job, cell: str, drafter: str, split: str, steps: Mapping[str, int], seed: int
) -> list[ResultRow]:
    """Trains and measures a cell, the control or the supervised draft, unless the folder's results hold it.

    Args:
      cell: key of `CELLS`, `SUPERVISED` or `CONTROL`.
      drafter: what the results call it.
      split: that it is measured on.
      steps: see `steps_in`.
    """
    measured = results.reopen(job.folder / RESULTS)
    if sum(row.drafter == drafter for row in measured) >= len(TEMPERATURES):
        return measured
    draft = job.draft
    if cell != SUPERVISED:
        source, flags = CELLS.get(cell, (CONTROL, ()))
        draft = str(_train(job, source, flags, steps[source], seed, job.folder / "models" / _slug(drafter)))
    return sweep(
        job.target,
        {drafter: draft},
        output_dir=job.folder,
        task=job.task,
        split=split,
        limit=job.prompts,
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


def steps_in(job: Job) -> dict[str, int]:
    """Steps that fit the time, by source; measured once, and kept with the results."""
    path = job.folder / "steps.json"
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["seconds"] != job.seconds:
            raise UsageError(
                f"cells in {job.folder} train for {kept['seconds']:g} s, not {job.seconds:g}: choose another "
                "--output"
            )
        return dict(kept["steps"])
    per_step = {}
    for source in (*SOURCES, CONTROL):
        flags = DIVERGENCES["FKL"] if source in SOURCES else []
        per_step[source] = arms.timed_trial(
            functools.partial(_train, job, source, flags, TRIAL_STEPS, 0), job.folder / "trial"
        )
    steps = {source: max(1, round(job.seconds / s)) for source, s in per_step.items()}
    files.write_json(path, {"seconds": job.seconds, "seconds_a_step": per_step, "steps": steps})
    return steps


def _train(job: Job, source: str, flags: Sequence[str], steps: int, seed: int, directory: Path) -> Path:
    macros: dict[str, Any] = {"TRAIN_STEPS": steps, "SEED": seed, "EVAL_PERIOD": 0}
    if source == CONTROL:
        command = ["finetune", "--gin_file=runs/finetune.gin"]
        macros |= {"MODEL": None, "INITIAL_CHECKPOINT_PATH": job.draft}
        macros |= {"LEARNING_RATE": RECIPES[job.task].control_learning_rate}
    else:
        command = ["distill", f"--gin_file=experiments/grid/{source}.gin", "--check_prompts=0"]
        macros |= {"TARGET": job.target, "DRAFT": job.draft, "LEARNING_RATE": LEARNING_RATE}
    few = "--gin.data_config.DataConfig.eval_limit=8"  # what counts is measured below
    return start(command, job.task, macros, [few, *flags], directory)


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
    add_flags(parser, "validation", 64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/grid"))
    flags = parser.parse_args(argv)
    for task in flags.tasks:
        if task not in RECIPES:
            raise UsageError(f"no recipe for task {task!r}: {nearest(task, RECIPES)}")
    for cell in flags.cell or ():
        if cell not in CELLS:
            raise UsageError(f"no cell {cell!r}: {nearest(cell, CELLS)}")
    jobs, attempts = [Job.of(task, flags) for task in flags.tasks or TASKS], Attempts()
    for job in jobs:
        for line in run_task(job, flags.cell or CELLS, flags.seed, attempts):
            print(line, flush=True)
    text = "\n".join(table(job.task, results.reopen(job.folder / RESULTS)) for job in jobs)
    (flags.output / "table.md").write_text(text + "\n")
    print(text)
    return attempts.status


if __name__ == "__main__":
    sys.exit(errors.run(main, command="grid"))
