"""The training loop: steps, evaluation, checkpoints, and a clean stop when asked.

It knows no loss and no data set. The data position, the keys and the schedule are functions of the
step, and partly accumulated metrics are saved too, so a restart continues bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import optax

from distillspec_jax import metrics as metrics_lib
from distillspec_jax.errors import UsageError
from distillspec_jax.metrics import Mean, Metrics
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Params
from distillspec_jax.training.preemption import Preempted, stop_signals
from distillspec_jax.training.selection import Selection
from distillspec_jax.training.snapshots import Snapshots
from distillspec_jax.training.step import LossFn, check_microbatches, create_state, make_train_step
from distillspec_jax.training.writers import Reports

Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]
"""From a step to the endless batches that an uninterrupted run would see from there on."""

Evaluate = Callable[[Params], Mapping[str, float]]
"""From parameters to named values."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, how often.

    Attributes:
      total_steps: optimizer steps in all, those before a restart included.
      batch_size: sequences (or packed rows) a step, over all hosts.
      seed: of everything random in training.
      log_period: steps between reports; metrics are merged over them.
      eval_period: steps between evaluations (0: only at the end).
      save_period: steps between checkpoints; the last step is always saved.
      keep: checkpoints kept.
      microbatches: gradient accumulation.
      patience: evaluations without a better one after which the run ends; 0: never. Needs a selection.
      max_seconds: stop early, as if `total_steps` were reached (0: never). For equal-time studies.
    """

    total_steps: int
    batch_size: int
    seed: int = 0
    log_period: int = 50
    eval_period: int = 0
    save_period: int = 500
    keep: int = 2
    microbatches: int = 1
    patience: int = 0
    max_seconds: float = 0.0

    def __post_init__(self) -> None:
        at_least_one = ("total_steps", "batch_size", "log_period", "save_period", "keep", "microbatches")
        least = dict.fromkeys(at_least_one, 1) | dict.fromkeys(
            ("seed", "eval_period", "patience", "max_seconds"), 0
        )
        for name, minimum in least.items():
            if not getattr(self, name) >= minimum:
                raise UsageError(f"LoopConfig.{name}={getattr(self, name)}: must be at least {minimum}")
        if self.seed >= 2**32:
            raise UsageError(f"LoopConfig.seed={self.seed}: must be at most {2**32 - 1}")


def train(
    *,
    directory: Path,
    config: LoopConfig,
    params: Params,
    param_shardings: Params,
    loss_fn: LossFn,
    batches: Batches,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    evaluate: Evaluate | None = None,
    select: str | None = None,
    description: str = "training",
) -> Params:
    """Trains to `total_steps`, resuming from the newest finished step in `directory`.

    Args:
      directory: the checkpoint directory; its metadata is already written.
      params: where step 0 starts; ignored when there is a step to resume from. Given away: their buffers
        are reused.
      param_shardings: a tree like `params`.
      evaluate: reported under `eval`, every `eval_period` steps and at the end.
      select: name of an evaluation's value; the step with the highest one is kept apart (`Selection`).
      description: of the progress bar.

    Returns:
      The final parameters.

    Raises:
      Preempted: SIGTERM or SIGINT came; everything up to the last step is saved.
      UsageError: the loss is no longer finite, the disk is full, the batch cannot be split.
    """
    partitioner.check_batch(config.batch_size)
    check_microbatches(config.batch_size, config.microbatches)
    state, shardings = create_state(params, param_shardings, optimizer, partitioner)
    train_step = make_train_step(loss_fn, optimizer, partitioner, shardings, config.seed, config.microbatches)
    total = config.total_steps

    def evaluates(step: int) -> bool:
        period = config.eval_period
        return evaluate is not None and (step == total or bool(period and step % period == 0))

    with contextlib.ExitStack() as stack:
        snapshots = stack.enter_context(Snapshots(directory, config.keep))
        state, start, pending = snapshots.restore(state, shardings)
        if start > total:
            raise UsageError(f"TRAIN_STEPS={total}, but {directory} is already at step {start}")
        reports = stack.enter_context(Reports(directory, description, total, start))
        for folder in snapshots.discarded:
            reports.note(f"skipped and removed {folder}: it was not whole")
        stop = stack.enter_context(stop_signals())
        patience = config.patience * config.eval_period
        selection = None if select is None else Selection(directory, select, patience)

        def report_evaluation(step: int) -> None:
            if evaluate is None:
                return
            values = evaluate(state.params)
            if selection is not None and select is not None:
                selection.offer(step, values[select], state.params)
            reports.write(step, values, "eval")

        def gave_up(step: int) -> bool:
            return selection is not None and selection.exhausted(step)

        if start and evaluates(start) and not reports.holds(start, "eval"):
            report_evaluation(start)  # the run was stopped before it came to that
        if gave_up(start):
            return state.params

        throughput = _Throughput()
        began = time.monotonic()
        source = batches(start) if start < total else iter(())
        in_flight: Metrics | None = None
        for step in range(start + 1, total + 1):
            state, metrics = train_step(state, partitioner.put_batch(next(source)))
            if in_flight is not None:  # fetched while the device works on this step
                pending = _gather(pending, in_flight, step - 1, snapshots, throughput)
            in_flight = metrics
            reports.advance(step)
            snapshots.check()

            timed_out = bool(config.max_seconds) and time.monotonic() - began > config.max_seconds
            first, last, stopping = step == start + 1, step == total or timed_out, stop.requested
            logs = last or step % config.log_period == 0
            saves = last or stopping or step % config.save_period == 0
            if not (first or logs or saves or evaluates(step)):
                continue
            pending, in_flight = _gather(pending, in_flight, step, snapshots, throughput), None
            if first:
                throughput.restart()  # compiling is no training
            if logs:
                reports.write(step, metrics_lib.compute(pending) | throughput.measured(), "train")
                throughput.restart()
                pending = {}
            if saves:
                snapshots.save(step, state, pending)
            evaluation_due = evaluate is not None and (last or evaluates(step))
            if stopping and (evaluation_due or not last):
                raise Preempted(f"stopped by {stop.name}: resumable, step {step} of {total} is saved")
            if evaluation_due:
                with throughput.paused():
                    report_evaluation(step)
            if gave_up(step) and not last:
                reports.note(f"stopped at step {step}: {config.patience} evaluations without a better one")
                if not saves:
                    snapshots.save(step, state, pending)
            if last or gave_up(step):
                break
    return state.params


class _Throughput:
    """Tokens a second of training, compilation and evaluation left out."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._tokens, self._began = 0.0, time.monotonic()

    def add(self, tokens: float) -> None:
        self._tokens += tokens

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        stopped = time.monotonic()
        yield
        self._began += time.monotonic() - stopped

    def measured(self) -> dict[str, float]:
        """Nothing where no time was measured."""
        elapsed = time.monotonic() - self._began
        return {"tokens_per_s": self._tokens / elapsed} if self._tokens and elapsed > 0 else {}


def _gather(
    pending: Metrics, metrics: Metrics, step: int, snapshots: Snapshots, throughput: _Throughput
) -> dict[str, Mean]:
    """Merges a step's metrics into those of the interval.

    Raises:
      UsageError: the step's loss or gradient is not finite. It is called before a step is saved, so that no
        checkpoint holds what such a step leaves behind.
    """
    host = metrics_lib.to_host(metrics)
    for name in ("loss", "gradient_norm"):
        value = host[name].compute() if host[name].count else host[name].total
        if not math.isfinite(value):
            newest = snapshots.newest()
            saved = "nothing was saved before it" if newest is None else f"step {newest} is saved"
            raise UsageError(f"the {name} became {value} at step {step}; {saved}; lower LEARNING_RATE?")
    throughput.add(host["row_tokens"].total)
    return metrics_lib.merge(pending, host)
