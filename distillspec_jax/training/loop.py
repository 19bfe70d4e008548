"""The training loop: steps, evaluation, checkpoints, and a clean stop when asked.

It knows no loss and no data set. The data position, the keys and the schedule are functions of the
step, and partly accumulated metrics are saved too, so a restart continues bit for bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

from distillspec_jax import checkpoint
from distillspec_jax import metrics as metrics_lib
from distillspec_jax.errors import UsageError
from distillspec_jax.metrics import Mean
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Params
from distillspec_jax.training.step import LossFn, TrainState, check_microbatches, create_state, make_train_step
from distillspec_jax.training.writers import ConsoleWriter, JsonlWriter, TensorBoardWriter

Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]
"""From a step to the endless batches that an uninterrupted run would see from there on."""


class Preempted(Exception):
    """The run was asked to stop, saved, and can be started again: exit status 75."""

    exit_status = 75


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
    max_seconds: float = 0.0


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
    evaluate: Callable[[Params], dict[str, float]] | None = None,
    description: str = "training",
) -> Params:
    """Trains to `total_steps`, resuming from the newest finished step in `directory`.

    Args:
      directory: the checkpoint directory; its metadata is already written.
      params: where step 0 starts; ignored when there is a step to resume from.
      evaluate: parameters to named values, reported under `eval`.

    Returns:
      The final parameters.

    Raises:
      Preempted: SIGTERM or SIGINT came; everything up to the last step is saved.
      UsageError: the loss is no longer finite, the disk is full, the batch cannot be split.
    """
    partitioner.check_batch(config.batch_size)
    check_microbatches(config.batch_size, config.microbatches)
    state, shardings = create_state(params, param_shardings, optimizer, partitioner)
    steps = checkpoint.manager(directory, keep=config.keep, asynchronous=True)
    state, pending = _restore(steps, state, shardings)
    start = int(state.step)
    if start > config.total_steps:
        raise UsageError(f"TRAIN_STEPS={config.total_steps}, but {directory} is already at step {start}")
    train_step = make_train_step(loss_fn, optimizer, partitioner, shardings, config.seed, config.microbatches)
    console = ConsoleWriter(description, config.total_steps, start)
    writers = [JsonlWriter(directory, start), TensorBoardWriter(directory, start), console]

    def report(step: int, values: dict[str, float], split: str) -> None:
        for writer in writers:
            writer.write(step, values, split)

    def save(state: TrainState) -> None:
        with checkpoint.saving(directory):
            progress = {name: [m.total, m.count] for name, m in pending.items()}
            steps.save(
                int(state.step),
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(state.optimizer),
                    progress=ocp.args.JsonSave({"metrics": progress}),
                ),
            )

    began = tick = time.monotonic()
    tokens = 0.0
    in_flight: Any = None
    with _stop_signals() as stop, contextlib.ExitStack() as closing:
        closing.callback(lambda: [writer.close() for writer in writers])
        if start < config.total_steps:
            source = batches(start)
        step = start
        while step < config.total_steps:
            batch = partitioner.put_batch(next(source))
            state, metrics = train_step(state, batch)
            if in_flight is not None:  # fetched while the device works on the next step
                pending = metrics_lib.merge(pending, metrics_lib.to_host(in_flight))
            in_flight, step = metrics, step + 1
            tokens += float(np.sum(batch["decoder_loss_weights"])) if "decoder_loss_weights" in batch else 0
            console.advance(step)
            timed_out = bool(config.max_seconds) and time.monotonic() - began > config.max_seconds
            last = step == config.total_steps or timed_out or stop.requested
            log = step % config.log_period == 0 or step == config.total_steps or timed_out
            evaluates = evaluate is not None and config.eval_period and step % config.eval_period == 0
            saves = last or step % config.save_period == 0
            if log or saves or evaluates:
                pending = metrics_lib.merge(pending, metrics_lib.to_host(in_flight))
                in_flight = None
            if log:
                values = metrics_lib.compute(pending)
                elapsed = time.monotonic() - tick
                report(step, values | {"target_tokens_per_s": tokens / elapsed}, "train")
                pending, tokens, tick = {}, 0.0, time.monotonic()
                if not math.isfinite(values["loss"]):
                    raise UsageError(f"the loss became {values['loss']} by step {step}; the last good checkpoint stays")
            if saves:
                save(state)
            if evaluates and evaluate is not None:
                report(step, evaluate(state.params), "eval")
                tick = time.monotonic()
            if last:
                break
        if evaluate is not None and not stop.requested and not (config.eval_period and step % config.eval_period == 0):
            report(step, evaluate(state.params), "eval")
        with checkpoint.saving(directory):
            steps.wait_until_finished()
            steps.close()
    if stop.requested and step < config.total_steps:
        raise Preempted(f"stopped by {stop.name}: resumable, step {step} of {config.total_steps} is saved")
    return state.params


def _restore(
    steps: ocp.CheckpointManager, state: TrainState, shardings: TrainState
) -> tuple[TrainState, dict[str, Mean]]:
    newest = steps.latest_step()
    if newest is None:
        return state, {}
    stored = steps.restore(
        newest,
        args=ocp.args.Composite(
            params=ocp.args.StandardRestore(checkpoint.abstract(state.params, shardings.params)),
            optimizer=ocp.args.StandardRestore(checkpoint.abstract(state.optimizer, shardings.optimizer)),
            progress=ocp.args.JsonRestore(),
        ),
    )
    step = jax.device_put(np.asarray(newest, np.int32), shardings.step)
    pending = {name: Mean(*sums) for name, sums in stored["progress"]["metrics"].items()}
    return TrainState(step=step, params=stored["params"], optimizer=stored["optimizer"]), pending


@dataclasses.dataclass
class _Stop:
    requested: bool = False
    name: str = ""


@contextlib.contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """SIGTERM (a scheduler) and SIGINT (a person) ask for a stop after the step in flight."""
    stop = _Stop()

    def request(number: int, frame: Any) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice: do not wait for the save
        stop.requested, stop.name = True, signal.Signals(number).name

    try:
        previous = {s: signal.signal(s, request) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread (a notebook's executor): no signals to handle
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
