"""The setting of a study: what the stream asks for, and what a redistillation may spend."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

NEVER, ON_ALARM = "never", "on alarm"
START = "start"
"""The draft that every policy begins with, and the pool of prompts that it was distilled on."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of the stream.

    Attributes:
      begins, ends: pools of prompts; the share of the second grows evenly from none to all.
      requests: how many.
    """

    begins: str
    ends: str
    requests: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The setting of a study.

    Attributes:
      phases: of the stream, in their order.
      pools: distinct prompts of each pool (`traffic.POOLS`).
      lengths: the longest prompt and answer of the service, in tokens.
      block_size: drafts a round.
      look: requests between two looks of an operator.
      waits: requests since the drop, at least, before a draft is distilled again on alarm.
      intervals: of the policies that distil again at fixed intervals, in requests.
      steps, pilot_steps, batch_size, learning_rate: of a training.
      prompts: held-out ones, new and old each, by which the gate judges.
      old_share: of old prompts in what is trained on.
      margin: relative loss on old prompts that the gate bears.
      checked: prompts of each pool that the real sampler decodes.
      seeds: of streams and trainings.
    """

    phases: tuple[Phase, ...]
    pools: Mapping[str, int]
    lengths: Mapping[str, int]
    block_size: int = 5
    look: int = 250
    waits: int = 1_000
    intervals: tuple[int, ...] = (10_000, 5_000, 2_500)
    steps: int = 64
    pilot_steps: int = 0
    batch_size: int = 16
    learning_rate: float = 3e-3
    prompts: int = 50
    old_share: float = 0.5
    margin: float = 0.1
    checked: int = 16
    seeds: tuple[int, ...] = (0, 1)

    @property
    def requests(self) -> int:
        """All requests of the stream."""
        return sum(phase.requests for phase in self.phases)

    @property
    def policies(self) -> dict[str, int]:
        """The policies by name, each with its interval; 0: none."""
        fixed = {f"every {interval:,}": interval for interval in self.intervals}
        return {NEVER: 0, ON_ALARM: 0, **fixed}


def _phases(*, home: int, away: int, back: int, early: int, drift: int, late: int) -> tuple[Phase, ...]:
    arithmetic, german, first, last = "arithmetic", "German", "leads, first", "leads, last"
    return (
        Phase(arithmetic, arithmetic, home),
        Phase(german, german, away),
        Phase(arithmetic, arithmetic, back),
        Phase(first, first, early),
        Phase(first, last, drift),
        Phase(last, last, late),
    )


FULL = Setting(
    phases=_phases(home=4_500, away=5_000, back=3_500, early=1_500, drift=4_000, late=1_500),
    pools={START: 300, "arithmetic": 600, "German": 800, "leads, first": 500, "leads, last": 500},
    lengths={"inputs": 64, "targets": 32},
)
SMALL = Setting(
    phases=_phases(home=900, away=1_200, back=600, early=400, drift=600, late=300),
    pools={START: 200, "arithmetic": 200, "German": 250, "leads, first": 200, "leads, last": 200},
    lengths={"inputs": 32, "targets": 16},
    waits=500,
    intervals=(1_000,),
    steps=12,
    pilot_steps=3,
    batch_size=8,
    checked=8,
    seeds=(0,),
)
