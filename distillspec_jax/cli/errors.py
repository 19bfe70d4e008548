"""How a command ends: an exit status and, when it is the user's turn, one line on stderr.

    0    the command reached its end; 1, 3 and 4 are verdicts of some commands (`main.USAGE`)
    2    a bad flag, file, name or value: `distillspec CMD: error: ...` names it and the nearest valid choice
    75   preempted, or a store does not answer or another process is at work there (EX_TEMPFAIL): the same
         command resumes
    130  interrupted with ^C;  141  the reader of our output went away (`| head`)

Anything else is a defect of the program and keeps its traceback. `DISTILLSPEC_TRACEBACK=1` shows every
traceback. A host of several that ends with an error does not wait for the others (`distributed.leave`).
"""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from distillspec_jax import outputs
from distillspec_jax.cli import distributed, noise
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.terminal import news

DEFECT, USAGE, PREEMPTED, INTERRUPTED, BROKEN_PIPE = 1, 2, 75, 130, 141

Main = Callable[[list[str]], int]

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_JAX_ERRORS = ("JaxRuntimeError", "XlaRuntimeError")
_SMALLER = (
    "in training, raise NUM_PARTITIONS or MICROBATCHES, or set FULLY_SHARDED = True or REMAT = 'full'; in "
    "decoding, lower --batch_size"
)


def run(main: Main, argv: list[str] | None = None, *, command: str) -> int:
    """Calls `main(argv)` and turns what it raises into an exit status.

    An exception with an integer attribute `exit_status` (a preempted job) ends with that status and its
    message, which is news and not an error unless it is a UsageError.

    Args:
      main: a command's `main`; returns its exit status.
      argv: the arguments after the command's name; `sys.argv[1:]` when None.
      command: the name to print, `finetune`.
    """
    noise.silence()
    try:
        with outputs.run():
            status = main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # at exit, a reader that has left could not be told from a defect
        return status
    except BaseException as raised:  # a preempted job's is no `Exception`
        try:
            status = _report(raised, command)
        except Exception:
            if distributed.joined():
                traceback.print_exc()
                distributed.leave(DEFECT)
            raise
        distributed.leave(status)
        return status


def _report(raised: BaseException, command: str) -> int:
    """Says why a command has ended, and returns its exit status; raises again what is a defect."""
    if isinstance(raised, KeyboardInterrupt):
        news(f"distillspec {command}: interrupted")
        return INTERRUPTED
    if isinstance(raised, BrokenPipeError):
        # Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    error = _without_gin(raised)
    ended = getattr(error, "exit_status", None)
    message = str(error) if ended else explain(error) or _explain_missing_values(raised)
    if message is None:
        raise raised
    if os.environ.get("DISTILLSPEC_TRACEBACK"):
        traceback.print_exception(raised)
    is_news = ended and not isinstance(error, UsageError)
    news(f"distillspec {command}: {'' if is_news else 'error: '}{_one_line(message)}")
    return int(ended or USAGE)


def explain(error: BaseException) -> str | None:
    """One line about an error that is the user's to fix, None about one that is ours."""
    if isinstance(error, UsageError):
        return str(error)
    if any(_is_disk_full(link) for link in _chain(error)):
        return f"no space left on the device{_place(error)}"
    if type(error).__name__ in _JAX_ERRORS and "RESOURCE_EXHAUSTED" in str(error):
        said = _one_line(str(error).partition("RESOURCE_EXHAUSTED:")[2].strip().partition("\n")[0])
        return f"a device ran out of memory ({said[:200] or 'JAX gives no number'}): {_SMALLER}"
    if isinstance(error, OSError) and error.filename is not None:
        return _explain_path(error)
    return None


def _explain_path(error: OSError) -> str:
    """`no such file or directory: 'x'; in .: did you mean 'y'?` for a path that the user gave."""
    path = Path(os.fsdecode(error.filename)) if not isinstance(error.filename, int) else Path("?")
    what = (error.strerror or type(error).__name__).lower()
    hint = ""
    if isinstance(error, FileNotFoundError):
        folder = path.parent
        if folder.is_dir():
            siblings = [name for name in os.listdir(folder) if not name.startswith(".")]
            hint = f"; in {folder}: {nearest(path.name, siblings)}" if siblings else f"; {folder} is empty"
        else:
            hint = f"; there is no folder {str(folder)!r} either"
    return f"{what}: {str(path)!r}{hint}"


def _explain_missing_values(raised: BaseException) -> str | None:
    """gin's two ways to say that it called a function without a value for one of its parameters."""
    text = str(raised)
    required = re.match(r"Required bindings for `(.+?)` not provided in config: \[(.+?)\]", text)
    unbound = re.search(
        r"No values supplied by Gin or caller for arguments: \[(.+?)\].*?In call to configurable '(.+?)'",
        text,
        re.DOTALL,
    )
    if isinstance(raised, RuntimeError) and required:
        function, names = required[1], required[2]
    elif isinstance(raised, TypeError) and unbound:
        names, function = unbound[1], unbound[2]
    else:
        return None
    return f"{function} needs a value for {names}: bind it in a gin file, or by --gin.….{function}.NAME=VALUE"


def _without_gin(error: BaseException) -> BaseException:
    """The exception as it was raised.

    gin re-raises what a configured function raises as a look-alike whose class is derived on the spot, so
    that its text can name the function; the look-alike has lost `errno`, `filename` and the like.
    """
    while (inner := error.__context__) is not None and _is_look_alike(error, inner):
        error = inner
    return error


def _is_look_alike(error: BaseException, inner: BaseException) -> bool:
    return type(error).__bases__ == (type(inner),) and type(error).__name__ == type(inner).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The exception and what it was raised from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _is_disk_full(error: BaseException) -> bool:
    # TensorStore, below Orbax, reports it as a ValueError that quotes the system's words.
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    return "No space left on device" in str(error) or "Disk quota exceeded" in str(error)


def _place(error: BaseException) -> str:
    names = [link.filename for link in _chain(error) if isinstance(link, OSError) and link.filename]
    return f" while writing {os.fsdecode(names[0])!r}" if names else ""


def _one_line(message: str) -> str:
    return " ".join(part.strip() for part in message.splitlines() if part.strip())
