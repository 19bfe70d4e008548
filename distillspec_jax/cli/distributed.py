"""Joining the other hosts of a job, before anything touches a device.

`DISTILLSPEC_MULTIHOST=1` asks for it; `launch/slurm.sbatch` and `launch/tpu_pod.sh` set it. Under SLURM, Open
MPI and on a TPU pod JAX finds its peers by itself. Elsewhere three variables name them:
`JAX_COORDINATOR_ADDRESS` (`host:port`, the same everywhere), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.

Under SLURM a task that is alone on its node drives all of the node's GPUs, and several tasks take one GPU
each. `JAX_LOCAL_DEVICE_IDS` (`0,1`) says otherwise.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading

from distillspec_jax.errors import UsageError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
DEVICES = "JAX_LOCAL_DEVICE_IDS"
SLURM_TASKS, SLURM_NODES = "SLURM_NTASKS", "SLURM_STEP_NUM_NODES"

LEAVES_WITHIN = 5.0
"""Seconds that a process waits for its peers when it ends with an error; JAX would wait for 300."""


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


def devices() -> list[int] | None:
    """The GPUs that JAX is told to use: an empty list for all of the node's, None to let it decide.

    Under SLURM it decides for the one whose number is the task's on its node, however few tasks there are.
    """
    if DEVICES in os.environ or SLURM_NODES not in os.environ:
        return None
    # A step has a task on each of its nodes: with as many as nodes, every one of them is alone.
    return [] if os.environ.get(SLURM_TASKS) == os.environ[SLURM_NODES] else None


def joined() -> bool:
    """Tells whether this process is connected to peers."""
    jax = sys.modules.get("jax")  # not imported for this
    return jax is not None and bool(jax.distributed.is_initialized())


def leave(status: int) -> None:
    """Ends this process with a status, if it is connected to peers.

    Where all of them end with an error, each keeps its own status. Where this one alone does, they may wait
    for it in a collective operation: they fail there once it is gone.
    """
    if not joined():
        return
    import jax

    leaving = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVES_WITHIN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # its reader has left
            stream.flush()
    os._exit(status)


def join() -> None:
    """Connects this process to its peers with `jax.distributed`."""
    named = peers()
    import jax  # Late: `--help` and a bad environment answer without it.

    if named is None:
        jax.distributed.initialize(local_device_ids=devices())
    else:
        address, count, index = named
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=count,
            process_id=index,
            local_device_ids=devices(),
        )
