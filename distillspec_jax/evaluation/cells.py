"""One cell of a sweep: a drafter, a block size, a temperature; measured, and written as a row."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from distillspec_jax.decoding import Completion, Engine, SamplingDistribution
from distillspec_jax.evaluation import acceptance, paired, timing
from distillspec_jax.evaluation.acceptance import Tally
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.quality import Quality
from distillspec_jax.evaluation.results import Row
from distillspec_jax.evaluation.timing import Timing
from distillspec_jax.models import fingerprints

NO_DRAFTER = "none"
"""How rows of plain autoregressive decoding are labelled; their block size is 0."""


@dataclasses.dataclass(frozen=True)
class Workload:
    """What every system of a sweep decodes.

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
    def tally(self) -> Tally:
        return Tally.of(self.completions)

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
    """The timed batches alone, decoded by all engines in turns."""
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
    """The same with the prompts that are not timed."""
    rest = range(len(measured.completions), len(workload.prompts))
    if not rest:
        return measured
    return Measured([*measured.completions, *workload.decode(engine, distribution, rest)], measured.timing)


def again(
    measured: Measured, engine: Engine, distribution: SamplingDistribution, workload: Workload
) -> Measured:
    """The same timing, with the completions of an engine that counts more than a timed one should."""
    rest = range(sum(map(len, workload.units)), len(workload.prompts))
    parts = [*workload.units, *([rest] if rest else [])]
    return Measured(
        [c for part in parts for c in workload.decode(engine, distribution, part)], measured.timing
    )


def autoregressive_row(measured: Measured, quality: Quality | None) -> Row:
    """The row of decoding without a draft: the baseline, one token a target call by definition."""
    tally, ones = measured.tally, [1.0, 1.0]
    timed = measured.timing is not None
    return {
        "drafter": NO_DRAFTER,
        "block_size": 0,
        **_counts(tally),
        "acceptance_tested": None,
        "acceptance_tested_ci95": None,
        "acceptance_joint": [],
        "overlap": None,
        "block_efficiency": acceptance.block_efficiency(tally),
        "block_efficiency_ci95": ones,
        "mbsu": 1.0,
        "cost_ratio": 0.0,
        "seconds": sum(measured.unit_seconds) if timed else None,
        "baseline_seconds": sum(measured.unit_seconds) if timed else None,
        "speedup": 1.0 if timed else None,
        "speedup_ci95": ones if timed else None,
        **_quality(quality),
        "timing": _timing(measured, measured),
        "per_prompt": _per_prompt(measured, quality),
    }


def drafted_row(
    label: str,
    block_size: int,
    cost_ratio: float,
    measured: Measured,
    baseline: Measured,
    quality: Quality | None,
) -> Row:
    """The row of one drafter at one block size.

    Args:
      cost_ratio: bytes of the draft's parameters over the target's.
      baseline: autoregressive decoding, timed in turns with `measured`.
    """
    tally = measured.tally
    accepted = paired.ratio(tally.accepted_N, tally.tested_N)
    tau = paired.ratio(tally.emitted_N, tally.target_calls_N)
    speed = Interval(math.nan, math.nan, math.nan)
    if measured.timing and baseline.timing:
        speed = timing.speedup(
            baseline.unit_seconds, baseline.unit_tokens, measured.unit_seconds, measured.unit_tokens
        )
    return {
        "drafter": label,
        "block_size": block_size,
        **_counts(tally),
        "acceptance_tested": number(accepted.value),
        "acceptance_tested_ci95": accepted.ends,
        "acceptance_joint": [number(x) for x in acceptance.acceptance_joint(tally)],
        "overlap": number(acceptance.overlap(tally)),
        "block_efficiency": tau.value,
        "block_efficiency_ci95": tau.ends,
        "mbsu": acceptance.memory_bound_speedup(tau.value, cost_ratio, block_size),
        "cost_ratio": cost_ratio,
        "seconds": sum(measured.unit_seconds) if measured.timing else None,
        "baseline_seconds": sum(baseline.unit_seconds) if baseline.timing else None,
        "speedup": number(speed.value),
        "speedup_ci95": speed.ends,
        **_quality(quality),
        "timing": _timing(measured, baseline),
        "per_prompt": _per_prompt(measured, quality),
    }


def number(value: float | None) -> float | None:
    """JSON has no NaN: what is undefined is null."""
    return None if value is None or not math.isfinite(value) else float(value)


def _counts(tally: Tally) -> dict[str, int]:
    return {
        "emitted_tokens": int(tally.emitted_N.sum()),
        "target_calls": int(tally.target_calls_N.sum()),
        "tested": int(tally.tested_N.sum()),
        "accepted": int(tally.accepted_N.sum()),
    }


def _quality(quality: Quality | None) -> dict[str, Any]:
    """Corpus scores by name, and which of them comparisons quote."""
    if quality is None:
        return {"quality": {}, "primary_metric": None}
    return {"quality": quality.corpus, "primary_metric": quality.primary}


def _timing(measured: Measured, baseline: Measured) -> dict[str, Any] | None:
    if measured.timing is None:
        return None
    return {
        "repeats": len(measured.timing.seconds_RU),
        "seconds": measured.unit_seconds,
        "emitted": measured.unit_tokens,
        "baseline_seconds": baseline.unit_seconds,
        "baseline_emitted": baseline.unit_tokens,
        "first_call_seconds": measured.timing.first_call_seconds,
    }


def _per_prompt(measured: Measured, quality: Quality | None) -> dict[str, list[Any]]:
    tally = measured.tally
    arrays: dict[str, list[Any]] = {
        "emitted": tally.emitted_N.tolist(),
        "target_calls": tally.target_calls_N.tolist(),
        "tested": tally.tested_N.tolist(),
        "accepted": tally.accepted_N.tolist(),
        "output_digest": [fingerprints.of_tokens(c.tokens) for c in measured.completions],
        "finish_reason": [c.finish_reason for c in measured.completions],
    }
    if tally.overlap_N is not None:
        arrays["overlap"] = tally.overlap_N.tolist()
    if quality is not None:
        arrays["score"] = quality.example_N
    return arrays
