"""Where metrics go: a JSONL file that resumes cleanly, TensorBoard, and the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class JsonlWriter:
    """`metrics.jsonl`: one line a report. Lines past the step that a run resumes from are dropped."""

    def __init__(self, directory: Path, resume_step: int) -> None:
        self._path = directory / "metrics.jsonl"
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                try:
                    if json.loads(line)["step"] <= resume_step:
                        kept.append(line)
                except (json.JSONDecodeError, KeyError):
                    break  # a line that a kill cut short, and whatever follows it
        self._path.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, values: Mapping[str, float], prefix: str) -> None:
        record = {"step": step, "split": prefix, **{k: float(v) for k, v in values.items()}}
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Each line is flushed as it is written."""


class TensorBoardWriter:
    """Event files through tensorboardX, which does not import TensorFlow; imported when first used."""

    def __init__(self, directory: Path, resume_step: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float], prefix: str) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{prefix}/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class ConsoleWriter:
    """A progress bar with time left on a terminal, plain lines anywhere else."""

    def __init__(self, description: str, total_steps: int, resume_step: int) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._total, self._start, self._began = total_steps, resume_step, time.monotonic()
        self._progress: Progress | None = None
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=self._console)
            self._task = self._progress.add_task(description, total=total_steps, completed=resume_step)
            self._progress.start()

    def advance(self, step: int) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=step)

    def write(self, step: int, values: Mapping[str, float], prefix: str) -> None:
        done = max(step - self._start, 1)
        left = (time.monotonic() - self._began) / done * (self._total - step)
        shown = "  ".join(f"{k} {_short(v)}" for k, v in values.items())
        tail = "" if self._progress is not None else f"  left {left / 60:.1f} min"
        self._console.print(f"{prefix:<5} {step:>6}/{self._total}  {shown}{tail}", soft_wrap=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
        sys.stderr.flush()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
