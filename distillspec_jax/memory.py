"""Checks that a job fits into the available memory.

Requirements are computed from sizes in advance, because a machine that runs out of memory kills a process
without a reason. Callers compute lower bounds, so that no job is rejected that would have fitted.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from distillspec_jax.errors import UsageError

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
_LARGEST_SHOWN = 10**24
_CGROUPS, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def check(what: str, needed: float, there: int | None = None) -> None:
    """Rejects a request that does not fit in memory.

    Args:
      what: the request with its numbers (`--batch_size=100000000`).
      needed: lower bound on its bytes.
      there: available bytes; by default the capacity of the default device.

    Raises:
      UsageError: states the request, the memory it needs, and the available memory.
    """
    there = available() if there is None else there
    if needed > there:
        raise UsageError(f"{what} needs at least {text(needed)} of memory, and there are {text(there)}")


def available() -> int:
    """Returns the memory of JAX's default device in bytes: an accelerator's own, else the host's.

    Bytes in use are included, because estimates of free memory are too low with caches and swap.
    """
    import jax  # initialises the devices, which callers of `host` do not need

    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return host()
    # Some backends do not report a limit; then nothing is rejected.
    return int((device.memory_stats() or {}).get("bytes_limit", sys.maxsize))


def host() -> int:
    """Returns the bytes that this process may use: the machine's, or a container's or `ulimit`'s limit."""
    own = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    limits = [limit for limit in own if limit != resource.RLIM_INFINITY]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits, *_cgroup_limits()])


def _cgroup_limits() -> Iterator[int]:
    """Yields the limits of the process's control groups, of either version."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        place = _CGROUPS / "memory" if controllers else _CGROUPS
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        # Limits of parent groups also apply. In a container, the path may be the host's; then the root folder
        # is the container's own group.
        for part in ("", *group.strip("/").split("/")):
            place /= part
            with contextlib.suppress(OSError, ValueError):  # no such folder; no limit, `max`
                yield int((place / name).read_text())


def text(size: float) -> str:
    """Formats a size, e.g. `8.2 GB`."""
    size = min(size, _LARGEST_SHOWN)
    power = min(int(math.log10(max(size, 1)) / 3), len(_UNITS) - 1)
    return f"{size / 1000**power:,.{min(power, 1)}f} {_UNITS[power]}"
