"""Training by the clock: how long a run took, and how many steps fit into some minutes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from distillspec_jax import checkpoint, files, schema

Train = Callable[[int, Path, int], Path]
"""Trains so many steps in a directory, by a seed; goes on with what it holds, and returns it."""


def run(train: Train, steps: int, directory: Path, seed: int) -> tuple[Path, float]:
    """Trains; returns the directory and the seconds it took, all sessions of an interrupted run included."""
    clock = directory / "seconds.json"
    before = 0.0
    if clock.exists():
        found = files.parse_json("\n".join(files.read_lines(clock)), str(clock))
        before = schema.value(schema.Amount, found, str(clock), "seconds")
    if checkpoint.latest_step(directory) == steps:
        return directory, before
    began = time.perf_counter()
    try:
        train(steps, directory, seed)
    finally:
        spent = before + time.perf_counter() - began
        if directory.is_dir():
            files.write_whole(clock, files.as_json(spent))
    return directory, spent


def steps_in(seconds: float, train: Train, directory: Path, seed: int, trial: int = 6) -> int:
    """Reckons how many distillation steps fit, from the later steps of a short trial (the first compile)."""
    times: list[float] = []
    shutil.rmtree(directory, ignore_errors=True)
    for steps in (1, trial):
        began = time.perf_counter()
        train(steps, directory / str(steps), seed)
        times.append(time.perf_counter() - began)
    shutil.rmtree(directory, ignore_errors=True)
    per_step = max(times[1] - times[0], 1e-3) / (trial - 1)
    return max(10, round(seconds / per_step / 10) * 10)
