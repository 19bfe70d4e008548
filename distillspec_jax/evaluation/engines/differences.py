"""From counters to counts: the increments between scrapes, with restarts, repetitions and clocks that jump.

The values tell the order where the clock cannot be trusted, since a counter never falls while its process
lives. An interval in which one fell is left out, and so is what a restarted process has counted before it
was seen first: nobody can tell what was lost. Where an engine rounds its counters, an interval lasts until
they have grown so much that the rounding does not matter.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from distillspec_jax.evaluation.engines.engine import ROUNDINGS, Answer, Counters
from distillspec_jax.evaluation.engines.scrapes import Scrape, Series

REPEATED = "scrapes in which nothing was counted"
RESTARTED = "intervals in which a counter restarted"
LATE = "scrapes that came late"
CLOCK = "scrapes whose clock went back"
INCOMPLETE = "scrapes without some counters"
ROUNDED = "scrapes of rounded counters, joined with a later one"


@dataclasses.dataclass
class Differences:
    """The scrapes seen so far.

    Attributes:
      values: of every series, when it was seen last.
      seconds: of the latest scrape with a time.
      notes: how many scrapes and intervals were left out, or were remarkable, by reason.
    """

    values: dict[Series, float] = dataclasses.field(default_factory=dict)
    seconds: float | None = None
    notes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def intervals(
        self, scrapes: Iterable[Scrape], counters: Counters, block_size: int | None
    ) -> Iterator[tuple[Scrape, Answer]]:
        """Yields the counts of every interval in which something was counted, at the scrape that ends it.

        Args:
          block_size: that the user vouches for.
        """
        for scrape in scrapes:
            unit = _unit(scrape, counters.digits)
            deltas = self._after(scrape, unit)
            if deltas is not None:  # rounded counts never tell that all rounds were full
                yield scrape, counters.answer(deltas, block_size if unit == 1 else None)

    def _after(self, scrape: Scrape, unit: int) -> Mapping[str, int | dict[int, int]] | None:
        fell = [one for one, value in scrape.values.items() if value < self.values.get(one, 0)]
        earlier = None not in (scrape.seconds, self.seconds) and scrape.seconds < self.seconds  # type: ignore[operator]
        if fell and earlier:
            self.notes[LATE] += 1  # of before: lower counts at an earlier time
            return None
        if earlier:
            self.notes[CLOCK] += 1
        if scrape.seconds is not None:
            self.seconds = scrape.seconds
        if fell:
            self.notes[RESTARTED] += 1
            self.values = dict(scrape.values)
            return None
        if self.values and self.values.keys() - scrape.values.keys():
            self.notes[INCOMPLETE] += 1
        sums: dict[str, int | dict[int, int]] = {}
        known = {one.source for one in self.values}
        for one, value in scrape.values.items():
            if one.source not in known:
                continue  # a process that is seen first: since when it has counted, nobody can tell
            # A position appears when a draft there is accepted for the first time.
            increment = round(value - self.values.get(one, 0.0))
            if one.position is None:
                before = sums.get(one.name, 0)
                assert isinstance(before, int)
                sums[one.name] = before + increment
            else:
                at = sums.setdefault(one.name, {})
                assert isinstance(at, dict)
                at[one.position] = at.get(one.position, 0) + increment
        grown = max((v if isinstance(v, int) else sum(v.values()) for v in sums.values()), default=0)
        if known and 0 < grown < ROUNDINGS * unit and unit > 1:
            self.notes[ROUNDED] += 1
            return None
        self.values |= scrape.values
        if not known:
            return None
        if not grown:
            self.notes[REPEATED] += 1
            return None
        return sums


def _unit(scrape: Scrape, digits: int | None) -> int:
    """The unit of the last digit that an engine writes of its largest counter."""
    if digits is None:
        return 1
    largest = max((value for one, value in scrape.values.items() if one.position is None), default=0.0)
    return int(10 ** max(0, len(str(round(largest))) - digits))
