"""One measured number with its interval, and how a ratio of two systems becomes one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from scipy.stats import binom

LEVEL = 0.95
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Torch's, and of whatever else is compared: the cores that this process may use, which JAX takes, too."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A line of `bench.json`.

    Attributes:
      id: stable name; bars quote it.
      value: the number.
      low, high: ends of its interval.
      what: what was measured, with units, shapes and machine settings.
    """

    id: str
    value: float
    low: float
    high: float
    what: str


def median_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """The median and the order statistics that enclose the true median with at least 95 % confidence.

    Distribution-free: the number of values below the true median is binomial (n, 1/2). Fewer than six
    values cannot reach 95 %: then the ends are the extremes.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    below = int(binom.ppf((1 - LEVEL) / 2, len(ordered), 0.5))  # the largest k with P(X < k) <= 2.5 %
    k = max(below, 1)
    return float(np.median(ordered)), float(ordered[k - 1]), float(ordered[-k])


def paired_ratio(id: str, baseline: np.ndarray, ours: np.ndarray, what: str) -> Measurement:
    """How many times faster `ours` is: the median of seconds over seconds, turn by turn.

    Args:
      baseline, ours: seconds of each turn; turn i of both ran one after the other.
    """
    return Measurement(id, *median_interval(np.asarray(baseline) / np.asarray(ours)), what)
