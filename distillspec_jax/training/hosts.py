"""Collective operations across the hosts of a job. On one host they cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from distillspec_jax import outputs
from distillspec_jax.buckets import stores
from distillspec_jax.checkpoint import DamagedCheckpointError
from distillspec_jax.errors import Unavailable, UsageError

NOTICED_WITHIN = 4.0
"""Seconds in which all hosts hear of a stop of one. Spot machines on GKE have 15 s from the signal to the
kill, in which the state is saved as well; a step that takes longer is waited for."""

_KINDS = (UsageError, Unavailable, DamagedCheckpointError)
"""Errors that are of the same class on all hosts."""
_LONGEST = 2_000
"""Bytes of a message that the hosts tell each other."""

Result = TypeVar("Result")


def wait(name: str) -> None:
    """Waits until every host has reached this call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_host(here: bool) -> bool:
    """Tells whether something holds on any host. All hosts must call this and get the same answer."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))


def of_first(value: int) -> int:
    """Returns the first host's value on all hosts."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.process_allgather(np.asarray(value, np.int32))[0])


def agreed(action: Callable[[], Result], *, first: bool = False) -> Result | None:
    """Does something that may fail on one host alone; then it fails on all, so that none waits for another.

    All hosts must call this. Where the action waits for others, they hear of a failure at its time-out.

    Args:
      first: only the first host does it; the others return None.

    Raises:
      UsageError: where the action went well, the error of the first host where it did not: a defect there is
        one line here.
    """
    if jax.process_count() == 1:
        return action()
    result, own = None, None
    try:
        if not first or jax.process_index() == 0:
            result = action()
    except Exception as error:  # `Preempted` is none: the others may have ended, too
        own = error
    told = np.asarray(multihost_utils.process_allgather(_encoded(own)))
    if own is not None:
        raise own
    for host, row in enumerate(told):
        if row[0]:
            raise _decoded(row, host)
    return result


def _encoded(error: Exception | None) -> np.ndarray:
    """Makes an array of one size: 0 for no error, else its kind, counted from 1, and its message."""
    row = np.zeros(1 + _LONGEST, np.uint8)
    if error is not None:
        ours = isinstance(error, UsageError)
        text = stores.named(str(error)) if ours else f"{type(error).__name__}: {error}"
        content = text.encode(errors="replace")[:_LONGEST]
        row[0] = 1 + (_KINDS.index(type(error)) if type(error) in _KINDS else 0 if ours else len(_KINDS))
        row[1 : 1 + len(content)] = np.frombuffer(content, np.uint8)
    return row


def _decoded(row: np.ndarray, host: int) -> UsageError:
    text = row[1:].astype(np.uint8).tobytes().rstrip(b"\0").decode(errors="replace")
    kind = int(row[0]) - 1
    return _KINDS[kind](text) if kind < len(_KINDS) else UsageError(f"host {host} has ended: {text}")


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
