"""One system of a sweep over all prompts: its workload, decoding order, counts and timings."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from distillspec_jax import acceptance
from distillspec_jax.acceptance import Record
from distillspec_jax.decoding import Completion, Engine, SamplingDistribution
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import timing
from distillspec_jax.evaluation.paired import MIN_PROMPTS, Clusters, joined
from distillspec_jax.evaluation.timing import Timing
from distillspec_jax.models import fingerprints


@dataclasses.dataclass(frozen=True)
class Workload:
    """The prompts and settings that every system of a sweep decodes.

    Attributes:
      prompts: token ids.
      max_new_tokens: limit of each output, EOS included.
      batch_size: prompts decoded together.
      timed_prompts: number of prompts, from the first, to time batch by batch, see `units`; 0: none.
      repeats: number of runs of each timed batch.
      seed: of all draws.
    """

    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    batch_size: int
    timed_prompts: int
    repeats: int
    seed: int

    @functools.cached_property
    def clusters(self) -> list[str] | None:
        """A digest of each prompt's ids, equal for repeated prompts; None if none is repeated."""
        found = [fingerprints.of_tokens(prompt) for prompt in self.prompts]
        return found if len(set(found)) < len(found) else None

    @property
    def units(self) -> list[range]:
        """The timed batches, as ranges of prompt indices.

        Batches are whole, or their speed would not be that of the batch size: the number of prompts is
        rounded up, to as many batches as an interval needs where there are so many prompts. Fewer prompts
        than a batch are one unit.
        """
        timed = min(self.timed_prompts, len(self.prompts))
        if self.batch_size > 1 and timed:
            batches = max(-(-timed // self.batch_size), MIN_PROMPTS)
            whole = len(self.prompts) // self.batch_size
            timed = min(batches, whole) * self.batch_size or len(self.prompts)
        return [range(i, min(i + self.batch_size, timed)) for i in range(0, timed, self.batch_size)]

    def decode(self, engine: Engine, distribution: SamplingDistribution, indices: range) -> list[Completion]:
        """Decodes some prompts; a separate seed makes their draws independent of all others."""
        seed = int(np.random.SeedSequence([self.seed, indices.start]).generate_state(1)[0] >> 1)
        prompts = [self.prompts[i] for i in indices]
        return engine.generate(prompts, distribution, self.max_new_tokens, seed)


@dataclasses.dataclass(frozen=True)
class Measured:
    """The results of one system over all prompts.

    Attributes:
      completions: in the order of the prompts.
      timing: of the timed batches; None if none were timed.
      clusters: see `Workload.clusters`.
    """

    completions: list[Completion]
    timing: Timing[list[Completion]] | None
    clusters: list[str] | None = None

    @functools.cached_property
    def records(self) -> Sequence[Record]:
        """The counts of each prompt.

        Raises:
          AccountingError: a prompt's counts contradict each other.
        """
        return acceptance.checked([completion.record for completion in self.completions])

    @property
    def unit_tokens(self) -> list[int]:
        """Emitted tokens of each timed batch."""
        units = self.timing.results if self.timing else []
        return [sum(len(completion.tokens) for completion in unit) for unit in units]

    @property
    def unit_clusters(self) -> Clusters:
        """The clusters of the timed batches."""
        ends = list(itertools.accumulate(map(len, self.timing.results if self.timing else [])))
        return joined(self.clusters, list(map(range, [0, *ends], ends)))

    @property
    def unit_seconds(self) -> list[float]:
        """Minimum time of each timed batch, seconds."""
        return [] if self.timing is None else [float(x) for x in self.timing.seconds_U]


def in_turns(
    engines: Sequence[Engine], distribution: SamplingDistribution, workload: Workload
) -> list[Measured]:
    """Decodes only the timed batches, alternating between the engines."""
    units = workload.units
    if not units:
        return [Measured([], None, workload.clusters) for _ in engines]

    def system(engine: Engine, unit: int) -> list[Completion]:
        return workload.decode(engine, distribution, units[unit])

    systems = [functools.partial(system, engine) for engine in engines]
    timings = timing.interleaved(systems, len(units), workload.repeats)
    return [
        Measured([c for unit in timed.results for c in unit], timed, workload.clusters) for timed in timings
    ]


def completed(
    measured: Measured, engine: Engine, distribution: SamplingDistribution, workload: Workload
) -> Measured:
    """Decodes and adds the untimed prompts."""
    rest = range(len(measured.completions), len(workload.prompts))
    if not rest:
        return measured
    added = workload.decode(engine, distribution, rest)
    return dataclasses.replace(measured, completions=[*measured.completions, *added])


def again(
    measured: Measured, engine: Engine, distribution: SamplingDistribution, workload: Workload
) -> Measured:
    """Keeps the timing but takes the completions of an engine with more counters than a timed one."""
    rest = range(sum(map(len, workload.units)), len(workload.prompts))
    parts = [*workload.units, *([rest] if rest else [])]
    found = [c for part in parts for c in workload.decode(engine, distribution, part)]
    return dataclasses.replace(measured, completions=found)


def failures(target: str, completions: Sequence[Completion]) -> int:
    """Counts the prompts whose text ended because the target's logits were not finite.

    Raises:
      UsageError: all prompts failed, so nothing was measured.
    """
    failed = sum(completion.finish_reason == "failed" for completion in completions)
    if failed == len(completions):
        raise UsageError(f"target {target}: its logits were not finite, on all {failed} prompts")
    return failed
