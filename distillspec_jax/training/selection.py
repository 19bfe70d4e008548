"""The best evaluation of a run, kept as a separate checkpoint directory inside the run's.

    MODEL_DIR/best/                 card, tokenizer and parameters: a model for any command
    MODEL_DIR/best/selection.json   its step and value

A resumed run continues from the newest step and keeps the previous best. The record is written after the
parameters, so parameters without a record come from an interrupted save and are rewritten.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax

from distillspec_jax import checkpoint, files, model_card, schema
from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Params
from distillspec_jax.training import hosts

BEST, RECORD = "best", "selection.json"


@dataclasses.dataclass(frozen=True)
class _Record:
    """The content of `RECORD`."""

    step: schema.Count
    metric: str
    value: float | None


class Selection:
    """Keeps the parameters with the highest value of a metric; the first wins a tie.

    Args:
      directory: the run's checkpoint directory; its metadata is already written.
      metric: name of one of the evaluation's values.
      patience: steps without improvement after which the run is `exhausted`; 0: never.

    Attributes:
      step, value: of the best so far; None and -inf before the first.

    Raises:
      UsageError: the record is damaged, or of another metric; the parameters next to it are kept.
    """

    def __init__(self, directory: Path, metric: str, patience: int = 0) -> None:
        self._run, self._root = directory, directory / BEST
        self._metric, self._patience = metric, patience
        self.step: int | None = None
        self.value = float("-inf")
        record = self._record()
        if record and record.metric != metric:  # the parameters that it chose would be deleted below
            raise UsageError(
                f"{self._root} was chosen by {record.metric}, not {metric}: choose another MODEL_DIR, or "
                "move it away"
            )
        if record and (self._root / checkpoint.STEPS / str(record.step)).is_dir():
            self.step = record.step
            self.value = (
                float("inf") if record.value is None else record.value
            )  # JSON has no number for infinity
        hosts.wait("selection found")  # before the first host deletes anything
        if jax.process_index() == 0:
            self._forget_others()

    def offer(self, step: int, value: float, params: Params) -> bool:
        """Saves the parameters if their value is the best so far; returns whether it is. NaN never is."""
        if not value > self.value:
            return False
        writes = jax.process_index() == 0
        hosts.agreed(self._describe, first=True)
        apart = hosts.apart(self._run)
        if apart:
            params = hosts.gathered(params)
        if writes or not apart:
            checkpoint.save_params(self._root, step, params, alone=apart)  # otherwise all hosts save together
        self.step, self.value = step, value
        if writes:
            self._write_record()
            self._forget_others()
        return True

    def exhausted(self, step: int) -> bool:
        """Tells whether `patience` steps have passed without improvement."""
        return bool(self._patience) and self.step is not None and step - self.step >= self._patience

    def _describe(self) -> None:
        card, tokenizer = model_card.read_card(self._run), model_card.read_tokenizer(self._run)
        model_card.write_card(self._root, card, tokenizer)

    def _write_record(self) -> None:
        record = {"step": self.step, "metric": self._metric, "value": self.value}
        files.write_whole(self._root / RECORD, files.as_json(record) + "\n")

    def _record(self) -> _Record | None:
        path = self._root / RECORD
        return schema.read_file(_Record, path, "the record of a selection") if path.is_file() else None

    def _forget_others(self) -> None:
        for path in (self._root / checkpoint.STEPS).glob("*"):
            if path.name != str(self.step):
                shutil.rmtree(path, ignore_errors=True)
