"""The process that is attacked: it runs one command after another as a user without a superuser's powers.

The attacker forks it after the imports and before JAX starts, so that a case costs no start of an
interpreter; when a command ends it, or has to be ended, the next one is forked.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

MACHINE = 3 << 30
"""Bytes of the machine that the commands find themselves on; what would need more is theirs to refuse."""

_OVERRIDES = (1, 2, 3)
"""CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER: who lacks them meets permissions as everybody does."""


def serve(orders: Connection, patch: Callable[[], None]) -> None:
    """Answers orders until there are no more; never returns.

    Args:
      orders: each is a JSON object of `argv`, `cwd`, `stdin`, `stdout` and `stderr` (files), and is answered
        by `status`, `wall` and `cpu` in seconds, and `peak` in bytes.
      patch: makes settings of this process alone.
    """
    os.setsid()
    gc.freeze()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    resource.setrlimit(resource.RLIMIT_DATA, (MACHINE, MACHINE))
    _give_up_powers()
    patch()
    while True:
        try:
            order = json.loads(orders.recv_bytes())
        except EOFError:
            os._exit(0)
        orders.send_bytes(json.dumps(_answer(**order)).encode())


def _answer(argv: Sequence[str], cwd: str, stdin: str, stdout: str, stderr: str) -> dict[str, Any]:
    for descriptor, name, flags in (
        (0, stdin, os.O_RDONLY),
        (1, stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND),
        (2, stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND),
    ):
        opened = os.open(name, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(cwd)
    _forget_peak()
    before, wall, cpu = resident(os.getpid()), time.monotonic(), time.process_time()
    status = status_of(argv)
    spent = {"wall": time.monotonic() - wall, "cpu": time.process_time() - cpu}
    return {"status": status, "peak": max(0, _peak() - before), **spent}


def status_of(argv: Sequence[str]) -> int:
    """Runs a command, or evaluates an expression, in this process; what Python would print, it prints."""
    sys.argv = ["distillspec", *argv]
    try:
        status = _evaluated(argv[1]) if argv[:1] == ["api"] else _main(argv)
        sys.stdout.flush()
        return status
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
    except BaseException:  # a defect: Python would print it and end with 1
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def _main(argv: Sequence[str]) -> int:
    from distillspec_jax.cli.main import main

    return main(list(argv))


def _evaluated(expression: str) -> int:
    """Calls the Python API; its only exception for users is UsageError."""
    import importlib

    import distillspec_jax as ds

    names = {"ds": ds, "nan": float("nan"), "inf": float("inf"), "of": importlib.import_module}
    try:
        eval(expression, names)
    except ds.UsageError as error:
        print(f"distillspec api: error: {error}", file=sys.stderr)
        return 2
    return 0


def _give_up_powers() -> None:
    """Drops the capabilities by which root reads and writes what its mode forbids; on Linux, as root."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; low and high
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for capability in _OVERRIDES:
        sets[0] &= ~(1 << capability)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def resident(pid: int) -> int:
    """Bytes of memory that a process holds now."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak() -> int:
    """The most memory that this process has held since `_forget_peak`."""
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
