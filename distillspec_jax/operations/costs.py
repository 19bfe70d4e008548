"""Costs of trainings and rounds: processor seconds on a CPU, seconds of the clock on an accelerator.

A CPU is shared with whatever else runs there, so that the clock tells how busy the machine was. An
accelerator belongs to one process, whose host waits for it. A cost and the saving that pays for it are taken
by the same measure, and a quotient of both does not depend on the number of cores.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
import numpy as np

from distillspec_jax import training_log


def by_processor() -> bool:
    """Whether costs are processor seconds here."""
    return jax.default_backend() == "cpu"


def now() -> float:
    """The time of the clock by which rounds are measured; of all threads, where it is the processor's."""
    return time.process_time() if by_processor() else time.monotonic()


def of_training(folder: Path) -> float:
    """The cost of a training's steps by its log, compilation and evaluation left out."""
    return _seconds(folder, "processor_s" if by_processor() else "step_s")


def duration(folder: Path) -> float:
    """The same by the clock on the wall, which a deadline goes by."""
    return _seconds(folder, "step_s")


def _seconds(folder: Path, a_step: str) -> float:
    lines = [line for line in training_log.read(folder / "metrics.jsonl") if line.get("split") == "train"]
    found = (line.get(a_step, line.get("step_s")) for line in lines)  # older logs have that alone
    timed = [one for one in found if one is not None]
    return float(np.median(timed)) * max((line["step"] for line in lines), default=0) if timed else 0.0
