"""Collective operations across the hosts of a job. On one host they cost nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from distillspec_jax import outputs

NOTICED_WITHIN = 20.0
"""Seconds in which all hosts hear of a stop of one; schedulers leave 30 s and more before they kill."""


def wait(name: str) -> None:
    """Waits until every host has reached this call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_host(here: bool) -> bool:
    """Tells whether something holds on any host. All hosts must call this and get the same answer."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))


class Polls:
    """Chooses the steps at which the hosts tell each other what holds on any of them.

    In every step it would cost time, only at reports it would be too late where steps are slow. The choice
    follows the time of a step on the first host, which all are told, so that all ask at the same steps.

    Args:
      start: the last step before this run.
      period: steps between reports, at which they ask in any case.
    """

    def __init__(self, start: int, period: int) -> None:
        self._period, self._asked, self._due = period, start, start + 1
        self._since = time.monotonic()

    def any_host(self, step: int, *here: bool) -> tuple[bool, ...]:
        """Tells of each whether it holds on any host; none is known to between the chosen steps.

        All hosts must call this at every step, and get the same answer.
        """
        if jax.process_count() == 1:
            return here
        if step < self._due:
            return (False,) * len(here)
        seconds = (time.monotonic() - self._since) / (step - self._asked)
        told = np.asarray(multihost_utils.process_allgather(np.asarray([seconds, *here], np.float32)))
        self._asked, self._since = step, time.monotonic()
        report = (step // self._period + 1) * self._period
        self._due = min(step + max(1, int(NOTICED_WITHIN / max(told[0, 0], 1e-9))), report)
        return tuple(bool(one) for one in np.any(told[:, 1:] > 0, axis=0))


def apart(directory: str | Path) -> bool:
    """Tells whether each host has its own folder for a run's directory; the first host's is published."""
    return jax.process_count() > 1 and outputs.published(directory) is not None


def gathered(tree: Any) -> Any:
    """Gathers a tree of arrays sharded over hosts as NumPy arrays on the first host; all hosts must call it.

    Arrays are gathered one by one; each is briefly replicated. On the other hosts the leaves are None.
    """
    keeps = jax.process_index() == 0

    def whole(leaf: jax.Array) -> np.ndarray | None:
        if leaf.is_fully_replicated or leaf.is_fully_addressable:
            return np.array(leaf) if keeps else None
        found = multihost_utils.process_allgather(leaf, tiled=True)
        return np.array(found) if keeps else None

    return jax.tree.map(whole, tree)
