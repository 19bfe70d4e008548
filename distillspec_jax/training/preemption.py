"""Being asked to stop: a scheduler's SIGTERM, a person's ^C."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from types import FrameType


class Preempted(Exception):
    """The run was asked to stop, saved, and can be started again: exit status 75."""

    exit_status = 75


@dataclasses.dataclass
class Stop:
    """Whether somebody asked.

    Attributes:
      requested: a signal came.
      name: which, `SIGTERM`.
    """

    requested: bool = False
    name: str = ""


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """While the context lasts, SIGTERM and SIGINT only ask; whoever holds the `Stop` ends when it suits.

    A second SIGINT interrupts at once. Outside the main thread (a notebook's executor) signals cannot be
    handled, and nothing is ever requested.
    """
    stop = Stop()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested, stop.name = True, signal.Signals(number).name

    try:
        previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
