"""Runs experiments: chooses learning rates, trains what they need, sweeps, and publishes their rows.

A killed run resumes without repeating finished work: a training from its last checkpoint, a sweep after its
last row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import commands, made_of
from benchmarks.arms import Arm, Model, Models, Snapshot
from benchmarks.paper import d_heat_map, in_turns
from benchmarks.paper.experiment import Experiment, InTurns, Measurement
from benchmarks.paper.scales import Scale
from distillspec_jax import files
from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import ResultRow
from distillspec_jax.evaluation.sweep import RESULTS
from distillspec_jax.models import zoo_manifest
from distillspec_jax.showcase.recipes import RECIPES

IN_TURNS = "in_turns.jsonl"
"""Targets timed in turns: beside the rows of sweeps, which may have the same identity."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of experiments at one scale, in a folder of its own.

    Attributes:
      scale: how much of each.
      root: the folder.
      tell: is told what is done next.
    """

    scale: Scale
    root: Path
    tell: Callable[[str], None] = print

    @property
    def models(self) -> Models:
        """Its trainings."""
        return Models(self.root / "models", self.scale.in_process, self.tell)

    def open(self) -> None:
        """Makes the folder, or checks that it holds this scale of these models.

        Raises:
          UsageError: it was made with other settings, or the same names lead to other weights.
        """
        pairs = [(self.scale.target_of(task), self.scale.draft_of(task)) for task in RECIPES]
        weights = made_of.weights(name for pair in pairs for name in pair)
        settings = dataclasses.asdict(self.scale)
        del settings["chosen"]
        made_of.check(self.root, {**settings, "weights": weights}, "rows")

    @functools.cached_property
    def rated(self) -> Scale:
        """The scale with the learning rates that (d) chooses on validation prompts, measured first."""
        if len(self.scale.rates) == 1:
            return self.scale
        rows = self._stage(d_heat_map.EXPERIMENT, self.scale, 0, None)
        return dataclasses.replace(self.scale, chosen=d_heat_map.chosen(rows))

    def measure(self, experiment: Experiment) -> list[ResultRow]:
        """Trains and sweeps what is missing of an experiment; returns its rows as they are published."""
        found: list[ResultRow] = []
        for stage in range(experiment.stages):
            found += self._stage(experiment, self.rated, stage, list(found) if stage else None)
        return once(found)

    def _stage(
        self, experiment: Experiment, scale: Scale, stage: int, so_far: list[ResultRow] | None
    ) -> list[ResultRow]:
        found: list[ResultRow] = []
        known: list[Measurement | InTurns] = []
        for i, measurement in enumerate(experiment.measure(scale, so_far)):
            if measurement in known:
                continue
            known.append(measurement)
            folder = self.root / "rows" / experiment.letter / f"{stage}{i}-{measurement.task}"
            if isinstance(measurement, InTurns):
                found += self._in_turns(measurement, folder / IN_TURNS)
            else:
                found += self._sweep(experiment, measurement, folder)
        return found

    def _sweep(self, experiment: Experiment, measurement: Measurement, folder: Path) -> list[ResultRow]:
        target = self.models.path(measurement.target)
        drafters = {label: self.models.path(model) for label, model in measurement.drafters.items()}
        self.tell(f"({experiment.letter}) measuring {measurement.task}: {', '.join(drafters)}")
        given = {
            "TARGET": target,
            "DRAFTERS": drafters,
            "TASK": measurement.task,
            "LIMIT": measurement.limit,
            "TIMING_PROMPTS": measurement.timed,
            "OUTPUT_DIR": folder,
            "sweep.sweep.repeats": self.scale.repeats,
            **measurement.bindings,
        }
        if self.scale.max_new_tokens is not None:
            given["sweep.sweep.max_new_tokens"] = self.scale.max_new_tokens
        argv = ["sweep", *commands.gin_flags([measurement.file], given)]
        commands.run(argv, str(folder), in_process=self.scale.in_process)
        # The folder may hold rows of drafts that were trained by an earlier recipe, under the same labels.
        rows = [
            row
            for row in results.latest(results.read([folder / RESULTS]))
            if row.target == target and row.drafter_path == drafters.get(row.drafter)
        ]
        return [self._published(row, measurement) for row in rows]

    def _in_turns(self, measurement: InTurns, path: Path) -> list[ResultRow]:
        targets = {name: self.models.path(model) for name, model in measurement.targets.items()}
        rows = results.read([path]) if path.exists() else []
        if {(row.target, row.temperature) for row in rows} != {
            (target, t) for target in targets.values() for t in measurement.temperatures
        }:
            self.tell(f"timing targets in turns: {', '.join(targets)}")
            rows = commands.alone(
                functools.partial(
                    in_turns.measure,
                    targets,
                    measurement.task,
                    temperatures=measurement.temperatures,
                    timed=measurement.timed,
                    repeats=self.scale.repeats,
                    max_new_tokens=self.scale.max_new_tokens,
                )
            )
            _write(rows, path)
        names = {self.models.path(model): _named(model) for model in measurement.targets.values()}
        return [dataclasses.replace(row, target=names[row.target]) for row in rows]

    def _published(self, row: ResultRow, measurement: Measurement) -> ResultRow:
        """Adds what the draft cost, and takes out what names this machine or repeats itself."""
        more: dict[str, Any] = {}
        model = measurement.drafters.get(row.drafter)
        if model is not None and (cost := self.models.cost(model)):
            arm = model.arm if isinstance(model, Snapshot) else model
            assert isinstance(arm, Arm)
            rate = dict(arm.bindings).get("LEARNING_RATE")
            more["trained"] = {
                **{"label": arm.label, "seed": arm.seed, "gin_files": list(arm.gin_files)},
                **{"learning_rate": rate, "steps": cost.steps, "seconds": cost.seconds, "unit": cost.unit},
            }
            if arm.command == "distill" and self.scale.is_edge(rate):
                more["trained"]["edge"] = True
        if measurement.part is not None:
            more["part"] = measurement.part
        return dataclasses.replace(
            row,
            target=_named(measurement.target),
            drafter_path=None if model is None else _named(model),
            command=None,
            unknown={**row.unknown, **more},
        )


def _named(model: Model) -> str:
    """How a published row calls a model: its name in the zoo, or that of its folder."""
    if not isinstance(model, str):
        return model.name
    return model if zoo_manifest.is_zoo_name(model) else Path(model).name


def once(rows: Iterable[ResultRow]) -> list[ResultRow]:
    """Keeps the first of the rows of sweeps that measured the same cell: two parts share a baseline."""
    found: dict[Any, ResultRow] = {}
    for row in rows:
        found.setdefault((in_turns.is_in_turns(row), row.identity), row)
    return list(found.values())


def publish(rows: Iterable[ResultRow], folder: Path) -> None:
    """Writes an experiment's `results.jsonl`, whole or not at all, and its targets timed in turns."""
    rows = list(rows)
    for path, apart in ((folder / IN_TURNS, True), (folder / RESULTS, False)):
        if chosen := [row for row in rows if in_turns.is_in_turns(row) == apart]:
            _write(chosen, path)
        else:
            path.unlink(missing_ok=True)


def published(folder: Path) -> list[ResultRow]:
    """Reads what `publish` has written; nothing if nothing is there."""
    paths = [path for name in (RESULTS, IN_TURNS) if (path := folder / name).exists()]
    return results.read(paths) if paths else []


def _write(rows: Iterable[ResultRow], path: Path) -> None:
    files.write_whole(path, "".join(files.as_json(row.to_json()) + "\n" for row in rows))
