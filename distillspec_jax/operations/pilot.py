"""A pilot before any investment: measures a draft on a user's own prompts before and after a short training.

Its folder keeps all intermediate results. The same call resumes a killed run there, and reports a finished
run again, in another language or under other conditions, without repeating it.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import jax

from distillspec_jax import files, outputs, schema
from distillspec_jax.errors import UsageError, check_number
from distillspec_jax.evaluation import paired, prospect
from distillspec_jax.evaluation.prospect import Finding
from distillspec_jax.models import pretrained
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.operations import asked_training, costs, prompts
from distillspec_jax.operations.asked_training import Say, Train, TrainingPlan
from distillspec_jax.operations.gate import Conditions, Measured
from distillspec_jax.operations.held_out import HeldOut
from distillspec_jax.operations.redistill_folder import alone, check_same
from distillspec_jax.schema import Amount, Size, Text

PAGE, NUMBERS = "pilot.html", "pilot.json"
"""The results, next to the files of the run."""
_JOB, _PACE = "job.json", "pace.json"
_TRAIN, _VALIDATION, _JUDGE = "train.jsonl", "validation.jsonl", "judge.jsonl"
_BEFORE, _AFTER = "before.json", "after.json"
_TIMED, _TRAINED = "timed", "trained"
_OWN = (_JOB, _PACE, _TRAIN, _VALIDATION, _JUDGE, _BEFORE, _AFTER, _TIMED, _TRAINED, PAGE, NUMBERS)
_WHAT = "a pilot"
_FEWEST_STEPS = 10
"""Minimum steps of a pilot, however short the time."""
_TIMED_STEPS = 3
_CAUTION = 0.8
"""Share of the remaining time used for training: step times vary, and the report must be ready in time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PilotPlan(TrainingPlan):
    """The settings of a pilot.

    Attributes: see `TrainingPlan`;
      minutes: time limit for everything; a short limit reduces the pilot's steps.
      field: the field of the data that holds the prompt.

    Raises:
      UsageError: a value is out of range.
    """

    minutes: Amount = 15.0
    field: Text = prompts.INPUTS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("--pilot_steps", self.pilot_steps, 2)  # the first step compiles and is not timed
        check_number("--minutes", self.minutes, 1, most=10**6, whole=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Begun:
    """The content of a pilot's job file: its inputs and settings; `texts` is a digest of the prompts."""

    target: Text
    draft: Text
    data: Text
    texts: Text
    plan: PilotPlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pace:
    """The number of steps that fit into the time limit."""

    steps: Size
    seconds_a_step: Amount


@dataclasses.dataclass(frozen=True)
class _Job:
    """A pilot in progress."""

    target: Pretrained
    draft: str
    folder: Path
    plan: PilotPlan
    held_out: HeldOut
    train: Train
    say: Say
    began: float

    def measured(self) -> tuple[Measured, Measured, int, float]:
        """Measures the draft before and after training; also returns the training's steps and cost."""
        clock = time.monotonic()
        before = self.held_out.measure(self.draft, self.folder / _BEFORE)
        spent = time.monotonic() - clock
        rate = paired.of_records(before.new, "acceptance_tested")
        self.say(f"acceptance on {len(before.new):,} held-out prompts: {rate:.3f}")
        steps = self._steps(spent)
        trained = self.folder / _TRAINED
        if not (self.folder / _AFTER).is_file():
            self.say(f"pilot: {steps:,} steps from {self.draft}")
            trained = self._trained(_TRAINED, steps)
        after = self.held_out.measure(trained, self.folder / _AFTER)
        return before, after, steps, costs.of_training(self.folder / _TRAINED)

    def _steps(self, decoding: float) -> int:
        """Computes the pilot's steps: the planned number, or as many as fit into the time limit.

        Args:
          decoding: seconds spent on measuring a draft, to be spent once more.
        """
        most, kept = self.plan.pilot_steps, self.folder / _PACE
        if most <= _FEWEST_STEPS:
            return most
        if kept.is_file():
            return min(most, schema.read_file(_Pace, kept, "the pace of a pilot").steps)
        clock = time.monotonic()
        self._trained(_TIMED, _TIMED_STEPS)
        timed = costs.duration(self.folder / _TIMED)  # its best may lie in a folder below, without the log
        begun = max(0.0, time.monotonic() - clock - timed)  # loading and compiling, which will recur
        left = 60 * float(self.plan.minutes) - (time.monotonic() - self.began) - begun - decoding
        a_step = max(timed / _TIMED_STEPS, 1e-9)
        steps = max(_FEWEST_STEPS, min(most, int(_CAUTION * left / a_step)))
        if steps < most:
            self.say(f"{steps:,} steps, not {most:,}: --minutes={self.plan.minutes:g}, {a_step:.1f} s a step")
        files.write_json(kept, dataclasses.asdict(_Pace(steps=steps, seconds_a_step=a_step)))
        shutil.rmtree(self.folder / _TIMED, ignore_errors=True)
        return steps

    def _trained(self, name: str, steps: int) -> Path:
        task = asked_training.task(self.target, self.folder / _TRAIN, self.folder / _VALIDATION)
        return self.train(self.draft, self.folder / name, task, steps)


def pilot(
    target: str,
    draft: str,
    data: str,
    output: str,
    plan: PilotPlan,
    conditions: Conditions,
    train: Train,
    *,
    restart: bool = False,
    say: Say = lambda _: None,
) -> Finding:
    """Measures a draft on prompts, trains it briefly, and predicts the effect of a whole training.

    Args:
      target, draft: checkpoint directories or `zoo:NAME`.
      data: JSON lines with prompts.
      output: the pilot's folder: a new one, or that of an earlier call.
      conditions: of the decision; those on old prompts are not used.
      train: runs the training.
      restart: discard the results of an earlier call.
      say: called with a line at every stage.

    Raises:
      UsageError: the vocabularies differ, there are too few prompts, or the folder holds something else.
    """
    began = time.monotonic()
    teacher = pretrained.load(target)
    pretrained.check_pair(teacher, pretrained.load(draft), False)
    asked = prompts.read_logs([data], plan.field)
    sampling = plan.sampling_of(asked)
    judging = prompts.judging(asked.prompts, plan.prompts)
    trained = [one for one in asked.prompts if not one.held_out]
    fewest = conditions.least_prompts
    if min(len(judging), len(trained)) < fewest:
        held_out = len(asked.prompts) - len(trained)
        raise UsageError(
            f"{data}: {len(asked.prompts):,} different prompts, of which {held_out:,} are held out: a pilot "
            f"needs {fewest:,} of either kind, about {round(fewest / prompts.HELD_OUT):,} prompts"
        )
    trained, validation = prompts.validating(trained, plan.prompts)
    for what, count in asked.notes.items():
        say(f"{count:,} {what}: set aside")
    folder = outputs.take_folder(output, _JOB, names=_OWN)
    with files.saving(output):
        folder.mkdir(parents=True, exist_ok=True)
    begun = Begun(target=target, draft=draft, data=data, texts=prompts.digest(asked.prompts), plan=plan)
    with alone(folder, "pilot"):
        if restart and (folder / _JOB).is_file():
            schema.read_file(Begun, folder / _JOB, _WHAT)  # checks that it is not another program's file
            _empty(folder)
        _begin(folder, begun, say)
        prompts.write(folder / _TRAIN, trained)
        prompts.write(folder / _VALIDATION, validation)
        prompts.write(folder / _JUDGE, judging)
        held_out_prompts = HeldOut(teacher, judging, [], sampling, plan.block_size, plan.chat)
        job = _Job(teacher, draft, folder, plan, held_out_prompts, train, say, began)
        try:
            before, after, steps, seconds = job.measured()
        except UsageError:
            if not any((folder / name).exists() for name in (_BEFORE, _TRAINED)):
                _empty(folder)  # there are no results to keep
            raise
        foreseen = prospect.foresee(
            before.new,
            after.new,
            seconds_per_round=before.seconds_per_round,
            pilot_steps=steps,
            pilot_seconds=seconds,
            steps=plan.steps,
            block_size=plan.block_size,
        )
        outcome, why = foreseen.decide(conditions.least_gain, conditions.pay_back_requests)
        device = jax.devices()[0]
        needed = prospect.prompts_to_tell(before.new, after.new, conditions.least_gain)
        found = Finding(
            outcome=outcome,
            why=why,
            prospect=foreseen,
            acceptance=_pair(before, after, "acceptance_tested"),
            block_efficiency=_pair(before, after, "block_efficiency"),
            target=target,
            draft=draft,
            data=data,
            prompts=(len(asked.prompts), len(trained), len(judging)),
            pilot_steps=steps,
            steps=plan.steps,
            temperature=sampling.temperature,
            block_size=plan.block_size,
            device=f"{device.device_kind}",
            least_gain=conditions.least_gain,
            pay_back_requests=conditions.pay_back_requests,
            needed=needed if needed is not None and needed > len(judging) else None,
        )
        files.write_json(folder / NUMBERS, found.as_json())
    return found


def _pair(before: Measured, after: Measured, ratio: str) -> tuple[paired.Interval, paired.Interval]:
    one, other = (paired.of_records(found.new, ratio, level=prospect.LEVEL) for found in (before, after))
    return one, other


def _begin(folder: Path, begun: Begun, say: Say) -> None:
    """Writes a pilot's inputs, or checks that an existing pilot was started with the same."""
    path = folder / _JOB
    if not path.is_file():
        files.write_json(path, dataclasses.asdict(begun))
        return
    there, here = (
        {**dataclasses.asdict(one), **dataclasses.asdict(one.plan)}
        for one in (schema.read_file(Begun, path, _WHAT), begun)
    )
    del here["plan"]
    check_same(folder, "pilot", there, here)
    say(f"going on with the pilot in {folder}")


def _empty(folder: Path) -> None:
    """Removes only a pilot's own files, its job file first, so a partly removed pilot is not resumed."""
    there = [folder / name for name in _OWN]
    for path in there:
        if path.is_file():
            outputs.check(path)  # before any is removed
    for path in there:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
