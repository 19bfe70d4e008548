"""The state of a run on disk: all that a restart needs to continue bit for bit.

The step alone gives the keys, the schedule and the data position; parameters, the optimizer's state and
the metrics of the reporting interval under way are saved.
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
    """Saves in the background, restores the newest whole step, keeps the last few. A context manager.

    In a bucket a step is published when it is whole here, in the background, too; the next save waits for it.
    Several hosts that train into a bucket have a folder each: all of them read what the first has published,
    which gathers the state from the others and saves it alone.

    Args:
      directory: a checkpoint directory.
      keep: how many steps.

    Attributes:
      notes: what was found in the directory that is no whole step, a line each.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory = directory
        self._bucket, self._unpublished = outputs.published(directory), False
        unfinished = [] if jax.process_index() else checkpoint.discard_unfinished(directory)
        self._apart = hosts.apart(directory)
        if self._bucket is not None and self._apart:
            self._bucket.publish()  # what a run before this one had saved here and not published
        hosts.wait("unfinished steps")
        if self._bucket is not None and self._apart:
            self._bucket.follow()
        self.notes = [f"skipped and removed {folder}: it was not whole" for folder in unfinished]
        with files.saving(directory):
            self._manager = checkpoint.manager(directory, keep=keep, asynchronous=True, alone=self._apart)

    def restore(self, fresh: TrainState, shardings: TrainState) -> tuple[TrainState, int, dict[str, Mean]]:
        """The newest step that can be read, or `fresh` where there is none at all.

        A step that turns out to be damaged is set aside, and the one before it is taken; the steps between
        the two are trained again.

        Returns:
          The state, its step, and the metrics gathered since the last report before it.

        Raises:
          UsageError: no step can be continued: all are damaged (the newest is named), the newest lacks what
            training needs, or another optimizer wrote it.
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
            known = stored["progress"].get("checksums")  # steps of the first releases have none
        state = TrainState(
            jax.device_put(np.asarray(step, np.int32), shardings.step), stored["params"], stored["optimizer"]
        )
        for name, value in _checksums(state).items() if known is not None else ():
            if known.get(name) != value:
                raise DamagedCheckpointError(f"{folder} is damaged: {name} is not what was saved")
        return state, step, pending

    def save(self, step: int, state: TrainState, pending: Metrics) -> None:
        """Copies the state and returns; the writing goes on in the background.

        Raises:
          UsageError: the disk is full, now or when the save before this one was written.
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
        """Publishes what is in the directory, where no step is being written or removed."""
        if self._bucket is not None:
            self._bucket.publish_behind()
        self._unpublished = False

    def _check_room(self, step: int, state: TrainState) -> None:
        """Finds a full disk before anything is half-written."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise UsageError(
                f"cannot save to {self._directory}: {os.strerror(errno.ENOSPC)} (step {step} takes "
                f"{needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free)"
            )

    def check(self) -> None:
        """Raises what a save in the background has run into, without waiting for it."""
        with files.saving(self._directory):
            self._manager.check_for_errors()
        if self._bucket is not None:
            self._bucket.check()
        if self._unpublished and not self._manager.is_saving_in_progress():
            self._publish()

    def newest(self) -> int | None:
        """The newest step, once whatever is being written is whole."""
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
        if kind is KeyboardInterrupt:  # asked twice: somebody does not want to wait
            return
        with files.saving(self._directory):
            self._manager.wait_until_finished()
            self._manager.close()
        if self._bucket is not None and (kind is None or issubclass(kind, (Exception, Preempted))):
            try:
                self._bucket.publish()
            except UsageError:
                if kind is None or kind is Preempted:
                    raise  # else what came first is said
            if kind is None or kind is Preempted:
                hosts.wait("published")  # a host that ends waits for the others some minutes, no longer


def _checksums(state: TrainState) -> dict[str, int]:
    return checkpoint.checksums({"params": state.params, "optimizer": state.optimizer})
