"""Redistils the stable draft on current prompts: a pilot, the training, the gate, a new version.

A folder of the registry, `redistill/`, keeps a run's state: prompts as read from the logs, trainings with
their checkpoints, measurements. The same call resumes a killed run there. The folder is removed when a run
has ended, successfully or not.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from distillspec_jax import new_folders
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired, profiling, prospect
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.operations import (
    admission,
    asked_training,
    costs,
    draft_registry,
    gate,
    prompts,
    rollout,
)
from distillspec_jax.operations.asked_training import Say, Train
from distillspec_jax.operations.draft_registry import PROMPTS, DraftRegistry
from distillspec_jax.operations.gate import Conditions, Finding, Measured
from distillspec_jax.operations.held_out import HeldOut
from distillspec_jax.operations.prompts import Prompt
from distillspec_jax.operations.redistill_folder import (
    ASKED,
    FOLDER,
    MORE_NEW,
    MORE_OLD,
    NEW,
    OLD,
    TRAIN,
    VALIDATION,
    Begun,
    Plan,
    alone,
    begin,
    empty,
    was_added,
    write_job,
)

_TRAININGS = ("pilot", "full")
_PROFILED = 100
"""Number of held-out prompts for a new version's profile."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a redistillation.

    Attributes:
      outcome: of the gate, or of the pilot before it.
      reason: in one line.
      version: the version that was added.
    """

    outcome: Literal["passed", "refused", "not enough"]
    reason: str
    version: str | None = None


@dataclasses.dataclass(frozen=True)
class _Job:
    """A redistillation in progress."""

    registry: DraftRegistry
    target: Pretrained
    train: Train
    conditions: Conditions
    begun: Begun
    folder: Path
    say: Say

    def outcome(self) -> Outcome:
        """Runs all stages, or resumes at the unfinished one."""
        new, old = (prompts.read_sample(self.folder / name) for name in (NEW, OLD))
        fewest = self.conditions.least_prompts
        for name, found in (("new", new), ("old", old)):
            if len(found) < fewest:
                return Outcome("not enough", f"{len(found)} {name} held-out prompts, the gate needs {fewest}")
        plan, held_out = self.begun.plan, self._held_out(new, old)
        stable = held_out.measure(self.registry.path_of(self.begun.stable), self.folder / "stable.json")
        cost = 0.0
        if plan.pilot_steps:
            pilot = self._trained("pilot", plan.pilot_steps)
            cost += costs.of_training(self.folder / "pilot")
            measured = held_out.measure(pilot, self.folder / "pilot.json")
            refused = self._foreseen(stable, measured, cost)
            if refused is not None:
                return Outcome("refused", refused)
        candidate = self._trained("full", plan.steps)
        cost += costs.of_training(self.folder / "full")
        measured = held_out.measure(candidate, self.folder / "full.json")
        finding = self._judged(stable, measured, candidate, cost)
        if finding.outcome != "passed":
            return Outcome(finding.outcome, finding.reason)
        profiling.profile(candidate, prompts=_PROFILED, block_size=plan.block_size)
        version = self._name()
        # Write the prompts first: they count as old as soon as the version exists.
        path = self.registry.path / PROMPTS
        asked = (dataclasses.replace(one, since=version) for one in prompts.read_sample(self.folder / ASKED))
        prompts.write_sample(path, prompts.read_sample(path), asked)
        admission.add(self.registry, str(candidate), version, seconds=cost, gate=finding.as_json())
        return Outcome("passed", finding.reason, version)

    def _held_out(self, new: Sequence[Prompt], old: Sequence[Prompt]) -> HeldOut:
        begun, plan = self.begun, self.begun.plan
        settings = Deployment(float(begun.temperature), begun.top_k, float(begun.top_p))
        return HeldOut(self.target, new, old, settings, plan.block_size, plan.chat)

    def _judged(self, stable: Measured, measured: Measured, candidate: Path, cost: float) -> Finding:
        """Runs the gate; if it is undecided, runs it again with more held-out prompts, if there are any.

        Training costs more than decoding, so it is not discarded for lack of certainty.
        """
        new, old = (prompts.read_sample(self.folder / name) for name in (MORE_NEW, MORE_OLD))
        looks = 2 if new or old else 1
        finding = gate.judge(stable, measured, cost, self.conditions, looks)
        if looks == 1 or not finding.undecided:
            return finding
        self.say(f"{finding.reason}; to tell, {len(new):,} new and {len(old):,} old prompts more")
        more = self._held_out(new, old)
        ours = more.measure(self.registry.path_of(self.begun.stable), self.folder / "stable_more.json")
        theirs = more.measure(candidate, self.folder / "full_more.json")
        return gate.judge(stable.with_more(ours), measured.with_more(theirs), cost, self.conditions, looks)

    def _name(self) -> str:
        """Returns the version's name, or the next one if another version has taken that name meanwhile."""
        names = self.registry.versions()
        if self.begun.version not in names:
            return self.begun.version
        begun = dataclasses.replace(self.begun, version=draft_registry.next_name(names))
        write_job(self.folder, begun)
        return begun.version

    def _trained(self, name: str, steps: int) -> Path:
        self.say(f"{name}: {steps:,} steps from {self.begun.stable}")
        task = asked_training.task(self.target, self.folder / TRAIN, self.folder / VALIDATION)
        return self.train(str(self.registry.path_of(self.begun.stable)), self.folder / name, task, steps)

    def _foreseen(self, stable: Measured, pilot: Measured, cost: float) -> str | None:
        """Returns why the pilot predicts that the whole training will not pass; None if it may pass."""
        plan, margin = self.begun.plan, self.conditions.margin
        old = paired.quotient_of_records(pilot.old, stable.old, "block_efficiency", level=prospect.LEVEL)
        if old.high < 1 - margin:
            return (
                f"the pilot of {plan.pilot_steps:,} steps has lost more than {margin:.1%} on old prompts: "
                f"{old.value - 1:+.1%}; a larger --old_share forgets less"
            )
        found = prospect.foresee(
            stable.new,
            pilot.new,
            seconds_per_round=stable.seconds_per_round,
            pilot_steps=plan.pilot_steps,
            pilot_seconds=cost,
            steps=plan.steps,
        )
        seen, gain, needed = (one.value for one in (found.seen, found.gain, found.requests))
        told = (
            f"the pilot of {plan.pilot_steps:,} steps changed block efficiency on new prompts by "
            f"{seen - 1:+.1%}; {plan.steps:,} steps would by about {gain - 1:+.1%}, and cost "
            f"{found.training_seconds:,.0f} s"
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
    say: Say = lambda _: None,
) -> Outcome:
    """Redistils the stable draft and adds the result as a version if it passes the gate.

    Args:
      target: the registry's target; default: its recorded name.
      logs: files of served lines.
      old: files of prompts that the stable draft was trained with, for a registry without a sample.
      train: runs the training.
      keep: a new folder for a refused candidate.
      restart: discard an earlier run.
      say: called with a line at every stage.

    Raises:
      UsageError: bad logs, another target, an existing run with other settings, or no old prompts.
    """
    if keep is not None:
        new_folders.check_new_folder(keep)
    teacher = admission.check_target(registry, target or registry.history.target)
    folder = registry.path / FOLDER
    with alone(folder):
        if restart:
            empty(folder)
        begun = begin(registry, folder, logs, old, plan, say)
        if was_added(registry, begun, folder):  # the run was killed after that
            found = Outcome("passed", "it was added before", begun.version)
        else:
            found = _outcome(_Job(registry, teacher, train, conditions, begun, folder, say))
        if plan.stage and found.version is not None and registry.state().candidate is None:
            rollout.start(registry, found.version, rollout.Settings(), f"redistilled: {found.reason}")
        if keep is not None and found.version is None and (folder / "full").is_dir():
            with new_folders.new_folder(keep) as kept:
                shutil.copytree(folder / "full", kept, dirs_exist_ok=True)
        empty(folder)
    return found


def _outcome(job: _Job) -> Outcome:
    """Runs a job; removes its files if it fails before it has trained anything."""
    try:
        return job.outcome()
    except UsageError:
        if not any((job.folder / name).is_dir() for name in _TRAININGS):
            empty(job.folder)
        raise
