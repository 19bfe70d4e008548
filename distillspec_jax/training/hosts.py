"""What the hosts of a job must do together. On one host everything here is free."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def wait(name: str) -> None:
    """Until every host has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def any_host(here: bool) -> bool:
    """Whether it holds on any host. All of them must ask, and get one answer."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))
