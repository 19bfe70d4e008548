"""The folder of `benchmarks.curves`: a line a curve, and whose curves they are."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.made_of import MADE_OF, weights
from distillspec_jax import files, locks
from distillspec_jax.distillation.expected_acceptance import GREEDY, SAMPLED, metric
from distillspec_jax.errors import UsageError
from distillspec_jax.showcase.recipes import RECIPES

ACCEPTANCE, AT_ZERO = metric(SAMPLED), metric(GREEDY)
RESULTS = "curves.jsonl"


@dataclasses.dataclass(frozen=True)
class Cell:
    """A curve, run or to be run; the five fields tell it from others."""

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

    @property
    def recipe(self) -> tuple[str, float]:
        """The two that are chosen on validation prompts."""
        return self.divergence, self.learning_rate


@dataclasses.dataclass(frozen=True)
class Curve(Cell):
    """A cell that was run, a line of `curves.jsonl`.

    Attributes:
      seconds_a_step: on an idle machine; what else it did while the cell was trained does not count.
      evaluations: `step` and the values of `expected_acceptance`, in order.
      failed: why training ended early (a loss that is not finite); None: it did not.
    """

    seconds_a_step: float
    evaluations: Sequence[Mapping[str, Any]]
    failed: str | None = None

    @property
    def steps(self) -> int:
        """Steps in all."""
        return int(self.evaluations[-1]["step"])

    def best(self, metric_name: str = ACCEPTANCE) -> Mapping[str, Any]:
        """The evaluation at which a value is highest, the first of equal ones."""
        known = [one for one in self.evaluations if one[metric_name] is not None]
        return max(known or self.evaluations, key=lambda one: one[metric_name] or 0.0)

    def values(self, name: str) -> dict[int, float]:
        """One number of every evaluation that has it, by step."""
        return {int(one["step"]): one[name] for one in self.evaluations if one.get(name) is not None}


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


def finished(root: Path) -> list[Curve]:
    """Reads the curves that did not fail."""
    return [curve for curve in read(root) if curve.failed is None]


def add(curve: Curve, root: Path) -> None:
    """Adds a line; what other processes have added since the cell began stays."""
    while True:
        with locks.locked(root) as free:
            if free is not False:
                rows = [dataclasses.asdict(one) for one in (*read(root), curve)]
                files.write_whole(root / RESULTS, "".join(files.as_json(row) + "\n" for row in rows))
                return
        time.sleep(0.1)


def check_made_of(root: Path, tasks: Iterable[str], schedule: str) -> None:
    """Writes down whose curves a folder holds, and refuses to add others to them.

    Args:
      schedule: of the learning rate.

    Raises:
      UsageError: the folder's curves are of other weights under the same names, of another schedule, or of
        models that nothing tells.
    """
    path, now = root / MADE_OF, {"schedule": schedule}
    if not path.exists() and read(root):
        raise UsageError(f"{root} holds curves of unknown models (no {MADE_OF}): choose another --output")
    names = {
        f"{role} of {task}": getattr(RECIPES[task], role) for task in tasks for role in ("target", "draft")
    }
    digests = weights(names.values())
    now |= {name: digests[model] for name, model in names.items()}
    kept = files.read_json(path) if path.exists() else {}
    for name, value in now.items():
        if kept.get(name, value) != value:
            raise UsageError(
                f"{root} holds curves whose {name} is {kept[name]!r}, not {value!r}: choose another --output"
            )
    files.write_json(path, kept | now)
