"""Stop requests: SIGTERM from a scheduler, ^C from a person."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import TypeVar

Part = TypeVar("Part")


class Preempted(BaseException):
    """The run was asked to stop, has saved, and can be restarted: exit status 75.

    It may arrive at any point and must not be mistaken for a failure of the interrupted operation: a
    checkpoint that is being read would seem damaged.
    """

    exit_status = 75


@dataclasses.dataclass
class Stop:
    """Records whether a stop signal arrived.

    Attributes:
      requested: a signal arrived.
      name: of the signal, e.g. `SIGTERM`.
    """

    requested: bool = False
    name: str = ""


@dataclasses.dataclass
class Progress:
    """The progress of a run.

    Attributes:
      newest: returns the newest saved step, None if there is none; not set by a run that has no steps.
    """

    newest: Callable[[], int | None] | None = None


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[Progress]:
    """Context manager that SIGTERM ends at once, unless an inner `stop_signals` is to save first.

    Outside the main thread signals cannot be handled, so it has no effect.

    Raises:
      Preempted: SIGTERM arrived.
    """
    progress = Progress()

    def end(number: int, frame: FrameType | None) -> None:
        step = "" if progress.newest is None else f", step {progress.newest() or 0}"
        raise Preempted(f"stopped by SIGTERM: resumable{step}")

    with _handling(end, signal.SIGTERM):
        yield progress


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Context manager in which SIGTERM and SIGINT only set a `Stop`; its holder decides when to stop.

    A second SIGINT interrupts at once. Outside the main thread (a notebook's executor) signals cannot be
    handled, so nothing is ever requested. On a normal exit, a SIGTERM is passed on to an enclosing
    `ended_by_sigterm`.
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


_between: contextvars.ContextVar[Callable[[], None]] = contextvars.ContextVar("between", default=lambda: None)


@contextlib.contextmanager
def between_parts(look: Callable[[], None]) -> Iterator[None]:
    """Context manager in which `stoppable` calls `look` before every part; it may raise."""
    token = _between.set(look)
    try:
        yield
    finally:
        _between.reset(token)


def stoppable(parts: Iterable[Part]) -> Iterator[Part]:
    """Yields the parts of long work, an evaluation's batches, between which it may be stopped."""
    for part in parts:
        _between.get()()
        yield part


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
