"""Detects steps whose loss or gradient is not finite, and saves their batches for inspection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from distillspec_jax.files import saving
from distillspec_jax.metrics import Metrics

POLICIES = ("stop", "skip")
FOLDER = "non_finite"


def fault(metrics: Metrics) -> str | None:
    """Describes a step's non-finite value, e.g. `the loss became nan`; None if all are finite.

    Agrees with the train step, which keeps the state unchanged after such a step.
    """
    for name in ("loss", "gradient_norm"):
        mean = metrics[name]
        if not (math.isfinite(mean.total) and math.isfinite(mean.count)):
            return f"the {name} became {mean.compute() if mean.count else mean.total}"
    return None


def keep_batch(directory: Path, step: int, batch: Mapping[str, np.ndarray]) -> Path:
    """Saves a step's input batch; together with the run's seed it reproduces the step.

    Returns:
      `DIR/non_finite/step_N.npz`.
    """
    path = directory / FOLDER / f"step_{step}.npz"
    if jax.process_index() == 0:
        with saving(directory):
            path.parent.mkdir(exist_ok=True)
            arrays: dict[str, Any] = dict(batch)
            np.savez(path, **arrays)
    return path
