"""The process behind `confinement.Confined`: makes a service of bytes and answers calls, within limits.

A request is the seconds that it may take, its length and itself; the first is the service's content, each
other one a JSON list of a method and its arguments. An answer is its length and a JSON object with `value` or
`error`. Nothing of JAX is imported here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import signal
import struct
import sys
import time
from typing import Any, BinaryIO

_LONGEST_MESSAGE = 300


def serve(service: str, megabytes: int) -> None:
    """Answers until no more requests come.

    Args:
      service: `module:Class`.
      megabytes: of memory, all that the process maps included.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        module, _, name = service.partition(":")
        kind = getattr(importlib.import_module(module), name)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_AS, megabytes << 20)
        made: Any = None
        while (request := _read(sys.stdin.buffer)) is not None:
            seconds, content = request
            _limit(resource.RLIMIT_CPU, int(time.process_time()) + 1 + seconds)
            try:
                if made is None:
                    made, value = kind(content), None
                else:
                    method, *arguments = json.loads(content)
                    value = getattr(made, method)(*arguments)
                answer = json.dumps({"value": value}).encode()
            except MemoryError:
                answer = json.dumps({"error": f"it needs more than {megabytes} MB of memory"}).encode()
            except BaseException as error:  # a panic of Rust is no `Exception`
                answer = json.dumps({"error": explained(error)}).encode()
            answers.write(struct.pack(">Q", len(answer)) + answer)
            answers.flush()


def explained(error: BaseException) -> str:
    """The first line of an exception's message; Python's own class beside a word that says little alone."""
    first = next(iter(str(error).strip().splitlines()), "")[:_LONGEST_MESSAGE]
    kind = type(error)
    says_enough = " " in first or (first and kind.__module__ != "builtins")
    return first if says_enough else f"{kind.__name__}: {first}".rstrip(": ")


def _limit(kind: int, most: int) -> None:
    """Sets a limit as far as the system lets us; macOS has none on memory."""
    _, hard = resource.getrlimit(kind)
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (soft, hard))


def _read(requests: BinaryIO) -> tuple[int, bytes] | None:
    head = requests.read(12)
    if len(head) < 12:
        return None
    seconds, length = struct.unpack(">IQ", head)
    return seconds, requests.read(length)
