"""`python -m benchmarks.paper`: the DistillSpec paper's experiments on the embedded tasks, end to end.

Each experiment trains the drafts that it needs (equal ones are trained once, for all), sweeps, and writes a
table, a figure and what the paper claims beside what the rows say. Settings by scale: `scales.py`. The same
command resumes after a kill: finished trainings and rows are kept. An experiment that fails is reported, and
the others are run (exit status 1).
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.attempts import Attempts
from benchmarks.paper import (
    a_speedup,
    b_algorithms,
    c_cost,
    d_heat_map,
    e_prompts,
    f_lossy,
    g_transfer,
    h_garden,
    i_sizes,
    j_successors,
    pages,
    running,
    scales,
)
from benchmarks.paper.experiment import Experiment
from benchmarks.paper.running import Run
from distillspec_jax.cli import compilation, errors
from distillspec_jax.errors import find
from distillspec_jax.training.preemption import ended_by_sigterm

EXPERIMENTS: Mapping[str, Experiment] = {
    module.EXPERIMENT.letter: module.EXPERIMENT
    for module in (
        a_speedup,
        b_algorithms,
        c_cost,
        d_heat_map,
        e_prompts,
        f_lossy,
        g_transfer,
        h_garden,
        i_sizes,
        j_successors,
    )
}


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__)
    parser.add_argument("--scale", default="small", help=f"of {', '.join(scales.SCALES)} (default: small)")
    letters = ", ".join(f"{letter} ({one.title})" for letter, one in EXPERIMENTS.items())
    parser.add_argument("--only", metavar="a,f", help=f"some of: {letters}")
    for role in ("target", "draft"):
        default = getattr(scales.SMALL, role)
        told = f"a path or a zoo name, {{task}} for the task's (default: {default})"
        parser.add_argument(f"--{role}", metavar="MODEL", help=told)
    parser.add_argument("--pages", action="store_true", help="run nothing: pages from published rows alone")
    parser.add_argument("--output", type=Path, default=Path("runs/paper"), help="holds a folder a scale")
    parser.add_argument("--docs", type=Path, help="for rows and pages (default: OUTPUT/SCALE/pages)")
    flags = parser.parse_args(argv)
    given = {role: model for role in ("target", "draft") if (model := getattr(flags, role))}
    scale = dataclasses.replace(scales.scale(flags.scale), **given)
    wanted = [
        find("experiment", letter, EXPERIMENTS) for letter in (flags.only or ",".join(EXPERIMENTS)).split(",")
    ]
    docs = flags.docs or flags.output / scale.name / "pages"
    output = flags.output.resolve()  # rows name the models in it
    if not flags.pages:
        _keep_compiled(output / "compiled")
    return run(Run(scale, output / scale.name, _tell), wanted, docs, only_pages=flags.pages)


def run(job: Run, wanted: list[Experiment], docs: Path, *, only_pages: bool = False) -> int:
    """Runs experiments and writes their pages.

    Args:
      job: where, and how much.
      wanted: the experiments.
      docs: for rows and pages.
      only_pages: from the rows that are there.

    Returns:
      The exit status: 1 if an experiment or a page failed.
    """
    known, attempts = list(EXPERIMENTS.values()), Attempts()
    if not only_pages:
        job.open()
        measured = dict.fromkeys(EXPERIMENTS[one.rows_of or one.letter] for one in wanted)
        with ended_by_sigterm():
            for experiment in measured:
                with attempts.at(f"({experiment.letter})"):
                    running.publish(job.measure(experiment), docs / experiment.name)
    for line in pages.write(wanted, known, docs, attempts):
        print(line, flush=True)
    pages.index(known, docs)
    return attempts.status


def _keep_compiled(folder: Path) -> None:
    """Has every process of the run keep what it compiles, unless a folder for that is set already."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        compilation.keep(str(folder))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(compilation.SHORTEST_SECONDS)
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


def _tell(line: str) -> None:
    width = shutil.get_terminal_size().columns if sys.stderr.isatty() else 160
    print(line[:width], file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(errors.run(main, command="paper"))
