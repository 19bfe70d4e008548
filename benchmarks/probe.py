"""A step of a program that is timed again and again, in turns with others."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from distillspec_jax.evaluation import launches
from distillspec_jax.models import cpu_forms

_RUN_SECONDS = 0.03
"""Of one run of a probe, about."""


class Probe:
    """One step that is repeated in a compiled loop.

    Attributes:
      taken: seconds of a step, of every run.

    Args:
      step: constants and carry to the next carry; must need both.
      seconds: what a step may take, to choose how many make a run.
    """

    def __init__(self, step: Callable[[Any, Any], Any], constants: Any, carry: Any, seconds: float) -> None:
        self._count = max(2, round(_RUN_SECONDS / seconds))
        self._start = (constants, carry)
        self._loop = cpu_forms.compiled(
            lambda constants, carry: jax.lax.fori_loop(
                0, self._count, lambda _, carry: step(constants, carry), carry
            )
        )
        self.launches = launches.count(jax.make_jaxpr(step)(constants, carry))
        self.taken: list[float] = []
        jax.block_until_ready(self._loop(*self._start))

    def run(self) -> None:
        """Runs it once."""
        began = time.perf_counter()
        jax.block_until_ready(self._loop(*self._start))
        self.taken.append((time.perf_counter() - began) / self._count)

    @property
    def whole(self) -> float:
        """The median time of a step."""
        return float(np.median(self.taken))

    def seconds(self, launch: float) -> float:
        """The median time of a step without its launches; at least a fifth of the whole."""
        return max(self.whole - self.launches * launch, self.whole / 5)
