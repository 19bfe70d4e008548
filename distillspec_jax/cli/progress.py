"""Progress on standard error: one line that is overwritten on a terminal, one every half minute in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from distillspec_jax.terminal import news, shown

if TYPE_CHECKING:
    from distillspec_jax.decoding.engine import DecodingProgress

INTERVAL = 30.0
"""Seconds between two lines where standard error is no terminal (SLURM, nohup, a pipe)."""


class ProgressLine:
    """Shows how far a job is; call it whenever there is news, as often as you like.

    On a terminal every call overwrites the line before. Elsewhere a line is printed once `interval` seconds
    have passed since the last one (or since this object was made): a job shorter than that prints none.

    Args:
      interval: seconds.
      clock: seconds; only its differences count.
    """

    def __init__(self, interval: float = INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._printed = clock()

    def __call__(self, line: str, *, last: bool = False) -> None:
        """Shows a line.

        Args:
          last: the job is over; on a terminal the line then stays.
        """
        if sys.stderr.isatty():
            print(f"\r{shown(line)}", end="\n" if last else "", file=sys.stderr, flush=True)
        elif self._clock() - self._printed >= self._interval:
            self._printed = self._clock()
            news(line)

    def prompts(self, progress: DecodingProgress) -> None:
        """Shows how many prompts are decoded: a `progress` argument of `Engine` and `TextGenerator`."""
        self(
            f"{progress.done_prompts}/{progress.total_prompts} prompts, {progress.emitted_tokens} tokens",
            last=progress.done_prompts == progress.total_prompts,
        )


@contextlib.contextmanager
def heartbeat(doing: str, interval: float = INTERVAL) -> Iterator[Callable[[str], None]]:
    """Says in a log, every `interval` seconds, what a job is doing and for how long; silent on a terminal.

    A thread of its own prints, so that a step that calls nobody back, as reading a checkpoint, is no silence,
    and what is timed is not disturbed by more than that.

    Args:
      doing: in words.
      interval: seconds.

    Yields:
      A function to be called with whatever the job does next.
    """
    if sys.stderr.isatty():
        yield lambda _: None
        return
    now, over = [(doing, time.monotonic())], threading.Event()

    def beat() -> None:
        while not over.wait(interval):
            said, since = now[0]
            news(f"{said}: {time.monotonic() - since:.0f} s")

    def change(said: str) -> None:
        now[0] = said, time.monotonic()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield change
    finally:
        over.set()
        thread.join()
