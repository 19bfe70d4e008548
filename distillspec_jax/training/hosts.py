"""Steps that the hosts of a job take together. On one host they cost nothing."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def wait(name: str) -> None:
    """Waits until every host has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_host(here: bool) -> bool:
    """Tells whether something holds on any host. All of them must ask, and get one answer."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))
