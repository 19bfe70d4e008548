"""Metric writers: a JSONL file that resumes cleanly, TensorBoard, and the terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from distillspec_jax import files, training_log
from distillspec_jax.errors import UsageError
from distillspec_jax.files import saving, write_whole
from distillspec_jax.terminal import shown

METRICS_FILE = "metrics.jsonl"


class Writer(Protocol):
    """A destination for metrics."""

    def write(self, step: int, values: Mapping[str, float], split: str) -> None:
        """Reports values of split `train` or `eval` at a step."""

    def close(self) -> None:
        """Closes the writer."""


class JsonlWriter:
    """`metrics.jsonl`: one line per report. Lines after the step that a run resumes from are dropped."""

    def __init__(self, directory: Path, resume_step: int) -> None:
        self._path = directory / METRICS_FILE
        kept, self._reported = [], set()
        if self._path.exists():
            for line in files.read_lines(self._path):
                try:
                    record = training_log.parse(line, "")
                    step, split = record["step"], record["split"]
                except (UsageError, KeyError):
                    break  # drop a line truncated by a kill, and everything after it
                if step <= resume_step:
                    kept.append(files.as_json(record))
                    self._reported.add((step, split))
        if jax.process_index():  # another host's file
            return
        write_whole(self._path, "".join(line + "\n" for line in kept))

    def holds(self, step: int, split: str) -> bool:
        """Tells whether the file had a line for this step and split when the run started."""
        return (step, split) in self._reported

    def write(self, step: int, values: Mapping[str, float], split: str) -> None:
        """See `Writer.write`."""
        line = training_log.line(step, split, {name: float(value) for name, value in values.items()})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def close(self) -> None:
        """Does nothing: each line is flushed when written."""


class TensorBoardWriter:
    """Writes event files with tensorboardX, which does not import TensorFlow.

    It avoids tensorboardX's `SummaryWriter`, whose writer thread dies on a full disk and leaves training
    waiting forever.
    """

    def __init__(self, directory: Path, resume_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = directory / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # File names have a resolution of a second: without the suffix, a restart within it would overwrite.
        self._writer = EventsWriter(str(folder / "events"), f".{os.getpid()}.{resume_step}")
        start = SessionLog(status=SessionLog.START)  # TensorBoard discards its data from this step on
        self._writer.write_event(Event(wall_time=time.time(), step=resume_step + 1, session_log=start))
        self._writer.flush()

    def write(self, step: int, values: Mapping[str, float], split: str) -> None:
        """See `Writer.write`."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in values.items():
            summary = scalar(f"{split}/{name}", float(value))
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """See `Writer.close`."""
        self._writer.close()


class ConsoleWriter:
    """A progress bar with the remaining time on a terminal, plain lines elsewhere."""

    def __init__(self, description: str, total_steps: int, resume_step: int, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._total, self._start, self._began = total_steps, resume_step, time.monotonic()
        self._progress: Progress | None = None
        if self._console.is_terminal:
            done = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            left = (TextColumn("left"), TimeRemainingColumn())
            self._progress = Progress(*done, *left, console=self._console)
            self._task = self._progress.add_task(shown(description), total=total_steps, completed=resume_step)
            self._progress.start()

    def advance(self, step: int) -> None:
        """Moves the bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def note(self, text: str) -> None:
        """Prints a line."""
        self._console.print(Text(shown(text)), soft_wrap=True)

    def write(self, step: int, values: Mapping[str, float], split: str) -> None:
        """See `Writer.write`."""
        done = max(step - self._start, 1)
        left = (time.monotonic() - self._began) / done * (self._total - step)
        told = "  ".join(f"{k} {_short(v)}" for k, v in values.items())
        timed = self._progress is None and step > self._start  # without a step there is no rate yet
        tail = f"  left {left / 60:.1f} min" if timed else ""
        self.note(f"{split:<5} {step:>6}/{self._total}  {told}{tail}")

    def close(self) -> None:
        """See `Writer.close`."""
        if self._progress is not None:
            self._progress.stop()
        sys.stderr.flush()


class Reports:
    """All writers of a run; only the first host writes. A context manager.

    Args:
      directory: the run's.
      description: for the progress bar.
      total_steps: the step at which the run ends.
      resume_step: the step at which it starts; later reports of an earlier session are dropped.

    Raises:
      UsageError: here and in `write`, the disk is full.
    """

    def __init__(self, directory: Path, description: str, total_steps: int, resume_step: int) -> None:
        self._directory = directory
        self._first = jax.process_index() == 0
        with saving(directory):
            self._jsonl = JsonlWriter(directory, resume_step)
            tensorboard = [TensorBoardWriter(directory, resume_step)] if self._first else []
        self._console = ConsoleWriter(description, total_steps, resume_step, quiet=not self._first)
        self._writers: list[Writer] = [self._jsonl, *tensorboard, self._console]
        self.advance, self.note, self.holds = self._console.advance, self._console.note, self._jsonl.holds

    def write(self, step: int, values: Mapping[str, float], split: str) -> None:
        """Reports to every writer."""
        with saving(self._directory):
            for writer in self._writers if self._first else ():
                writer.write(step, values, split)

    def __enter__(self) -> Reports:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with saving(self._directory):
            for writer in reversed(self._writers):  # the terminal first, to restore its cursor
                writer.close()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
