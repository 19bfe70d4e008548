"""Joining the other hosts of a job, before anything touches a device.

`DISTILLSPEC_MULTIHOST=1` asks for it; `launch/slurm.sbatch` and `launch/tpu_pod.sh` set it. Under SLURM, Open
MPI and on a TPU pod JAX finds its peers by itself. Elsewhere three variables name them:
`JAX_COORDINATOR_ADDRESS` (`host:port`, the same everywhere), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.
"""

from __future__ import annotations

import os

from distillspec_jax.errors import UsageError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def peers() -> tuple[str, int, int] | None:
    """(coordinator's address, number of processes, index of this one) from the environment; None to
    autodetect.

    Raises:
      UsageError: only some of the three variables are set, or they are no numbers that fit each other.
    """
    given = {name: os.environ[name] for name in (ADDRESS, COUNT, INDEX) if os.environ.get(name)}
    if not given:
        return None
    missing = [name for name in (ADDRESS, COUNT, INDEX) if name not in given]
    if missing:
        raise UsageError(
            f"{', '.join(given)} set but {', '.join(missing)} not: give all three, or none to autodetect"
        )
    for name in (COUNT, INDEX):
        if not given[name].isdecimal():
            raise UsageError(f"{name}={given[name]!r} is not a whole number")
    count, index = int(given[COUNT]), int(given[INDEX])
    if not index < count:
        raise UsageError(f"{INDEX}={index} is not below {COUNT}={count}")
    return given[ADDRESS], count, index


def join() -> None:
    """Connects this process to its peers with `jax.distributed`."""
    named = peers()
    import jax  # Late: `--help` and a bad environment answer without it.

    if named is None:
        jax.distributed.initialize()
    else:
        address, count, index = named
        jax.distributed.initialize(coordinator_address=address, num_processes=count, process_id=index)
