"""The state of a run on disk: everything a restart needs to resume bit for bit.

The step determines the keys, the schedule and the data position. The parameters, the optimizer state and
the metrics of the current reporting interval are saved.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from distillspec_jax import checkpoint, files, outputs
from distillspec_jax.checkpoint import DamagedCheckpointError
from distillspec_jax.errors import UsageError
from distillspec_jax.metrics import Mean, Metrics
from distillspec_jax.training import hosts
from distillspec_jax.training.preemption import Preempted
from distillspec_jax.training.step import TrainState


class Snapshots:
    """Saves in the background, restores the newest complete step, keeps the last few. A context manager.

    For a bucket, a step is published in the background once it is complete locally; the next save waits for
    this. Hosts that train into a bucket have a folder each. All of them read what the first host published;
    the first gathers the state from the others and saves it alone.

    Args:
      directory: a checkpoint directory.
      keep: number of steps to keep.

    Attributes:
      notes: one line per incomplete step found in the directory.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._bucket, self._unpublished = outputs.published(directory), False
        self._failure: UsageError | None = None
        self._apart = hosts.apart(directory)
        unfinished = hosts.agreed(lambda: checkpoint.discard_unfinished(directory), first=True)
        if self._bucket is not None and self._apart:
            hosts.agreed(self._bucket.publish)  # anything that an earlier run saved here but did not publish
            hosts.agreed(self._bucket.follow)
        self.notes = [f"skipped and removed {folder}: it was not whole" for folder in unfinished or ()]
        with files.saving(directory):
            self._manager = checkpoint.manager(directory, keep=keep, asynchronous=True, alone=self._apart)

    def restore(self, fresh: TrainState, shardings: TrainState) -> tuple[TrainState, int, dict[str, Mean]]:
        """Restores the newest readable step, or returns `fresh` if there is none at all.

        A damaged step is set aside and the one before it is restored; the steps in between are trained again.
        The first host chooses the step, and one that any host cannot read is damaged for all.

        Returns:
          The state, its step, and the metrics accumulated since the last report before it.

        Raises:
          UsageError: no step can be resumed: all are damaged (names the newest), the newest lacks optimizer
            state or progress, or another optimizer wrote it.
        """
        damaged: dict[int, DamagedCheckpointError] = {}
        while (step := self._newest_but(damaged)) is not None:
            try:
                restored = self._read(step, fresh, shardings)
            except DamagedCheckpointError as error:
                damaged[step] = error
                continue
            if damaged:
                hosts.agreed(lambda: self._set_aside(damaged), first=not self._apart)
                self._manager.reload()
            for skipped, reason in damaged.items():
                aside = self._directory / checkpoint.DAMAGED / str(skipped)
                self.notes.append(f"skipped {reason}; it lies in {aside} now")
            return restored
        for reason in damaged.values():
            raise reason
        return fresh, 0, {}

    def _newest_but(self, damaged: Collection[int]) -> int | None:
        left = (step for step in checkpoint.finished_steps(self._directory) if step not in damaged)
        found = hosts.of_first(next(left, -1))
        return None if found < 0 else found

    def _set_aside(self, steps: Iterable[int]) -> None:
        for step in steps:
            checkpoint.set_aside(self._directory, step)

    def _read(
        self, step: int, fresh: TrainState, shardings: TrainState
    ) -> tuple[TrainState, int, dict[str, Mean]]:
        folder = (self._directory / checkpoint.STEPS / str(step)).absolute()
        stored = hosts.agreed(lambda: self._stored(folder, step, fresh, shardings))
        assert stored is not None
        state = TrainState(
            jax.device_put(np.asarray(step, np.int32), shardings.step), stored["params"], stored["optimizer"]
        )
        pending = {name: Mean(*sums) for name, sums in stored["progress"]["metrics"].items()}
        known = stored["progress"].get("checksums")  # checkpoints of the first releases have none
        found = {} if known is None else _checksums(state)

        def compare() -> None:
            for name, value in found.items():
                if known.get(name) != value:
                    raise DamagedCheckpointError(f"{folder} is damaged: {name} is not what was saved")

        hosts.agreed(compare)
        return state, step, pending

    def _stored(self, folder: Path, step: int, fresh: TrainState, shardings: TrainState) -> Any:
        if not all((folder / item).is_dir() for item in ("optimizer", "progress")):
            raise UsageError(
                f"{folder} holds parameters alone and cannot be continued: start from it with "
                "INITIAL_CHECKPOINT_PATH and another MODEL_DIR"
            )
        checkpoint.check_shapes(str(folder), checkpoint.stored_shapes(folder / "params"), fresh.params)
        stored_optimizer = checkpoint.stored_shapes(folder / "optimizer")
        try:
            checkpoint.check_shapes(str(folder), stored_optimizer, fresh.optimizer)
        except UsageError as error:
            raise UsageError(
                f"{self._directory} was trained with another OPTIMIZER; choose that one, or another MODEL_DIR"
            ) from error
        with checkpoint.reading(folder):
            return self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(checkpoint.abstract(fresh.params, shardings.params)),
                    optimizer=ocp.args.StandardRestore(
                        checkpoint.abstract(fresh.optimizer, shardings.optimizer)
                    ),
                    progress=ocp.args.JsonRestore(),
                ),
            )

    def save(self, step: int, state: TrainState, pending: Metrics) -> None:
        """Copies the state and returns; writing continues in the background.

        Raises:
          UsageError: the disk is full, or was when the previous save was written.
        """
        hosts.agreed(lambda: self._make_ready(step, state), first=self._apart)
        sums = {name: [mean.total, mean.count] for name, mean in pending.items()}
        checksums = _checksums(state)
        if self._apart:
            state = hosts.gathered(state)
            if jax.process_index():
                return
        with files.saving(self._directory):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(state.optimizer),
                    progress=ocp.args.JsonSave({"metrics": sums, "checksums": checksums}),
                ),
            )
        self._unpublished = self._bucket is not None

    def _make_ready(self, step: int, state: TrainState) -> None:
        if self._unpublished:
            with files.saving(self._directory):
                self._manager.wait_until_finished()
            self._publish()
        self._check_room(step, state)

    def _publish(self) -> None:
        """Publishes the directory, which must not have a step being written or removed."""
        if self._bucket is not None:
            self._bucket.publish_behind()
        self._unpublished = False

    def _check_room(self, step: int, state: TrainState) -> None:
        """Detects a full disk before anything is partly written."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise UsageError(
                f"cannot save to {self._directory}: {os.strerror(errno.ENOSPC)} (step {step} takes "
                f"{needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free)"
            )

    def failing(self) -> bool:
        """Tells without waiting whether a background save has failed on this host."""
        try:
            with files.saving(self._directory):
                self._manager.check_for_errors()
            if self._bucket is not None:
                self._bucket.check()
            if self._unpublished and not self._manager.is_saving_in_progress():
                self._publish()
        except UsageError as error:
            self._failure = error
        return self._failure is not None

    def check(self) -> None:
        """Raises the error of a background save that is `failing` on any host; all hosts must call it."""

        def check() -> None:
            if self._failure is not None:
                raise self._failure

        hosts.agreed(check)

    def newest(self) -> int | None:
        """Waits for pending writes and returns the newest step."""
        self._manager.wait_until_finished()
        return checkpoint.latest_step(self._directory)

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is KeyboardInterrupt:  # a second ^C: the user does not want to wait
            return
        if kind is None or kind is Preempted:
            hosts.agreed(self._end)  # an exiting host waits only a few minutes for the others
            return
        self._close()
        if self._bucket is not None and issubclass(kind, Exception):
            with contextlib.suppress(UsageError):  # the original error takes precedence
                self._bucket.publish()

    def _close(self) -> None:
        with files.saving(self._directory):
            self._manager.wait_until_finished()
            self._manager.close()

    def _end(self) -> None:
        self._close()
        if self._bucket is not None:
            self._bucket.publish()


def _checksums(state: TrainState) -> dict[str, int]:
    return checkpoint.checksums({"params": state.params, "optimizer": state.optimizer})
