"""Rows made of what was counted and timed: the only place where numbers become a `ResultRow`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distillspec_jax.evaluation import acceptance, paired, timing
from distillspec_jax.evaluation.measured import Measured
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.prompts import Quality
from distillspec_jax.evaluation.result_row import NO_DRAFTER, PerPrompt, ResultRow, Timed
from distillspec_jax.models import fingerprints

_CERTAIN = Interval(1.0, 1.0, 1.0)
_UNKNOWN = Interval(math.nan, math.nan, math.nan)


def autoregressive_row(
    measured: Measured, quality: Quality | None, conditions: Mapping[str, Any]
) -> ResultRow:
    """Makes the row of decoding without a draft: the baseline, one token a target call by definition.

    Args:
      conditions: the fields of a row that are not measured.
    """
    speed = _CERTAIN if measured.timing else _UNKNOWN
    return _row(
        measured,
        measured,
        quality,
        (_UNKNOWN, _CERTAIN, speed),
        {**conditions, "drafter": NO_DRAFTER, "block_size": 0, "cost_ratio": 0.0},
    )


def drafted_row(
    label: str,
    block_size: int,
    cost_ratio: float,
    measured: Measured,
    baseline: Measured,
    quality: Quality | None,
    conditions: Mapping[str, Any],
) -> ResultRow:
    """Makes the row of one drafter at one block size.

    Args:
      cost_ratio: bytes of the draft's parameters over the target's.
      baseline: autoregressive decoding, timed in turns with `measured`.
      conditions: the other fields of a row that are not measured.
    """
    tally = measured.tally
    accepted = paired.ratio(tally.accepted_N, tally.tested_N)
    tau = paired.ratio(tally.emitted_N, tally.target_calls_N)
    speed = _UNKNOWN
    if measured.timing and baseline.timing:
        speed = timing.speedup(
            baseline.unit_seconds, baseline.unit_tokens, measured.unit_seconds, measured.unit_tokens
        )
    own = {"drafter": label, "block_size": block_size, "cost_ratio": cost_ratio}
    return _row(measured, baseline, quality, (accepted, tau, speed), {**conditions, **own})


def _row(
    measured: Measured,
    baseline: Measured,
    quality: Quality | None,
    intervals: tuple[Interval, Interval, Interval],
    conditions: Mapping[str, Any],
) -> ResultRow:
    tally = measured.tally
    accepted, tau, speed = intervals
    return ResultRow(
        **conditions,
        emitted_tokens=int(tally.emitted_N.sum()),
        target_calls=int(tally.target_calls_N.sum()),
        tested=int(tally.tested_N.sum()),
        accepted=int(tally.accepted_N.sum()),
        acceptance_tested=number(accepted.value),
        acceptance_tested_ci95=accepted.ends,
        acceptance_joint=[number(x) for x in acceptance.acceptance_joint(tally)],
        overlap=number(acceptance.overlap(tally)),
        block_efficiency=tau.value,
        block_efficiency_ci95=tau.ends,
        mbsu=acceptance.memory_bound_speedup(tau.value, conditions["cost_ratio"], conditions["block_size"]),
        seconds=sum(measured.unit_seconds) if measured.timing else None,
        baseline_seconds=sum(baseline.unit_seconds) if baseline.timing else None,
        speedup=number(speed.value),
        speedup_ci95=speed.ends,
        quality={} if quality is None else quality.corpus,
        primary_metric=None if quality is None else quality.primary,
        timing=_timed(measured, baseline),
        per_prompt=_per_prompt(measured, quality),
    )


def number(value: float | None) -> float | None:
    """Replaces what is undefined by None, since JSON has no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)


def _timed(measured: Measured, baseline: Measured) -> Timed | None:
    if measured.timing is None:
        return None
    return Timed(
        repeats=len(measured.timing.seconds_RU),
        seconds=measured.unit_seconds,
        emitted=measured.unit_tokens,
        baseline_seconds=baseline.unit_seconds,
        baseline_emitted=baseline.unit_tokens,
        first_call_seconds=measured.timing.first_call_seconds,
    )


def _per_prompt(measured: Measured, quality: Quality | None) -> PerPrompt:
    tally = measured.tally
    return PerPrompt(
        emitted=tally.emitted_N.tolist(),
        target_calls=tally.target_calls_N.tolist(),
        tested=tally.tested_N.tolist(),
        accepted=tally.accepted_N.tolist(),
        output_digest=[fingerprints.of_tokens(c.tokens) for c in measured.completions],
        finish_reason=[c.finish_reason for c in measured.completions],
        overlap=None if tally.overlap_N is None else tally.overlap_N.tolist(),
        score=None if quality is None else quality.example_N,
    )
