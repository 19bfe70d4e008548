"""Clients of a server, as plain as can be: they must not take the processors from it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class Client:
    """One connection that is kept.

    Args:
      url: of the server.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=120)

    def ask(self, body: dict[str, Any], route: str = "/v1/completions") -> tuple[int, dict[str, Any]]:
        """Sends a request; returns status and answer."""
        self._connection.request("POST", route, json.dumps(body), {"content-type": "application/json"})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())

    def get(self, route: str) -> tuple[int, bytes]:
        """Asks for a page."""
        self._connection.request("GET", route)
        response = self._connection.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


def process_of(url: str) -> Path:
    """The process that listens at an address: its folder in /proc.

    Raises:
      RuntimeError: there is none.
    """
    port = f"{urlsplit(url).port:04X}"
    inode = next(
        line.split()[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{port}") and line.split()[3] == "0A"
    )
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and any(
                f"socket:[{inode}]" == str(one.readlink()) for one in (process / "fd").iterdir()
            ):
                return process
    raise RuntimeError(f"nobody listens at {url}")


def memory_mb(process: Path) -> float:
    """Resident memory of a process."""
    return int((process / "statm").read_text().split()[1]) * 4096 / 2**20


def processor_seconds(process: Path) -> tuple[float, float]:
    """Seconds of the processor that a process has had: of its first thread, and of all the others.

    The first one of a server speaks HTTP; the others decode.
    """
    used = {}
    for thread in (process / "task").iterdir():
        with contextlib.suppress(OSError):  # a thread may have ended
            ticks = (thread / "stat").read_text().rpartition(")")[2].split()[11:13]
            used[thread.name] = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    first = used.pop(process.name)
    return first, sum(used.values())


@contextlib.contextmanager
def server(flags: Sequence[str], patience: float = 600.0) -> Iterator[str]:
    """A server in a process of its own, ready; yields its address.

    Args:
      flags: of `distillspec serve`, less the port.
      patience: seconds until it must be ready.

    Raises:
      RuntimeError: it ended, or was not ready in time.
    """
    command = [sys.executable, "-m", "distillspec_jax.cli.serve", "--port=0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        until = time.monotonic() + patience
        for line in process.stderr:
            print(line, end="", file=sys.stderr)
            if " at http://" in line:
                # Nobody else reads what it goes on to say: a full pipe would stop it.
                threading.Thread(target=process.stderr.read, daemon=True).start()
                yield line.rsplit(" at ", 1)[1].strip()
                break
            if time.monotonic() > until:
                raise RuntimeError(f"{' '.join(command)}: not ready after {patience:.0f} seconds")
        else:
            raise RuntimeError(f"{' '.join(command)} ended with status {process.wait()}")
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
