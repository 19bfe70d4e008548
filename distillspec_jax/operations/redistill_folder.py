"""The folder of a redistillation: its prompts as read from the logs, and its settings.

It is inside the registry, belongs to one process at a time, and is removed when the redistillation has ended.
The same call resumes a killed run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillspec_jax import files, locks, outputs, schema
from distillspec_jax.errors import UsageError, check_number, shown
from distillspec_jax.operations import draft_registry, prompts
from distillspec_jax.operations.asked_training import Say, TrainingPlan
from distillspec_jax.operations.draft_registry import PROMPTS, DraftRegistry
from distillspec_jax.schema import Amount, Count, Share, Text

FOLDER = "redistill"
ASKED, TRAIN, VALIDATION = "asked.jsonl", "train.jsonl", "validation.jsonl"
"""All new prompts, those to train on, and those by which a training chooses its best checkpoint."""
NEW, OLD = "new.jsonl", "old.jsonl"
"""The held-out new and old prompts, which judge."""
MORE_NEW, MORE_OLD = "more_new.jsonl", "more_old.jsonl"
"""More held-out prompts, in case the gate is undecided on the first ones."""
_MORE = 4
"""Total number of held-out prompts, in multiples of the first set."""
_JOB = "job.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan(TrainingPlan):
    """The settings of a redistillation.

    Attributes: see `TrainingPlan`;
      old_share: share of old prompts in the training data.
      stage: whether a version that passes starts its rollout.

    Raises:
      UsageError: a value is out of range.
    """

    old_share: Share = 0.3
    stage: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("--old_share", self.old_share, 0, most=0.95, whole=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """The content of a run's job file: the settings it was started with."""

    version: Text
    stable: Text
    temperature: Amount
    top_k: Count = 0
    top_p: Share = 1.0
    plan: Plan


def begin(
    registry: DraftRegistry, folder: Path, logs: Sequence[str], old: Sequence[str], plan: Plan, say: Say
) -> Begun:
    """Reads all prompts, or returns the run already started.

    Raises:
      UsageError: bad logs, an existing run with other settings, no old prompts, or a rollout in progress.
    """
    state = registry.state()
    if (folder / _JOB).is_file():
        begun = schema.read_file(Begun, folder / _JOB, "a redistillation")
        if was_added(registry, begun, folder):
            return begun
        there = {"stable version": begun.stable, **dataclasses.asdict(begun.plan)}
        here = {"stable version": state.stable, **dataclasses.asdict(plan)}
        check_same(folder, "redistillation", there, here)
        say(f"going on with the prompts that were read for {begun.version}")
        return begun
    if plan.stage and state.candidate is not None:
        raise UsageError(
            f"version {state.candidate} is being rolled out: leave --stage out, or end that first"
        )
    stable = state.stable
    registry.path_of(stable)  # to raise its error, if the folder was removed
    empty(folder)
    asked = prompts.read_logs(logs)
    sampling = plan.sampling_of(asked)  # raises its error before anything is written
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
    recent, validation = prompts.validating([one for one in new if not one.held_out], plan.prompts)
    trained = prompts.mixed(recent, [one for one in known if not one.held_out], plan.old_share)
    for first, rest, held_out in ((NEW, MORE_NEW, new), (OLD, MORE_OLD, known)):
        judging = prompts.judging(held_out, _MORE * plan.prompts)
        prompts.write(folder / first, judging[: plan.prompts])
        prompts.write(folder / rest, judging[plan.prompts :])
    prompts.write(folder / TRAIN, trained)
    prompts.write(folder / VALIDATION, validation)
    prompts.write(folder / ASKED, new)
    version = draft_registry.next_name(registry.versions())
    told = f"{len(new):,} new prompts and {len(known):,} old ones"
    say(f"{told}; {version} is to be trained on {len(trained):,}")
    begun = Begun(version=version, stable=stable, plan=plan, **dataclasses.asdict(sampling))
    write_job(folder, begun)
    return begun


def check_same(folder: Path, kind: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuses to resume a run with other settings.

    Args:
      kind: of run, for the message.
      there, here: settings of the existing run, and of this call.

    Raises:
      UsageError: names the first difference.
    """
    for name, value in here.items():
        if there[name] != value:
            raise UsageError(
                f"{folder} holds a {kind} whose {name} is {shown(there[name])}, not "
                f"{shown(value)}: give the same call to resume it, or --restart"
            )


def write_job(folder: Path, begun: Begun) -> None:
    """Writes a redistillation's job file, from which point it can be resumed."""
    files.write_json(folder / _JOB, dataclasses.asdict(begun))


def was_added(registry: DraftRegistry, begun: Begun, folder: Path) -> bool:
    """Tells whether the version of that name was added by this run and not by another."""
    if begun.version not in registry.versions():
        return False
    source = outputs.resolved(registry.lineage(begun.version).source)
    return outputs.resolved(folder) in source.parents


@contextlib.contextmanager
def alone(folder: Path, kind: str = "redistillation") -> Iterator[None]:
    """Locks a folder against other runs of the same kind; removes it at the end if it is empty."""
    with files.saving(folder):
        folder.mkdir(exist_ok=True)
    with locks.locked(folder) as free:
        if free is False:
            raise UsageError(f"{folder}: another {kind} is under way")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()


def empty(folder: Path) -> None:
    """Removes a run's files, its job file first, so a partly removed run is never resumed."""
    (folder / _JOB).unlink(missing_ok=True)
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
