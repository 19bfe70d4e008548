"""Training throughput: tokens per second, seconds per step, wait for input, FLOPs utilisation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from distillspec_jax.training.flops import peak

NAMES = ("tokens_per_s", "step_s", "processor_s", "input_wait", "flops_utilisation")
"""Metrics that depend on time."""


class Throughput:
    """Measures an interval with the host's clocks, excluding compilation and evaluation.

    Args:
      matmul_precision: of training's matrix products.
    """

    def __init__(self, matmul_precision: str | None = None) -> None:
        self._precision = matmul_precision
        self.restart()

    def restart(self) -> None:
        """Begins a new interval."""
        self._tokens, self._flops, self._steps, self._waited = 0.0, 0.0, 0, 0.0
        self._began, self._used = time.monotonic(), time.process_time()

    def add(self, tokens: float, flops: float) -> None:
        """Counts a finished step and its loss tokens.

        Args:
          flops: of the model's matrix products, over all devices.
        """
        self._tokens += tokens
        self._flops += flops
        self._steps += 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Times the wait for the next batch."""
        began = time.monotonic()
        yield
        self._waited += time.monotonic() - began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes time not spent on training, such as an evaluation."""
        stopped, used = time.monotonic(), time.process_time()
        yield
        self._began += time.monotonic() - stopped
        self._used += time.process_time() - used

    def measured(self) -> dict[str, float]:
        """Returns the values of `NAMES`; empty if no time has passed.

        `processor_s` is CPU seconds per step over all threads of this process, independent of other load;
        `input_wait` is the share of time that the host waited for a batch; `flops_utilisation` is the share
        of `flops.peak()`, excluding rematerialisation.
        """
        elapsed = time.monotonic() - self._began
        if not self._steps or elapsed <= 0:
            return {}
        seconds = elapsed / self._steps
        utilisation = self._flops / elapsed / peak(self._precision)
        used = (time.process_time() - self._used) / self._steps
        values = self._tokens / elapsed, seconds, used, self._waited / elapsed, utilisation
        return dict(zip(NAMES, values, strict=True))
