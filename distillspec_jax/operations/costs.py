"""Costs of trainings and rounds: CPU seconds on a CPU, wall-clock seconds on an accelerator.

A CPU is shared with other processes, so wall-clock time would include their load. An accelerator belongs to
one process, whose host waits for it. Costs and savings use the same unit, and their quotient does not depend
on the number of cores.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np

from distillspec_jax import training_log


def by_processor() -> bool:
    """Tells whether costs are CPU seconds on this backend."""
    return jax.default_backend() == "cpu"


def now() -> float:
    """Returns the time of the clock that measures rounds; CPU time is summed over all threads."""
    return time.process_time() if by_processor() else time.monotonic()


def of_training(folder: Path) -> float:
    """Computes the cost of a training's steps from its log, excluding compilation and evaluation."""
    return _seconds(folder, "processor_s" if by_processor() else "step_s")


def duration(folder: Path) -> float:
    """Computes the wall-clock duration of a training's steps, which matters for a deadline."""
    return _seconds(folder, "step_s")


def _seconds(folder: Path, a_step: str) -> float:
    lines = [line for line in training_log.read(folder / "metrics.jsonl") if line.get("split") == "train"]
    found = (line.get(a_step, line.get("step_s")) for line in lines)  # older logs have only `step_s`
    timed = [one for one in found if one is not None]
    return float(np.median(timed)) * max((line["step"] for line in lines), default=0) if timed else 0.0
