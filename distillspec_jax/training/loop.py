"""The training loop: steps, evaluation, checkpoints, and a clean stop on request.

It is independent of loss and data set. The data position, the keys and the schedule are functions of the
step, and partly accumulated metrics are saved as well, so a restart resumes bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from distillspec_jax import bounds
from distillspec_jax import metrics as metrics_lib
from distillspec_jax.errors import UsageError, check_number, nearest
from distillspec_jax.metrics import Mean, Metrics
from distillspec_jax.models.program_counts import product_flops
from distillspec_jax.models.projection import PRECISIONS
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Params
from distillspec_jax.training import finiteness, hosts
from distillspec_jax.training.preemption import Preempted, between_parts, stop_signals
from distillspec_jax.training.selection import Selection
from distillspec_jax.training.snapshots import Snapshots
from distillspec_jax.training.step import LossFn, check_microbatches, create_state, make_train_step
from distillspec_jax.training.throughput import Throughput
from distillspec_jax.training.writers import Reports

Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]
"""Maps a step to the endless batches that an uninterrupted run would see from there on."""

Evaluate = Callable[[Params], Mapping[str, float]]
"""Maps parameters to named values. It may be left between two of its parts (`preemption.stoppable`)."""


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Duration, batch size and periods of a training run.

    Attributes:
      total_steps: total optimizer steps, including those before a restart.
      batch_size: sequences (or packed rows) per step, over all hosts.
      seed: of all randomness in training.
      log_period: steps between reports; metrics are merged over them.
      eval_period: steps between evaluations (0: only at the end).
      save_period: steps between checkpoints; the last step is always saved.
      keep: number of checkpoints to keep.
      microbatches: gradient accumulation.
      patience: the run ends after this many evaluations without improvement; 0: never. Needs a selection.
      patience_after: minimum number of steps before the run may end this way.
      max_seconds: stop early, as if `total_steps` were reached (0: never). For equal-time studies.
      matmul_precision: of training's matrix products, `projection.PRECISIONS`; None: JAX's own setting.
      frozen: top-level names of parameters that are not trained, such as `token_embedder`.
      on_non_finite: policy for a step with a non-finite loss or gradient: `stop`, or `skip` it, which keeps
        the parameters and optimizer state unchanged. Its batch is saved in both cases.
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
    patience_after: int = 0
    max_seconds: float = 0.0
    on_non_finite: str = "stop"
    matmul_precision: str | None = None
    frozen: Sequence[str] = ()

    def __post_init__(self) -> None:
        at_least_one = ("total_steps", "batch_size", "log_period", "save_period", "keep", "microbatches")
        least = dict.fromkeys(at_least_one, 1) | dict.fromkeys(
            ("seed", "eval_period", "patience", "patience_after", "max_seconds"), 0
        )
        for name, minimum in least.items():
            whole = name != "max_seconds"
            most = {"seed": bounds.SEED, "batch_size": bounds.ROWS}.get(name, bounds.COUNT)
            check_number(f"LoopConfig.{name}", getattr(self, name), minimum, most=most, whole=whole)
        check_microbatches(self.batch_size, self.microbatches)
        if self.on_non_finite not in finiteness.POLICIES:
            near = nearest(self.on_non_finite, finiteness.POLICIES)
            raise UsageError(f"LoopConfig.on_non_finite={self.on_non_finite!r}: {near}")
        if self.matmul_precision not in (None, *PRECISIONS):
            near = nearest(str(self.matmul_precision), PRECISIONS)
            raise UsageError(f"LoopConfig.matmul_precision={self.matmul_precision!r}: {near}")


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
    counted_loss_fn: LossFn | None = None,
    description: str = "training",
) -> Params:
    """Trains to `total_steps`, resuming from the newest finished step in `directory`.

    Args:
      directory: the checkpoint directory; its metadata is already written.
      params: initial parameters; ignored if there is a step to resume from. Their buffers are donated.
      param_shardings: a tree like `params`.
      evaluate: reported under `eval`, every `eval_period` steps and at the end.
      select: name of an evaluation's value; the step with the highest value, including step 0, is kept
        separately (`Selection`).
      counted_loss_fn: the loss without rematerialisation, if `loss_fn` has it, to count the model's FLOPs.
      description: for the progress bar.

    Returns:
      The final parameters.

    Raises:
      Preempted: SIGTERM or SIGINT arrived; everything up to the last step is saved.
      UsageError: the loss is no longer finite (see `LoopConfig.on_non_finite`), the disk is full, or the
        devices cannot split a batch.
    """
    partitioner.check_batch(config.batch_size)
    frozen = tuple(config.frozen)
    state, shardings = create_state(params, param_shardings, optimizer, partitioner, frozen)
    train_step = make_train_step(
        optimizer, partitioner, shardings, config.seed, config.microbatches, config.matmul_precision, frozen
    )
    total = config.total_steps

    def evaluates(step: int) -> bool:
        period = config.eval_period
        return evaluate is not None and (step == total or bool(period and step % period == 0))

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(stop_signals())  # active until everything is written
        snapshots = stack.enter_context(Snapshots(directory, config.keep))
        state, start, pending = snapshots.restore(state, shardings)
        if start > total:
            raise UsageError(f"TRAIN_STEPS={total}, but {directory} is already at step {start}")
        reports = stack.enter_context(Reports(directory, description, total, start))
        for note in snapshots.notes:
            reports.note(note)
        if start == total:
            reports.note(f"{directory} is at step {start} of {total} already: nothing to train")
        patience = config.patience * config.eval_period
        selection = None if select is None else Selection(directory, select, patience)

        throughput = Throughput(config.matmul_precision)
        interval = _Interval(pending, directory, config, snapshots, reports, throughput)

        def report_evaluation(step: int, saved: bool) -> None:
            if evaluate is None:
                return

            def look() -> None:
                if hosts.any_host(stop.requested):
                    if not saved:
                        snapshots.save(step, state, interval.metrics)
                    raise Preempted(f"stopped by {stop.name}: resumable, step {step} of {total} is saved")

            with between_parts(look):
                values = evaluate(state.params)
            if selection is not None and select is not None:
                selection.offer(step, values[select], state.params)
            reports.write(step, values, "eval")

        def gave_up(step: int) -> bool:
            return selection is not None and step >= config.patience_after and selection.exhausted(step)

        # A selection evaluates step 0; a later step is due if the run stopped before evaluating it.
        due = evaluates(start) if start else selection is not None
        if hosts.of_first(due and not reports.holds(start, "eval")):
            report_evaluation(start, saved=True)
        if gave_up(start):
            return state.params

        alone, polls = jax.process_count() == 1, hosts.Polls(start, config.log_period)
        began = time.monotonic()
        if start < total and hosts.any_host(stop.requested):  # before the first step, which compiles
            raise Preempted(f"stopped by {stop.name}: resumable, step {start} of {total}")
        source = batches(start) if start < total else iter(())
        flops: dict[Any, float] = {}  # per step, by batch shape; each shape is its own program
        for step in range(start + 1, total + 1):
            with throughput.waiting():
                batch = next(source)
            rows = partitioner.put_batch(batch)
            shape = tuple(sorted((name, x.shape) for name, x in batch.items()))
            if new_shape := shape not in flops:
                traced = train_step.trace(state, rows, counted_loss_fn or loss_fn)
                flops[shape] = product_flops(traced.jaxpr, batch["decoder_target_tokens"].shape[1])
            state, metrics = train_step(state, rows, loss_fn)
            interval.fetch()  # the previous step, while the device runs this one
            interval.dispatched(step, batch, metrics, flops[shape])
            reports.advance(step)

            reported = step % config.log_period == 0
            timed_out = bool(config.max_seconds) and time.monotonic() - began > config.max_seconds
            timed_out, stopping, failing = polls.any_host(
                step, timed_out and (alone or reported), stop.requested, snapshots.failing()
            )
            if failing:
                snapshots.check()
            last = step == total or timed_out
            logs = last or reported
            saves = last or stopping or step % config.save_period == 0
            if not (new_shape or logs or saves or evaluates(step)):
                continue
            interval.fetch()
            if new_shape:
                throughput.restart()  # exclude compilation
            if logs:
                reports.write(step, interval.close() | throughput.measured(), "train")
                throughput.restart()
            if saves:
                snapshots.save(step, state, interval.metrics)
            evaluation_due = evaluate is not None and (last or evaluates(step))
            if stopping and (evaluation_due or not last):
                raise Preempted(f"stopped by {stop.name}: resumable, step {step} of {total} is saved")
            if evaluation_due:
                with throughput.paused():
                    report_evaluation(step, saved=saves)
            if gave_up(step) and not last:
                reports.note(f"stopped at step {step}: {config.patience} evaluations without a better one")
                if not saves:
                    snapshots.save(step, state, interval.metrics)
            if last or gave_up(step):
                break
    return state.params


class _Interval:
    """The metrics of the steps since the last report, and the step that the device is running.

    Args:
      metrics: accumulated before a restart.
    """

    def __init__(
        self,
        metrics: Metrics,
        directory: Path,
        config: LoopConfig,
        snapshots: Snapshots,
        reports: Reports,
        throughput: Throughput,
    ) -> None:
        self.metrics = dict(metrics)
        self._directory, self._config, self._snapshots = directory, config, snapshots
        self._reports, self._throughput = reports, throughput
        self._in_flight: tuple[int, dict[str, np.ndarray], Metrics, float] | None = None

    def dispatched(self, step: int, batch: dict[str, np.ndarray], metrics: Metrics, flops: float) -> None:
        """Records the step given to the device, without waiting for it."""
        self._in_flight = step, batch, metrics, flops

    def fetch(self) -> None:
        """Waits for the step in flight, if any, and merges its metrics.

        Called before a step is saved, so that no checkpoint includes a step not known to be finite.

        Raises:
          UsageError: the step is not finite and the policy is to stop.
        """
        if self._in_flight is None:
            return
        (step, batch, metrics, flops), self._in_flight = self._in_flight, None
        host = metrics_lib.to_host(metrics)
        skips = self._config.on_non_finite == "skip"
        if fault := finiteness.fault(host):
            path = finiteness.keep_batch(self._directory, step, batch)
            if not skips:
                newest = self._snapshots.newest()
                saved = "nothing was saved before it" if newest is None else f"step {newest} is saved"
                raise UsageError(
                    f"{fault} at step {step}; {saved}, the batch in {path}; lower LEARNING_RATE, or skip "
                    "such steps: ON_NON_FINITE='skip'"
                )
            self._reports.note(f"skipped step {step}: {fault}; its batch is in {path}")
            host = {}
        if skips:
            host["skipped_steps"] = Mean(float(bool(fault)), 1.0)
        if not fault:
            self._throughput.add(host["row_tokens"].total, flops)
        self.metrics = metrics_lib.merge(self.metrics, host)

    def close(self) -> dict[str, float]:
        """Ends the interval and returns its metrics; the next one starts empty.

        Raises:
          UsageError: every step of the interval was skipped.
        """
        closed, self.metrics = self.metrics, {}
        if "loss" not in closed:
            raise UsageError(
                f"all {closed['skipped_steps'].count:.0f} steps since the last report were skipped, none was "
                f"finite; their batches are in {self._directory / finiteness.FOLDER}"
            )
        return metrics_lib.compute(closed)
