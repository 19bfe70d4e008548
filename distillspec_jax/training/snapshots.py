"""The state of a run on disk: everything a restart needs to resume bit for bit.

The step determines the keys, the schedule and the data position. The parameters, the optimizer state and
the metrics of the current reporting interval are saved.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import TracebackType

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
        unfinished = [] if jax.process_index() else checkpoint.discard_unfinished(directory)
        self._apart = hosts.apart(directory)
        if self._bucket is not None and self._apart:
            self._bucket.publish()  # anything that an earlier run saved here but did not publish
        hosts.wait("unfinished steps")
        if self._bucket is not None and self._apart:
            self._bucket.follow()
        self.notes = [f"skipped and removed {folder}: it was not whole" for folder in unfinished]
        with files.saving(directory):
            self._manager = checkpoint.manager(directory, keep=keep, asynchronous=True, alone=self._apart)

    def restore(self, fresh: TrainState, shardings: TrainState) -> tuple[TrainState, int, dict[str, Mean]]:
        """Restores the newest readable step, or returns `fresh` if there is none at all.

        A damaged step is set aside and the one before it is restored; the steps in between are trained again.

        Returns:
          The state, its step, and the metrics accumulated since the last report before it.

        Raises:
          UsageError: no step can be resumed: all are damaged (names the newest), the newest lacks optimizer
            state or progress, or another optimizer wrote it.
        """
        damaged: dict[int, DamagedCheckpointError] = {}
        for step in checkpoint.finished_steps(self._directory):
            try:
                restored = self._read(step, fresh, shardings)
            except DamagedCheckpointError as error:
                damaged[step] = error
                continue
            for skipped, reason in damaged.items():
                aside = self._directory / checkpoint.DAMAGED / str(skipped)
                if jax.process_index() == 0 or self._apart:
                    checkpoint.set_aside(self._directory, skipped)
                self.notes.append(f"skipped {reason}; it lies in {aside} now")
            if damaged:
                hosts.wait("damaged steps")
                self._manager.reload()
            return restored
        for reason in damaged.values():
            raise reason
        return fresh, 0, {}

    def _read(
        self, step: int, fresh: TrainState, shardings: TrainState
    ) -> tuple[TrainState, int, dict[str, Mean]]:
        folder = (self._directory / checkpoint.STEPS / str(step)).absolute()
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
            stored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(checkpoint.abstract(fresh.params, shardings.params)),
                    optimizer=ocp.args.StandardRestore(
                        checkpoint.abstract(fresh.optimizer, shardings.optimizer)
                    ),
                    progress=ocp.args.JsonRestore(),
                ),
            )
            pending = {name: Mean(*sums) for name, sums in stored["progress"]["metrics"].items()}
            known = stored["progress"].get("checksums")  # checkpoints of the first releases have none
        state = TrainState(
            jax.device_put(np.asarray(step, np.int32), shardings.step), stored["params"], stored["optimizer"]
        )
        for name, value in _checksums(state).items() if known is not None else ():
            if known.get(name) != value:
                raise DamagedCheckpointError(f"{folder} is damaged: {name} is not what was saved")
        return state, step, pending

    def save(self, step: int, state: TrainState, pending: Metrics) -> None:
        """Copies the state and returns; writing continues in the background.

        Raises:
          UsageError: the disk is full, or was when the previous save was written.
        """
        if self._unpublished:
            with files.saving(self._directory):
                self._manager.wait_until_finished()
            self._publish()
        self._check_room(step, state)
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

    def check(self) -> None:
        """Raises the error of a background save, if any, without waiting for the save."""
        with files.saving(self._directory):
            self._manager.check_for_errors()
        if self._bucket is not None:
            self._bucket.check()
        if self._unpublished and not self._manager.is_saving_in_progress():
            self._publish()

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
        with files.saving(self._directory):
            self._manager.wait_until_finished()
            self._manager.close()
        if self._bucket is not None and (kind is None or issubclass(kind, (Exception, Preempted))):
            try:
                self._bucket.publish()
            except UsageError:
                if kind is None or kind is Preempted:
                    raise  # otherwise the original error takes precedence
            if kind is None or kind is Preempted:
                hosts.wait("published")  # otherwise an exiting host waits only a few minutes for the others


def _checksums(state: TrainState) -> dict[str, int]:
    return checkpoint.checksums({"params": state.params, "optimizer": state.optimizer})
