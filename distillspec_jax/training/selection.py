"""The best evaluation of a run, kept beside it as a checkpoint directory of its own.

    MODEL_DIR/best/                 card, tokenizer and parameters: any command takes it for a model
    MODEL_DIR/best/selection.json   which step it is, and its value

A resumed run goes on from the newest step and keeps what was best before. The record is written after the
parameters, so parameters without a record are those of a save that was cut short, and are made again.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax

from distillspec_jax import checkpoint, files
from distillspec_jax.shapes import Params
from distillspec_jax.training import hosts

BEST, RECORD = "best", "selection.json"


class Selection:
    """Keeps the parameters with the highest value of a metric; of equal ones the first.

    Args:
      directory: the run's checkpoint directory; its metadata is already written.
      metric: one of the evaluation's names.
      patience: steps without a better one after which the run is `exhausted`; 0: never.

    Attributes:
      step, value: of the best so far; None and -inf before the first.
    """

    def __init__(self, directory: Path, metric: str, patience: int = 0) -> None:
        self._run, self._root = directory, directory / BEST
        self._metric, self._patience = metric, patience
        self.step: int | None = None
        self.value = float("-inf")
        record = self._record()
        if record.get("metric") == metric and (self._root / checkpoint.STEPS / str(record["step"])).is_dir():
            self.step, self.value = record["step"], record["value"]
        hosts.wait("selection found")  # before the first host clears up
        if jax.process_index() == 0:
            self._forget_others()

    def offer(self, step: int, value: float, params: Params) -> bool:
        """Saves the parameters if their value is the best, and tells whether it is. NaN never is."""
        if not value > self.value:
            return False
        writes = jax.process_index() == 0
        if writes:
            card, tokenizer = checkpoint.read_card(self._run), checkpoint.read_tokenizer(self._run)
            checkpoint.write_card(self._root, card, tokenizer)
        hosts.wait("selection")
        checkpoint.save_params(self._root, step, params)  # of all hosts
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
        files.write_whole(self._root / RECORD, json.dumps(record) + "\n")

    def _record(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self._root / RECORD).read_text()))
        except (OSError, ValueError):
            return {}

    def _forget_others(self) -> None:
        for path in (self._root / checkpoint.STEPS).glob("*"):
            if path.name != str(self.step):
                shutil.rmtree(path, ignore_errors=True)
