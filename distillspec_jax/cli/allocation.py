"""How the C library keeps memory between training steps, which it must be told before a program starts."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence

VARIABLE = "GLIBC_TUNABLES"
_NEVER = 10**11
"""Bytes; beyond what is allocated at once."""

KEPT = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={_NEVER}",
        f"glibc.malloc.trim_threshold={_NEVER}",
        f"glibc.malloc.top_pad={2**28}",
    )
)
"""Buffers stay with the process, in huge pages."""

TRAINING = ("finetune", "distill", "redistill", "pilot", "demo")
"""Commands that take training steps; `zoo` does with `--build`."""


def keep_buffers(command: str, flags: Sequence[str]) -> None:
    """Starts a training command again, in the same process, with memory that is kept from step to step.

    On a CPU a step's buffers otherwise go back to the kernel and are faulted in anew, page by page: a third
    of a step's time. Whoever sets GLIBC_TUNABLES, if only to nothing, is left alone.
    """
    trains = command in TRAINING or (command == "zoo" and "--build" in flags)
    if not trains or VARIABLE in os.environ:
        return
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, VARIABLE: KEPT})
