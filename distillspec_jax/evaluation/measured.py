"""One system of a sweep over all prompts: what it decodes, in what order, and what was counted and timed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from distillspec_jax import acceptance
from distillspec_jax.acceptance import Record
from distillspec_jax.decoding import Completion, Engine, SamplingDistribution
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import timing
from distillspec_jax.evaluation.timing import Timing


@dataclasses.dataclass(frozen=True)
class Workload:
    """The prompts and settings that every system of a sweep decodes.

    Attributes:
      prompts: token ids.
      max_new_tokens: limit of each output, EOS included.
      batch_size: prompts decoded together.
      timed_prompts: the first so many prompts are timed, batch by batch.
      repeats: how often each of them is run.
      seed: of all draws.
    """

    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    batch_size: int
    timed_prompts: int
    repeats: int
    seed: int

    @property
    def units(self) -> list[range]:
        """The timed batches, as ranges of prompt indices."""
        timed = min(self.timed_prompts, len(self.prompts))
        return [range(i, min(i + self.batch_size, timed)) for i in range(0, timed, self.batch_size)]

    def decode(self, engine: Engine, distribution: SamplingDistribution, indices: range) -> list[Completion]:
        """Decodes some prompts; a seed of their own keeps their draws apart from all others'."""
        seed = int(np.random.SeedSequence([self.seed, indices.start]).generate_state(1)[0] >> 1)
        prompts = [self.prompts[i] for i in indices]
        return engine.generate(prompts, distribution, self.max_new_tokens, seed)


@dataclasses.dataclass(frozen=True)
class Measured:
    """One system over all prompts.

    Attributes:
      completions: in the prompts' order.
      timing: of the timed batches; None if none were timed.
    """

    completions: list[Completion]
    timing: Timing[list[Completion]] | None

    @functools.cached_property
    def records(self) -> Sequence[Record]:
        """The counts of each prompt.

        Raises:
          AccountingError: those of one contradict each other.
        """
        return acceptance.checked([completion.record for completion in self.completions])

    @property
    def unit_tokens(self) -> list[int]:
        """Emitted tokens of each timed batch."""
        units = self.timing.results if self.timing else []
        return [sum(len(completion.tokens) for completion in unit) for unit in units]

    @property
    def unit_seconds(self) -> list[float]:
        """Smallest seconds of each timed batch."""
        return [] if self.timing is None else [float(x) for x in self.timing.seconds_U]


def in_turns(
    engines: Sequence[Engine], distribution: SamplingDistribution, workload: Workload
) -> list[Measured]:
    """Decodes the timed batches alone, all engines in turns."""
    units = workload.units
    if not units:
        return [Measured([], None) for _ in engines]

    def system(engine: Engine, unit: int) -> list[Completion]:
        return workload.decode(engine, distribution, units[unit])

    systems = [functools.partial(system, engine) for engine in engines]
    timings = timing.interleaved(systems, len(units), workload.repeats)
    return [Measured([c for unit in timed.results for c in unit], timed) for timed in timings]


def completed(
    measured: Measured, engine: Engine, distribution: SamplingDistribution, workload: Workload
) -> Measured:
    """Adds the prompts that are not timed."""
    rest = range(len(measured.completions), len(workload.prompts))
    if not rest:
        return measured
    return Measured([*measured.completions, *workload.decode(engine, distribution, rest)], measured.timing)


def again(
    measured: Measured, engine: Engine, distribution: SamplingDistribution, workload: Workload
) -> Measured:
    """Keeps the timing, with the completions of an engine that counts more than a timed one should."""
    rest = range(sum(map(len, workload.units)), len(workload.prompts))
    parts = [*workload.units, *([rest] if rest else [])]
    return Measured(
        [c for part in parts for c in workload.decode(engine, distribution, part)], measured.timing
    )


def failures(target: str, completions: Sequence[Completion]) -> int:
    """Counts the prompts whose text broke off where the target's logits were not finite.

    Raises:
      UsageError: all of them, so that nothing was measured.
    """
    failed = sum(completion.finish_reason == "failed" for completion in completions)
    if failed == len(completions):
        raise UsageError(f"target {target}: its logits were not finite, on all {failed} prompts")
    return failed
