"""How fast training goes: tokens and seconds a step, the wait for input, the share of the machine's speed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from distillspec_jax.training.flops import peak

NAMES = ("tokens_per_s", "step_s", "processor_s", "input_wait", "flops_utilisation")
"""Metrics that depend on time."""


class Throughput:
    """Measures an interval by the host's clocks, compilation and evaluation left out.

    Args:
      matmul_precision: of these products.
    """

    def __init__(self, matmul_precision: str | None = None) -> None:
        self._precision = matmul_precision
        self.restart()

    def restart(self) -> None:
        """Begins a new interval."""
        self._tokens, self._flops, self._steps, self._waited = 0.0, 0.0, 0, 0.0
        self._began, self._used = time.monotonic(), time.process_time()

    def add(self, tokens: float, flops: float) -> None:
        """Counts a finished step: its tokens, those that the loss counted, and the model's operations.

        Args:
          flops: of the matrix products, over all devices.
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
        """Leaves out what is no training, such as an evaluation."""
        stopped, used = time.monotonic(), time.process_time()
        yield
        self._began += time.monotonic() - stopped
        self._used += time.process_time() - used

    def measured(self) -> dict[str, float]:
        """The values of `NAMES`; nothing where no time passed.

        `processor_s` are the seconds a step of all threads of this process, whatever else its machine does;
        `input_wait` is the share of the time that the host waited for a batch; `flops_utilisation` the share
        of `flops.peak()`, rematerialisation left out.
        """
        elapsed = time.monotonic() - self._began
        if not self._steps or elapsed <= 0:
            return {}
        seconds = elapsed / self._steps
        utilisation = self._flops / elapsed / peak(self._precision)
        used = (time.process_time() - self._used) / self._steps
        values = self._tokens / elapsed, seconds, used, self._waited / elapsed, utilisation
        return dict(zip(NAMES, values, strict=True))
