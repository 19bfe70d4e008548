"""A process with limits, for what comes with the checkpoints of others: chat templates and tokenizers.

Such files are programs of a kind. Jinja's sandbox keeps a template from the machine, and not from work
without end; an expression in a tokenizer.json may backtrack for ever, and a library that gets no memory ends
its process. As `'a' * 10**10` is one step, no check between two steps would help. So another process does the
work, call by call, within bounds of memory and processor time that the system keeps.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

MEGABYTES = 512
"""Memory of a process, its libraries included."""

SECONDS = 2
"""Processor time of a call; it has a second more for every `_BYTES_A_SECOND` that it is given to work on."""

_BYTES_A_SECOND = 1 << 18
_GRACE, _START = 5, 60
"""Seconds by the clock that a call, and the first one, may take beyond its processor time."""

_WATCH = 0.05
_PROGRAM = (
    "import json, sys; sys.path += json.loads(sys.argv[1]); "
    "from distillspec_jax.tokenization import confined_process; "
    "confined_process.serve(sys.argv[2], int(sys.argv[3]))"
)
_FLAGS = ("-I", "-S")
"""No `site`, which costs as much time as the rest, nor PYTHONPATH, where another copy of this package may
lie: what is installed is found by this process's own paths."""

_ALONE = {"MALLOC_ARENA_MAX": "1", "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Memory is set apart for each thread, and counts."""


class Refused(ValueError):
    """A call failed; the message is one line."""


class Exceeded(Refused):
    """A call ended its process, by a limit or a crash; the message is a clause: `it takes more than 2 s`."""


class Confined:
    """A service in a process of its own, which is begun at once, and anew after a call that ended it.

    Calls of several threads wait for each other.

    Args:
      service: `module:Class`; the class is called with `content`, its methods are what `call` names.
      content: what the service is made of.
      megabytes: of memory.
    """

    def __init__(self, service: str, content: bytes, megabytes: int = MEGABYTES) -> None:
        self._content, self._started_with = content, (service, megabytes)
        self._lock = threading.Lock()
        self._process: _Process | None = _Process(service, megabytes)

    def call(self, method: str, *arguments: Any, seconds: int = 0) -> Any:
        """Calls a method; arguments and result are JSON.

        Args:
          seconds: processor time beyond the usual.

        Raises:
          Refused: the service cannot be made of its content, or the method failed.
          Exceeded: either took too much time or memory.
        """
        request = json.dumps([method, *arguments]).encode()
        with self._lock:
            if self._process is None or self._process.owner != os.getpid():  # a fork has copies of the pipes
                self._process = _Process(*self._started_with)
            try:
                if not self._process.has_service:
                    self._process.ask(self._content, 0, _START)
                    self._process.has_service = True
                return self._process.ask(request, seconds, _GRACE)
            except BaseException as error:
                if isinstance(error, Exceeded) or not isinstance(error, Refused):
                    self._process.end()  # after ^C, too: the answer would be taken for the next call's
                    self._process = None
                raise


class _Process:
    """The process, and what is said to it.

    Attributes:
      owner: the process that began it.
      has_service: whether its service is made.
    """

    def __init__(self, service: str, megabytes: int) -> None:
        package = str(Path(__file__).resolve().parents[2])
        paths = json.dumps([package, *filter(None, sys.path)])
        self._popen = subprocess.Popen(
            [sys.executable, *_FLAGS, "-c", _PROGRAM, paths, service, str(megabytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            env=os.environ | _ALONE,
            start_new_session=True,  # ^C is not for it
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._requests, self._answers = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        self._megabytes = megabytes
        self.owner, self.has_service = os.getpid(), False
        self.end = weakref.finalize(self, _end, self._popen, self.owner)

    def ask(self, payload: bytes, more_seconds: int, grace: float) -> Any:
        """See `Confined.call`."""
        seconds = SECONDS + len(payload) // _BYTES_A_SECOND + more_seconds
        try:
            view = memoryview(struct.pack(">IQ", seconds, len(payload)) + payload)
            while view:
                view = view[os.write(self._requests, view) :]
            answer = json.loads(self._answer(time.monotonic() + seconds + grace))
        except (BrokenPipeError, EOFError) as error:
            raise Exceeded(self._how_it_ended(seconds)) from error
        except TimeoutError as error:
            raise Exceeded(f"it takes more than {seconds} s") from error
        if "error" in answer:
            raise Refused(answer["error"])
        return answer["value"]

    def _answer(self, deadline: float) -> bytes:
        waiting = select.poll()
        waiting.register(self._answers, select.POLLIN)
        received, size = bytearray(), 8
        while len(received) < size:
            left = deadline - time.monotonic()
            if not waiting.poll(1000 * max(min(left, _WATCH), 0)):
                if left <= 0:
                    raise TimeoutError
                self._watch()
                continue
            part = os.read(self._answers, 1 << 20)
            if not part:
                raise EOFError
            received += part
            if size == 8 and len(received) >= 8:
                size += struct.unpack(">Q", received[:8])[0]
        return bytes(received[8:])

    def _watch(self) -> None:
        """Ends the process when it needs too much where the system does not bound its memory, as macOS."""
        if sys.platform != "linux" and resident_megabytes(self._popen.pid) > self._megabytes:
            self._popen.kill()

    def _how_it_ended(self, seconds: int) -> str:
        try:
            status = self._popen.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            status = self._popen.wait()
        if status == -signal.SIGXCPU:
            return f"it takes more than {seconds} s"
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        return f"it needs more than {self._megabytes} MB, or breaks the library that reads it ({how})"


def _end(popen: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            pipe.close()


def resident_megabytes(process: int) -> float:
    """The memory that a process has, by `ps`."""
    found = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return int(found.stdout.strip() or 0) / 1024
