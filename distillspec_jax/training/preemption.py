"""Being asked to stop: a scheduler's SIGTERM, a person's ^C."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator
from types import FrameType


class Preempted(BaseException):
    """The run was asked to stop, saved, and can be started again: exit status 75.

    It may come in the middle of anything, and must not be taken for a failure of whatever was being tried: a
    checkpoint that is being read would pass for damaged.
    """

    exit_status = 75


@dataclasses.dataclass
class Stop:
    """Whether a stop signal arrived.

    Attributes:
      requested: a signal came.
      name: which, `SIGTERM`.
    """

    requested: bool = False
    name: str = ""


@dataclasses.dataclass
class Progress:
    """How far a run has come.

    Attributes:
      newest: to the newest step that is saved, None where there is none.
    """

    newest: Callable[[], int | None] = lambda: None


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[Progress]:
    """While the context lasts, SIGTERM ends it at once, unless `stop_signals` inside it are to save first.

    Outside the main thread signals cannot be handled, and nothing happens.

    Raises:
      Preempted: it came.
    """
    progress = Progress()

    def end(number: int, frame: FrameType | None) -> None:
        raise Preempted(f"stopped by SIGTERM: resumable, step {progress.newest() or 0}")

    with _handling(end, signal.SIGTERM):
        yield progress


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """While the context lasts, SIGTERM and SIGINT only ask; whoever holds the `Stop` ends when it suits.

    A second SIGINT interrupts at once. Outside the main thread (a notebook's executor) signals cannot be
    handled, and nothing is ever requested. A SIGTERM that nobody answered before the end is handed on to an
    `ended_by_sigterm` around it.
    """
    stop = Stop()

    def request(number: int, frame: FrameType | None) -> None:
        if stop.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.requested, stop.name = True, signal.Signals(number).name

    with _handling(request, signal.SIGTERM, signal.SIGINT):
        yield stop
    around = signal.getsignal(signal.SIGTERM)
    if stop.name == "SIGTERM" and callable(around):
        around(signal.SIGTERM, None)


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], None], *numbers: signal.Signals) -> Iterator[None]:
    try:
        previous = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:  # not the main thread
        previous = {}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
