"""Distilling the stable draft again, on what is asked now: a pilot, the training, the gate, a new version.

Everything that a run has done stands in a folder of the registry, `redistill/`: prompts as they were read,
trainings with their checkpoints, measurements. A run that was killed goes on there with the same call; the
folder goes when a run has ended, well or not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from distillspec_jax import files, new_folders, outputs, schema, training_log
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.errors import UsageError, check_number, shown
from distillspec_jax.evaluation import paired, profiling
from distillspec_jax.generation.prompt_format import prompt_format
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.operations import admission, draft_registry, gate, prompts, rollout
from distillspec_jax.operations.draft_registry import PROMPTS, DraftRegistry
from distillspec_jax.operations.gate import Conditions, Measured
from distillspec_jax.operations.held_out import HeldOut
from distillspec_jax.operations.prompts import Prompt
from distillspec_jax.schema import Amount, Count, Share, Size, Text

FOLDER = "redistill"
_JOB = "job.json"
_ASKED, _TRAIN, _NEW, _OLD = "asked.jsonl", "train.jsonl", "new.jsonl", "old.jsonl"
"""All new prompts, those that are trained on, and those that are held out."""
_TRAININGS = ("pilot", "full")
_PROFILED = 100
"""Held-out prompts of a new version's profile."""

Train = Callable[[str, Path, str, int], Path]
"""Trains: the draft to start from, a folder, the name of the task, steps; returns the folder of the best."""
Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The settings of a redistillation, by which a run knows its own folder.

    Attributes:
      steps: of the training.
      pilot_steps: of the pilot; 0: none.
      old_share: of old prompts in what is trained on.
      temperature: of the service, at which both drafts are judged; None: that of the logs.
      block_size: drafts a round, likewise.
      prompts: held-out ones, new and old each, at most.
      chat: see `HeldOut`.
      recipe: the gin files and bindings of the training.

    Raises:
      UsageError: an impossible value.
    """

    steps: Size = 300
    pilot_steps: Count = 40
    old_share: Share = 0.3
    temperature: Amount | None = None
    block_size: Size = 5
    prompts: Size = 200
    chat: bool = False
    recipe: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        check_number("--steps", self.steps, 1, most=10**9)
        check_number("--pilot_steps", self.pilot_steps, 0, most=self.steps)
        check_number("--old_share", self.old_share, 0, most=0.95, whole=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Begun:
    """A run's own file: what it was begun with."""

    version: Text
    stable: Text
    temperature: Amount
    plan: Plan


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a redistillation.

    Attributes:
      outcome: of the gate, or of the pilot before it.
      reason: in one line.
      version: that was added.
    """

    outcome: Literal["passed", "refused", "not enough"]
    reason: str
    version: str | None = None


@dataclasses.dataclass(frozen=True)
class _Job:
    """A redistillation under way."""

    registry: DraftRegistry
    target: Pretrained
    train: Train
    conditions: Conditions
    begun: _Begun
    folder: Path
    say: Say

    def outcome(self) -> Outcome:
        """Goes through all steps, or on from the one that was not finished."""
        new, old = (prompts.read_sample(self.folder / name) for name in (_NEW, _OLD))
        fewest = self.conditions.least_prompts
        for name, found in (("new", new), ("old", old)):
            if len(found) < fewest:
                return Outcome("not enough", f"{len(found)} {name} held-out prompts, the gate needs {fewest}")
        plan = self.begun.plan
        held_out = HeldOut(
            self.target, new, old, Deployment(self.begun.temperature), plan.block_size, plan.chat
        )
        stable = held_out.measure(self.registry.path_of(self.begun.stable), self.folder / "stable.json")
        cost = 0.0
        if plan.pilot_steps:
            pilot = self._trained("pilot", plan.pilot_steps)
            cost += _seconds(self.folder / "pilot")
            measured = held_out.measure(pilot, self.folder / "pilot.json")
            refused = self._foreseen(stable, measured, cost)
            if refused is not None:
                return Outcome("refused", refused)
        candidate = self._trained("full", plan.steps)
        cost += _seconds(self.folder / "full")
        measured = held_out.measure(candidate, self.folder / "full.json")
        finding = gate.judge(stable, measured, cost, self.conditions)
        if finding.outcome != "passed":
            return Outcome(finding.outcome, finding.reason)
        profiling.profile(candidate, prompts=_PROFILED, block_size=plan.block_size)
        version = self._name()
        # First the prompts: they count as old once the version is there.
        path = self.registry.path / PROMPTS
        asked = (dataclasses.replace(one, since=version) for one in prompts.read_sample(self.folder / _ASKED))
        prompts.write_sample(path, prompts.read_sample(path), asked)
        admission.add(self.registry, str(candidate), version, seconds=cost, gate=finding.as_json())
        return Outcome("passed", finding.reason, version)

    def _name(self) -> str:
        """The version's name; the next one, where somebody has added a version of that name meanwhile."""
        names = self.registry.versions()
        if self.begun.version not in names:
            return self.begun.version
        begun = dataclasses.replace(self.begun, version=draft_registry.next_name(names))
        _write_job(self.folder, begun)
        return begun.version

    def _trained(self, name: str, steps: int) -> Path:
        self.say(f"{name}: {steps:,} steps from {self.begun.stable}")
        task = self._task()
        return self.train(str(self.registry.path_of(self.begun.stable)), self.folder / name, task, steps)

    def _task(self) -> str:
        """Makes the task of the prompts: as the target reads them, held-out ones for validation."""
        from distillspec_jax.data import tasks  # TensorFlow

        form = prompt_format(self.target, truncate=True)
        path = outputs.resolved(self.folder)
        name = prompts.digest([Prompt(inputs=str(path)), *prompts.read_sample(self.folder / _TRAIN)])
        return tasks.jsonl_task(
            f"asked_{name}",
            str(path / _TRAIN),
            str(path / _NEW),
            targets_field="outputs",
            prefix=form.prefix,
            inputs_length=form.max_tokens or 192,
            targets_length=form.max_new_tokens,
        )

    def _foreseen(self, stable: Measured, pilot: Measured, cost: float) -> str | None:
        """Why the whole training is not likely to pay, by the pilot; None where it is."""
        plan = self.begun.plan
        seen = paired.quotient_of_records(pilot.new, stable.new, "block_efficiency").value
        gain = gate.foreseen(seen, plan.pilot_steps, plan.steps)
        whole = cost * (1 + plan.steps / plan.pilot_steps)
        saved = gate.saving(stable, gain)
        needed = whole / saved if saved > 0 else np.inf
        told = (
            f"the pilot of {plan.pilot_steps:,} steps changed block efficiency on new prompts by "
            f"{seen - 1:+.1%}; {plan.steps:,} steps would by about {gain - 1:+.1%}, and cost {whole:,.0f} s"
        )
        if gain - 1 < self.conditions.least_gain:
            return f"{told}: less than the gate's {self.conditions.least_gain:.1%}"
        if needed > self.conditions.pay_back_requests:
            return (
                f"{told}: paid back after {needed:,.0f} requests, not {self.conditions.pay_back_requests:,}"
            )
        self.say(f"{told}: paid back after {needed:,.0f} requests")
        return None


def redistill(
    registry: DraftRegistry,
    target: str | None,
    logs: Sequence[str],
    old: Sequence[str],
    plan: Plan,
    conditions: Conditions,
    train: Train,
    *,
    keep: str | None = None,
    restart: bool = False,
    stage: bool = False,
    say: Say = lambda _: None,
) -> Outcome:
    """Distils the stable draft again, and adds it as a version if it passes the gate.

    Args:
      target: the registry's, by its own name by default.
      logs: files of served lines.
      old: files of prompts that the stable draft was trained with, for a registry that has no sample yet.
      train: the training itself.
      keep: a new folder for a candidate that was refused.
      restart: give up what an earlier run has begun.
      stage: begin the rollout of a version that has passed, by the default settings.
      say: called with a line at every step.

    Raises:
      UsageError: bad logs, another target, a run with other settings under way, no old prompts.
    """
    if keep is not None:
        new_folders.check_new_folder(keep)
    if stage and (candidate := registry.state().candidate) is not None:
        raise UsageError(f"version {candidate} is being rolled out: leave --stage out, or end that first")
    teacher = admission.check_target(registry, target or registry.history.target)
    folder = registry.path / FOLDER
    with _alone(folder):
        if restart:
            _empty(folder)
        begun = _begin(registry, folder, logs, old, plan, say)
        if _was_added(registry, begun, folder):  # and then it was killed
            found = Outcome("passed", "it was added before", begun.version)
        else:
            found = _outcome(_Job(registry, teacher, train, conditions, begun, folder, say))
        if stage and found.version is not None:
            rollout.start(registry, found.version, rollout.Settings(), f"redistilled: {found.reason}")
        if keep is not None and found.version is None and (folder / "full").is_dir():
            with new_folders.new_folder(keep) as kept:
                shutil.copytree(folder / "full", kept, dirs_exist_ok=True)
        _empty(folder)
    return found


def _outcome(job: _Job) -> Outcome:
    """Goes through a job; one that is refused before it has trained anything leaves nothing."""
    try:
        return job.outcome()
    except UsageError:
        if not any((job.folder / name).is_dir() for name in _TRAININGS):
            _empty(job.folder)
        raise


def _begin(
    registry: DraftRegistry, folder: Path, logs: Sequence[str], old: Sequence[str], plan: Plan, say: Say
) -> _Begun:
    """Reads all prompts, or finds the run that was begun."""
    stable = registry.state().stable
    if (folder / _JOB).is_file():
        begun = schema.read_file(_Begun, folder / _JOB, "a redistillation")
        there = {"stable version": begun.stable, **dataclasses.asdict(begun.plan)}
        here = {"stable version": stable, **dataclasses.asdict(plan)}
        for name, value in here.items():
            if there[name] != value:
                raise UsageError(
                    f"{folder} holds a redistillation whose {name} is {shown(there[name])}, not "
                    f"{shown(value)}: give the same call to go on with it, or --restart"
                )
        say(f"going on with the prompts that were read for {begun.version}")
        return begun
    _empty(folder)
    asked = prompts.read_logs(logs)
    for what, count in asked.notes.items():
        say(f"{count:,} {what}: set aside")
    path = registry.path / PROMPTS
    if old:
        more = (dataclasses.replace(one, since=stable) for one in prompts.read_logs(old).prompts)
        prompts.write_sample(path, prompts.read_sample(path), more)
    sample = prompts.read_sample(path)
    new, known = prompts.apart(asked.prompts, sample, registry.versions())
    if not known:
        raise UsageError(
            f"{registry.path} knows no earlier prompts: give some of those that {stable} was trained with, "
            "--old=FILE, so that nothing is forgotten"
        )
    trained = prompts.mixed(
        [one for one in new if not one.held_out], [one for one in known if not one.held_out], plan.old_share
    )
    for name, held_out in ((_NEW, new), (_OLD, known)):
        chosen = sorted((one for one in held_out if one.held_out), key=lambda one: one.priority)
        prompts.write(folder / name, chosen[: plan.prompts])
    prompts.write(folder / _TRAIN, trained)
    prompts.write(folder / _ASKED, new)
    version = draft_registry.next_name(registry.versions())
    told = f"{len(new):,} new prompts and {len(known):,} old ones"
    say(f"{told}; {version} is to be trained on {len(trained):,}")
    begun = _Begun(version=version, stable=stable, temperature=_temperature(plan, asked), plan=plan)
    _write_job(folder, begun)
    return begun


def _temperature(plan: Plan, asked: prompts.Asked) -> float:
    """The service's temperature.

    Raises:
      UsageError: the logs state several.
    """
    if plan.temperature is not None:
        return float(plan.temperature)
    if len(asked.temperatures) > 1:
        told = ", ".join(f"{one:g}" for one in sorted(asked.temperatures))
        raise UsageError(f"the logs have lines of several temperatures ({told}): choose one by --temperature")
    return next(iter(asked.temperatures), 1.0)


def _write_job(folder: Path, begun: _Begun) -> None:
    files.write_json(folder / _JOB, dataclasses.asdict(begun))


def _was_added(registry: DraftRegistry, begun: _Begun, folder: Path) -> bool:
    """Whether the version of that name is this run's, and not somebody else's."""
    if begun.version not in registry.versions():
        return False
    source = outputs.resolved(registry.lineage(begun.version).source)
    return outputs.resolved(folder) in source.parents


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other redistillations out; what is empty at the end goes."""
    with files.saving(folder):
        folder.mkdir(exist_ok=True)
    with files.locked(folder) as free:
        if free is False:
            raise UsageError(f"{folder}: another redistillation is under way")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _empty(folder: Path) -> None:
    """Removes what a run has made; its own file first, so that half of it is never gone on with."""
    (folder / _JOB).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _seconds(folder: Path) -> float:
    """Adds up the seconds of a training's steps by its log, compilation and evaluation left out."""
    lines = [line for line in training_log.read(folder / "metrics.jsonl") if line.get("split") == "train"]
    timed = [line["step_s"] for line in lines if line.get("step_s") is not None]
    return float(np.median(timed)) * max((line["step"] for line in lines), default=0) if timed else 0.0
