"""The best evaluation of a run, kept beside it as a checkpoint directory of its own.

    MODEL_DIR/best/                 card, tokenizer and parameters: any command takes it for a model
    MODEL_DIR/best/selection.json   which step it is, and its value

A resumed run goes on from the newest step and keeps what was best before. The record is written after the
parameters, so parameters without a record are those of a save that was cut short, and are made again.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax

from distillspec_jax import checkpoint, files, model_card, schema
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
    """Keeps the parameters with the highest value of a metric; of equal ones the first.

    Args:
      directory: the run's checkpoint directory; its metadata is already written.
      metric: one of the evaluation's names.
      patience: steps without a better one after which the run is `exhausted`; 0: never.

    Attributes:
      step, value: of the best so far; None and -inf before the first.

    Raises:
      UsageError: the record is damaged; the parameters beside it are left alone.
    """

    def __init__(self, directory: Path, metric: str, patience: int = 0) -> None:
        self._run, self._root = directory, directory / BEST
        self._metric, self._patience = metric, patience
        self.step: int | None = None
        self.value = float("-inf")
        record = self._record()
        if record and record.metric == metric and (self._root / checkpoint.STEPS / str(record.step)).is_dir():
            self.step = record.step
            self.value = (
                float("inf") if record.value is None else record.value
            )  # of which JSON knows no number
        hosts.wait("selection found")  # before the first host clears up
        if jax.process_index() == 0:
            self._forget_others()

    def offer(self, step: int, value: float, params: Params) -> bool:
        """Saves the parameters if their value is the best, and tells whether it is. NaN never is."""
        if not value > self.value:
            return False
        writes = jax.process_index() == 0
        if writes:
            card, tokenizer = model_card.read_card(self._run), model_card.read_tokenizer(self._run)
            model_card.write_card(self._root, card, tokenizer)
        hosts.wait("selection")
        apart = hosts.apart(self._run)
        if apart:
            params = hosts.gathered(params)
        if writes or not apart:
            checkpoint.save_params(self._root, step, params, alone=apart)  # else of all hosts
        self.step, self.value = step, value
        if writes:
            self._write_record()
            self._forget_others()
        return True

    def exhausted(self, step: int) -> bool:
        """Tells whether nothing better has come for too long."""
        return bool(self._patience) and self.step is not None and step - self.step >= self._patience

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
