"""Arms of experiments: drafts as values, trained once, wherever an experiment asks for them.

A model is a name (`zoo:wiki_leads/draft`, `lookup`) or a value of this module; `Models.path` gives the folder
of either and makes what is not there. A killed training goes on from its last checkpoint, a finished one is
never repeated. What it cost stands in `cost.json` beside the draft.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import commands
from distillspec_jax import files, training_log
from distillspec_jax.models import factorised, layer_subset, pretrained
from distillspec_jax.training.writers import METRICS_FILE

COST = "cost.json"
_STARTS_FROM = ("DRAFT", "REFERENCE", "INITIAL_CHECKPOINT_PATH")
"""Macros whose models' training is part of what a draft cost; that of its target is not."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """A training.

    Attributes:
      label: how tables and folders call it, together with task and seed.
      task: trained on.
      gin_files: of the command, in their order.
      bindings: macros and parameters by name; a model as a value stands for its folder.
      steps, seed: of the training.
      command: `distill` or `finetune`.
    """

    label: str
    task: str
    gin_files: tuple[str, ...]
    bindings: tuple[tuple[str, Any], ...]
    steps: int
    seed: int = 0
    command: str = "distill"

    @property
    def period(self) -> int:
        """Steps between checkpoints."""
        return max(1, self.steps // 8)

    @property
    def kept(self) -> tuple[int, ...]:
        """Steps whose parameters are kept: about a quarter and a half of the way, and the end."""
        return tuple(sorted({min(2 * self.period, self.steps), min(4 * self.period, self.steps), self.steps}))

    @property
    def name(self) -> str:
        """A folder's name, another one for every other training."""
        return _name(f"{self.task}-{self.label}-{self.seed}", self)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An arm as it was on its way, at one of its `kept` steps."""

    arm: Arm
    step: int


@dataclasses.dataclass(frozen=True)
class Cut:
    """A draft of some of a target's layers, as `distillspec draft` makes it; rank 0 leaves the embedding."""

    target: str
    layers: tuple[int, ...]
    rank: int = 0

    @property
    def name(self) -> str:
        """A folder's name."""
        return _name(f"layers-{'-'.join(map(str, self.layers))}", self)


Model = str | Arm | Snapshot | Cut


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a draft cost to train.

    Attributes:
      steps: optimizer steps.
      seconds_a_step: the median over reports; neither compiling nor evaluation nor what a kill lost is in it.
      before: seconds of what it started from or was taught with, made for it.
    """

    steps: int
    seconds_a_step: float
    before: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.before + self.steps * self.seconds_a_step


@dataclasses.dataclass(frozen=True)
class Models:
    """The folder of trained models.

    Attributes:
      root: holds a folder a model.
      in_process: see `commands.run`.
      tell: is told what is about to be trained.
    """

    root: Path
    in_process: bool = False
    tell: Callable[[str], None] = print

    def path(self, model: Model) -> str:
        """Gives the folder or the name of a model; trains or makes what is not there."""
        if isinstance(model, str):
            return model
        if isinstance(model, Cut):
            return self._cut(model)
        arm, step = (model.arm, model.step) if isinstance(model, Snapshot) else (model, model.steps)
        assert step in arm.kept, f"{arm.name} keeps {arm.kept}, not {step}"
        if not (self.root / arm.name / COST).exists():
            self._train(arm)
        return str(_at(self.root / arm.name, step))

    def cost(self, model: Model) -> Cost | None:
        """Tells what a trained model cost; None of one that was not trained here."""
        if isinstance(model, str | Cut):
            return None
        arm, step = (model.arm, model.step) if isinstance(model, Snapshot) else (model, model.steps)
        found = Cost(**files.read_json(self.root / arm.name / COST))
        return dataclasses.replace(found, steps=step)

    def _train(self, arm: Arm) -> None:
        folder = self.root / arm.name
        given = {name: self._value(value) for name, value in arm.bindings}
        given |= {"MIXTURE_OR_TASK_NAME": arm.task, "TRAIN_STEPS": arm.steps, "SEED": arm.seed}
        given |= {"MODEL_DIR": str(folder / "run"), "SAVE_PERIOD": arm.period}
        argv = [arm.command, *commands.gin_flags(arm.gin_files, given)]
        if arm.command == "distill":
            argv.append("--check_prompts=0")
        self.tell(f"training {arm.name}: {arm.steps} steps")
        commands.run(argv, str(folder), in_process=self.in_process)
        for step in arm.kept:
            commands.alone(_keep, folder, step)
        starts = [value for name, value in arm.bindings if name in _STARTS_FROM]
        costs = [cost for start in starts if (cost := self.cost(start))]
        cost = Cost(arm.steps, seconds_a_step(folder / "run"), sum(cost.seconds for cost in costs))
        files.write_json(folder / COST, dataclasses.asdict(cost))
        shutil.rmtree(folder / "run")

    def _value(self, value: Any) -> Any:
        return self.path(value) if isinstance(value, Arm | Snapshot | Cut) else value

    def _cut(self, cut: Cut) -> str:
        folder = self.root / cut.name
        if not folder.exists():
            self.tell(f"cutting {cut.name} out of {cut.target}")
            commands.alone(_save_cut, cut, folder)
        return str(folder)


def seconds_a_step(directory: Path) -> float:
    """Reads off a training's reports how long a step took."""
    found = [line["step_s"] for line in training_log.read(directory / METRICS_FILE) if line.get("step_s")]
    return float(statistics.median(found)) if found else 0.0


def timed_trial(train: Callable[[Path], Path], trial: Path) -> float:
    """Trains in a folder that is removed again, and tells how long a step took."""
    shutil.rmtree(trial, ignore_errors=True)
    found = seconds_a_step(train(trial))
    shutil.rmtree(trial)
    return found


def _at(folder: Path, step: int) -> Path:
    return folder / f"step-{step}"


def _keep(folder: Path, step: int) -> None:
    if not _at(folder, step).exists():
        pretrained.save(pretrained.load(str(folder / "run"), step=step), str(_at(folder, step)))


def _save_cut(cut: Cut, folder: Path) -> None:
    draft = layer_subset.cut(pretrained.load(cut.target), cut.layers)
    pretrained.save(factorised.factorise(draft, cut.rank) if cut.rank else draft, str(folder))


@functools.cache
def _name(readable: str, value: Any) -> str:
    content = json.dumps(dataclasses.asdict(value), sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^a-zA-Z0-9_]+', '-', readable).strip('-')}-{digest}"


def bindings(given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Writes bindings as an `Arm` holds them; None stays out."""
    return tuple((name, value) for name, value in given.items() if value is not None)
