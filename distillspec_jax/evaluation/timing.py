"""Timing of several systems under the same machine conditions.

Systems alternate on every unit of work (a batch of prompts) within one process, in rotating order, after each
has run once to compile. Noise of a shared machine only ever adds time, so a unit's time is the minimum over
its repeats, for every system.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import jax
import numpy as np

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Clusters, Interval
from distillspec_jax.models.cpu_forms import compiled

Result = TypeVar("Result")
Carry = TypeVar("Carry")


@dataclasses.dataclass(frozen=True)
class Timing(Generic[Result]):
    """The runs of one system.

    Attributes:
      results: of each unit's first run, U of them.
      seconds_RU: wall-clock time of each repeat of each unit, excluding compilation.
      first_call_seconds: of the initial run, which compiles everything not compiled yet.
    """

    results: list[Result]
    seconds_RU: np.ndarray
    first_call_seconds: float

    @property
    def seconds_U(self) -> np.ndarray:
        """The minimum time of each unit."""
        return self.seconds_RU.min(0)


def interleaved(
    systems: Sequence[Callable[[int], Result]],
    units: int,
    repeats: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing[Result]]:
    """Runs every system on every unit, alternating between systems.

    Args:
      systems: map a unit index to a result; must return only when the result is on the host.
      units: number of units of work.
      repeats: number of runs of each unit.
      clock: returns seconds.

    Raises:
      UsageError: `units` or `repeats` is below 1.
    """
    for name, value in (("units", units), ("repeats", repeats)):
        if value < 1:
            raise UsageError(f"{name} is {value}, must be at least 1")

    def timed(system: Callable[[int], Result], unit: int) -> tuple[Result, float]:
        began = clock()
        result = system(unit)
        return result, clock() - began

    first = [timed(system, 0)[1] for system in systems]
    seconds_SRU = np.zeros((len(systems), repeats, units))
    results: list[list[Result]] = [[] for _ in systems]
    for unit in range(units):
        for repeat in range(repeats):
            for turn in range(len(systems)):
                s = (turn + unit + repeat) % len(systems)
                result, seconds_SRU[s, repeat, unit] = timed(systems[s], unit)
                if not repeat:
                    results[s].append(result)
    return [Timing(*made) for made in zip(results, seconds_SRU, first, strict=True)]


def speedup(
    baseline_seconds_U: Sequence[float] | np.ndarray,
    baseline_tokens_U: Sequence[int],
    seconds_U: Sequence[float] | np.ndarray,
    tokens_U: Sequence[int],
    clusters: Clusters = None,
) -> Interval:
    """Divides tokens per second by the baseline's, pooled over units, with the paired interval.

    At temperature 0 both emit the same tokens and this is the ratio of seconds. At T > 0 their texts are
    two draws from one distribution; counting per token, a longer draw does not look like a slower system.

    Args:
      baseline_seconds_U, baseline_tokens_U, seconds_U, tokens_U: of each unit.
      clusters: of the units, see `paired.interval`.
    """
    return paired.ratio_of_ratios(
        baseline_seconds_U, baseline_tokens_U, seconds_U, tokens_U, clusters=clusters
    )


def step_seconds(
    step: Callable[[Carry], Carry], start: Carry, iterations: int = 50, repeats: int = 7
) -> float:
    """Times one application of `step` inside a compiled loop of many, which excludes Python dispatch.

    `step` must depend on its carry, or the compiler hoists it out of the loop.
    """
    loop = compiled(lambda carry: jax.lax.fori_loop(0, iterations, lambda _, c: step(c), carry))
    jax.block_until_ready(loop(start))
    best = math.inf
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(loop(start))
        best = min(best, time.perf_counter() - began)
    return best / iterations
