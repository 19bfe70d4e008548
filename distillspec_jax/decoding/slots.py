"""The slots of the device batch: which prompt each slot decodes, and which prompts are waiting."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from distillspec_jax.decoding.state import Status


@dataclasses.dataclass(frozen=True)
class DecodingProgress:
    """The progress of a call of `Engine.generate`.

    Attributes:
      done_prompts, total_prompts: numbers of prompts.
      emitted_tokens: tokens emitted so far for all prompts, including those in flight.
    """

    done_prompts: int
    total_prompts: int
    emitted_tokens: int


class Slots:
    """Assigns prompts to slots, in order, as slots become free.

    Args:
      prompts: number of prompts.
      count: number of slots; with fewer prompts, some stay empty.

    Attributes:
      in_flight: maps a slot to the index of its prompt.
      waiting: indices of prompts without a slot so far.
    """

    def __init__(self, prompts: int, count: int) -> None:
        first = min(count, prompts)
        self.count = count
        self.in_flight = dict(enumerate(range(first)))
        self.waiting = collections.deque(range(first, prompts))
        self._prompts, self._emitted, self._emitted_by_done = prompts, 0, 0

    @property
    def enough(self) -> int:
        """The number of running rows below which the host must act: all while prompts wait, else 1."""
        return len(self.in_flight) if self.waiting else 1

    @property
    def progress(self) -> DecodingProgress:
        """The progress as of the last call of `release`."""
        done = self._prompts - len(self.waiting) - len(self.in_flight)
        return DecodingProgress(done, self._prompts, self._emitted)

    def prompts(self) -> list[int]:
        """Returns the prompt of every slot; 0 for an empty slot."""
        return [self.in_flight.get(slot, 0) for slot in range(self.count)]

    def release(self, status_B: np.ndarray, emitted_B: np.ndarray) -> tuple[list[int], list[int]]:
        """Frees the slots whose rows have ended.

        Args:
          status_B, emitted_B: see `Rows`.

        Returns:
          The freed slots, in ascending order, and their prompts.
        """
        done = sorted(slot for slot in self.in_flight if status_B[slot] != Status.RUNNING)
        self._emitted = self._emitted_by_done + sum(int(emitted_B[slot]) for slot in self.in_flight)
        self._emitted_by_done += sum(int(emitted_B[slot]) for slot in done)
        return done, [self.in_flight.pop(slot) for slot in done]

    def take(self, free: Sequence[int]) -> dict[int, int]:
        """Assigns the next waiting prompts to free slots; returns slot to prompt for the filled slots."""
        taken = {slot: self.waiting.popleft() for slot in free[: len(self.waiting)]}
        self.in_flight |= taken
        return taken
