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

from benchmarks import commands, gin_texts
from distillspec_jax import files, training_log
from distillspec_jax.errors import UsageError
from distillspec_jax.models import factorised, layer_subset, pretrained
from distillspec_jax.operations.costs import by_processor
from distillspec_jax.training.writers import METRICS_FILE

COST = "cost.json"
TRIAL_STEPS = 20
"""The most steps of a trial; the first, which compiles, is not timed."""
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
      as_long_as: it trains until it has cost what this one did (`Models.steps`), and not for `steps`, which
        then sets its schedule's warm-up alone; what each started from or was taught with is in the cost.
    """

    label: str
    task: str
    gin_files: tuple[str, ...]
    bindings: tuple[tuple[str, Any], ...]
    steps: int
    seed: int = 0
    command: str = "distill"
    as_long_as: Arm | None = None

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

    @property
    def starts(self) -> list[Model]:
        """Models whose training is part of what this one costs."""
        return [value for name, value in self.bindings if name in _STARTS_FROM]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """An arm as it was on its way, at one of its `kept` steps."""

    arm: Arm
    step: int

    @property
    def name(self) -> str:
        """The folder's name."""
        return f"{self.arm.name}/step-{self.step}"


@dataclasses.dataclass(frozen=True)
class Cut:
    """Some layers of a model, as `distillspec draft` makes it.

    Attributes:
      model: a name.
      layers: of its decoder; none: all.
      rank: of the embedding's factors; 0 leaves it whole.
    """

    model: str
    layers: tuple[int, ...] = ()
    rank: int = 0

    @property
    def name(self) -> str:
        """A folder's name."""
        rank = f"-rank-{self.rank}" if self.rank else ""
        return _name(f"layers-{'-'.join(map(str, self.layers)) or 'all'}{rank}", self)


Model = str | Arm | Snapshot | Cut


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a draft cost to train, in the unit of `operations.costs`: CPU seconds on a CPU.

    Attributes:
      steps: optimizer steps.
      seconds_a_step: the median over reports; neither compiling nor evaluation nor what a kill lost is in it.
      before: seconds of what it started from or was taught with, made for it.
      unit: of the seconds.
    """

    steps: int
    seconds_a_step: float
    before: float
    unit: str = "s"

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
        arm = model.arm if isinstance(model, Snapshot) else model
        if not (self.root / arm.name / COST).exists():
            self._train(arm)
        step = model.step if isinstance(model, Snapshot) else self._cost_of(arm).steps
        assert arm.as_long_as or step in arm.kept, f"{arm.name} keeps {arm.kept}, not {step}"
        return str(_at(self.root / arm.name, step))

    def cost(self, model: Model) -> Cost | None:
        """Tells what a trained model cost; None of one that was not trained here."""
        if isinstance(model, str | Cut):
            return None
        if isinstance(model, Snapshot):
            return dataclasses.replace(self._cost_of(model.arm), steps=model.step)
        return self._cost_of(model)

    def _cost_of(self, arm: Arm) -> Cost:
        return Cost(**files.read_json(self.root / arm.name / COST))

    def steps(self, arm: Arm) -> int:
        """Tells for how many steps an arm trains.

        With `as_long_as` they are what that arm's cost affords after what the arm starts from, at the seconds
        of a step that a short trial takes. The trial is kept, and shared by all seeds.
        """
        if arm.as_long_as is None:
            return arm.steps
        for start in (arm.as_long_as, *arm.starts):
            self.path(start)
        budget = self._cost_of(arm.as_long_as).seconds
        spent = sum(cost.seconds for start in arm.starts if (cost := self.cost(start)))
        return max(1, round((budget - spent) / self._trial(arm)))

    def _trial(self, arm: Arm) -> float:
        """Measures what a step of an arm costs."""
        plain = tuple((name, value) for name, value in arm.bindings if not isinstance(value, Arm | Snapshot))
        one = dataclasses.replace(arm, seed=0, as_long_as=None, bindings=plain)
        path = self.root / "trials" / f"{one.name}.json"
        if not path.exists():
            self.tell(f"timing {one.name}")
            few = min(arm.steps, TRIAL_STEPS, max(10, arm.steps // 2))
            train = functools.partial(self._run, arm, few)
            seconds = timed_trial(train, self.root / "trials" / "run", _clock())
            if not seconds:
                raise UsageError(f"{one.name}: {few} steps are too few to time one")
            files.write_json(path, {"steps": few, "seconds_a_step": seconds})
        return float(files.read_json(path)["seconds_a_step"])

    def _run(self, arm: Arm, steps: int, directory: Path) -> Path:
        given = {name: self._value(value) for name, value in arm.bindings}
        given |= {"MIXTURE_OR_TASK_NAME": arm.task, "TRAIN_STEPS": steps, "SEED": arm.seed}
        given |= {"MODEL_DIR": str(directory), "SAVE_PERIOD": arm.period}  # saving costs, in trials too
        argv = [arm.command, *commands.gin_flags(arm.gin_files, given)]
        if arm.command == "distill":
            argv.append("--check_prompts=0")
        commands.run(argv, str(directory.parent), in_process=self.in_process)
        return directory

    def _train(self, arm: Arm) -> None:
        folder, steps = self.root / arm.name, self.steps(arm)
        self.tell(f"training {arm.name}: {steps} steps")
        self._run(arm, steps, folder / "run")
        for step in (steps,) if arm.as_long_as else arm.kept:
            commands.alone(_keep, folder, step)
        costs = [cost for start in arm.starts if (cost := self.cost(start))]
        a_step, unit = seconds_a_step(folder / "run", _clock()), "CPU s" if by_processor() else "s"
        cost = Cost(steps, a_step, sum(cost.seconds for cost in costs), unit)
        files.write_json(folder / COST, dataclasses.asdict(cost))
        shutil.rmtree(folder / "run")

    def _value(self, value: Any) -> Any:
        return self.path(value) if isinstance(value, Arm | Snapshot | Cut) else value

    def _cut(self, cut: Cut) -> str:
        folder = self.root / cut.name
        if not folder.exists():
            self.tell(f"cutting {cut.name} out of {cut.model}")
            commands.alone(_save_cut, cut, folder)
        return str(folder)


def seconds_a_step(directory: Path, clock: str = "step_s") -> float:
    """Reads off a training's reports how long a step took.

    Args:
      clock: `step_s`, or `processor_s` for CPU seconds.
    """
    lines = training_log.read(directory / METRICS_FILE)
    found = [seconds for line in lines if (seconds := line.get(clock) or line.get("step_s"))]
    return float(statistics.median(found)) if found else 0.0


def _clock() -> str:
    return "processor_s" if by_processor() else "step_s"


def timed_trial(train: Callable[[Path], Path], trial: Path, clock: str = "step_s") -> float:
    """Trains in a folder that is removed again, and tells how long a step took; see `seconds_a_step`."""
    shutil.rmtree(trial, ignore_errors=True)
    found = seconds_a_step(train(trial), clock)
    shutil.rmtree(trial)
    return found


def _at(folder: Path, step: int) -> Path:
    return folder / f"step-{step}"


def _keep(folder: Path, step: int) -> None:
    if not _at(folder, step).exists():
        pretrained.save(pretrained.load(str(folder / "run"), step=step), str(_at(folder, step)))


def _save_cut(cut: Cut, folder: Path) -> None:
    model = pretrained.load(cut.model)
    model = layer_subset.cut(model, cut.layers) if cut.layers else model
    pretrained.save(factorised.factorise(model, cut.rank) if cut.rank else model, str(folder))


@functools.cache
def _name(readable: str, value: Arm | Cut) -> str:
    content = json.dumps(_described(value), sort_keys=True, ensure_ascii=False)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{re.sub(r'[^a-zA-Z0-9_]+', '-', readable).strip('-')}-{digest}"


def _described(value: Arm | Cut) -> dict[str, Any]:
    """The fields of a model, other models by their names, gin files with their contents."""
    found = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Cut):
        return found
    found["bindings"] = [
        [name, one.name if isinstance(one, Arm | Snapshot | Cut) else one] for name, one in value.bindings
    ]
    found["as_long_as"] = value.as_long_as and value.as_long_as.name
    return {**found, "recipe": gin_texts.read(value.gin_files)}


def bindings(given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Writes bindings as an `Arm` holds them; None stays out."""
    return tuple((name, value) for name, value in given.items() if value is not None)
