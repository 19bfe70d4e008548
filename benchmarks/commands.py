"""Runs commands of `distillspec` as a user would: in a process of their own, or in this one."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import importlib
import io
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from distillspec_jax import outputs
from distillspec_jax.errors import UsageError
from distillspec_jax.training.preemption import Preempted

Result = TypeVar("Result")


def gin_flags(files: Sequence[str], bindings: Mapping[str, Any]) -> list[str]:
    """Writes gin files and bindings as flags."""
    return [*(f"--gin_file={file}" for file in files), *(f"--gin.{k}={v}" for k, v in bindings.items())]


def run(argv: Sequence[str], place: str, *, in_process: bool = False) -> None:
    """Runs a command; what it prints is not shown.

    Args:
      argv: the command's name and its flags.
      place: what it works on, for errors.
      in_process: spare the imports; a process of its own gives back what the compiler takes.

    Raises:
      UsageError: it ended with an error.
      Preempted: it was stopped and can be started again.
    """
    if in_process:
        alone(_call, argv)
        return
    program = [sys.executable, "-m", "distillspec_jax.cli.main", *argv]
    with subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as started:
        try:
            _, said = started.communicate()
        except BaseException:
            started.terminate()  # it saves
            raise
    if started.returncode == Preempted.exit_status:
        raise Preempted(f"{place}: stopped, resumable")
    if started.returncode:
        raise UsageError(f"{place}: {(said.strip().splitlines() or ['no message'])[-1]}")


def _call(argv: Sequence[str]) -> None:
    import jax

    command, *flags = argv
    main = importlib.import_module(f"distillspec_jax.cli.{command}").main
    with outputs.run(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(flags)
    jax.clear_caches()
    gc.collect()


def alone(job: Callable[..., Result], *arguments: Any) -> Result:
    """Calls a function as a run of its own, whose inputs may be outputs of runs before it."""
    return contextvars.Context().run(job, *arguments)
