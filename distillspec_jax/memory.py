"""The bytes that there are, and the refusal of what would need more.

Needs are reckoned beforehand, from sizes: a machine that has begun to run out of memory kills instead of
saying why. What a caller reckons is the least that it will take, so that nothing is refused that would have
fitted.
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
    """Refuses what does not fit.

    Args:
      what: was asked for, with its numbers (`--batch_size=100000000`).
      needed: bytes, the least that it takes.
      there: bytes; by default what the default device can hold.

    Raises:
      UsageError: says what was asked, what it needs, and what there is.
    """
    there = available() if there is None else there
    if needed > there:
        raise UsageError(f"{what} needs at least {text(needed)} of memory, and there are {text(there)}")


def available() -> int:
    """Counts the bytes that JAX's default device can hold: an accelerator's own, else the host's.

    Those in use count, too: how many are free is a guess, which caches and swap make too low.
    """
    import jax  # starts the devices, which a caller that only asks for `host` need not have

    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return host()
    # Not every backend tells: then nothing is known to be too much.
    return int((device.memory_stats() or {}).get("bytes_limit", sys.maxsize))


def host() -> int:
    """Counts the bytes that this process may take: the machine's, or what a container or `ulimit` leaves."""
    own = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    limits = [limit for limit in own if limit != resource.RLIM_INFINITY]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits, *_cgroup_limits()])


def _cgroup_limits() -> Iterator[int]:
    """Yields the limits of the control groups that the process is in, of either version."""
    try:
        lines = _OWN_CGROUP.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        place = _CGROUPS / "memory" if controllers else _CGROUPS
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        # A group has at most what those above it have. In a container its path may be the host's: the first
        # folder is the container's own then.
        for part in ("", *group.strip("/").split("/")):
            place /= part
            with contextlib.suppress(OSError, ValueError):  # no such folder; no limit, `max`
                yield int((place / name).read_text())


def text(size: float) -> str:
    """`8.2 GB`."""
    size = min(size, _LARGEST_SHOWN)
    power = min(int(math.log10(max(size, 1)) / 3), len(_UNITS) - 1)
    return f"{size / 1000**power:,.{min(power, 1)}f} {_UNITS[power]}"
