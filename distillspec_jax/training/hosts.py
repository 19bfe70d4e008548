"""Collective operations across the hosts of a job. On one host they cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from distillspec_jax import outputs


def wait(name: str) -> None:
    """Waits until every host has reached this call."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_host(here: bool) -> bool:
    """Tells whether something holds on any host. All hosts must call this and get the same answer."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))


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
