"""Silences third-party log noise, here alone.

Only what is no error, or repeats one that is raised as well. After a save or a restore that failed, Orbax's
tasks and TensorStore's threads complain of it once more each, at any time until the process ends; the
command's own line says it once. `DISTILLSPEC_TRACEBACK=1` lets everything through.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


@functools.cache
def silence() -> None:
    """Installs the filters, once a process, before JAX or TensorFlow are imported."""
    if os.environ.get("DISTILLSPEC_TRACEBACK"):
        return
    import absl.logging  # noqa: F401 (makes its logger, which alone knows who called it)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # of TensorFlow's and XLA's native logs: the errors
    logging.getLogger("absl").addFilter(_is_news)
    logging.getLogger("asyncio").addFilter(_is_retrieved)
    logging.getLogger("tensorboardX").setLevel(logging.ERROR)  # its warning of NaN: the run says what it met
    # Tasks that still waited for their turn to write, or to read, when another one failed.
    waiting = r"coroutine '(async_(de)?serialize|_read_).*' was never awaited"
    warnings.filterwarnings("ignore", waiting, RuntimeWarning)
    sys.unraisablehook = functools.partial(_tell_unless_over, sys.unraisablehook)


def _is_news(record: logging.LogRecord) -> bool:
    """Drops Orbax's warnings (of files that it can do without), and its log of errors that it raises, too."""
    return "orbax" not in record.pathname or (record.levelno >= logging.ERROR and not record.exc_info)


def _is_retrieved(record: logging.LogRecord) -> bool:
    """Drops the exceptions of the tasks beside the one whose exception Orbax raised."""
    return "exception was never retrieved" not in record.getMessage()


def _tell_unless_over(tell: Callable[[UnraisableHookArgs], Any], met: UnraisableHookArgs) -> None:
    """Drops what tasks meet that go on after their save or restore has failed.

    TensorStore's threads report to an event loop that has ended; Orbax's coroutines are closed, and raise.
    """
    closed = isinstance(met.exc_value, RuntimeError) and str(met.exc_value) == "Event loop is closed"
    code = getattr(met.object, "cr_code", None)
    if not closed and not (code and "orbax" in code.co_filename):
        tell(met)
