"""Makes rows from counts and timings: the only place where numbers become a `ResultRow`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillspec_jax.acceptance import Record, memory_bound_speedup
from distillspec_jax.evaluation import paired, timing
from distillspec_jax.evaluation.measured import Measured
from distillspec_jax.evaluation.paired import UNKNOWN, Interval, number
from distillspec_jax.evaluation.prompts import Quality
from distillspec_jax.evaluation.result_row import NO_DRAFTER, PerPrompt, ResultRow, Timed
from distillspec_jax.models import fingerprints

_CERTAIN = Interval(1.0, 1.0, 1.0)


def autoregressive_row(
    measured: Measured, quality: Quality | None, conditions: Mapping[str, Any]
) -> ResultRow:
    """Makes the row of the baseline, decoding without a draft: one token per target call by definition.

    Args:
      conditions: the fields of a row that are not measured.
    """
    speed = _CERTAIN if measured.timing else UNKNOWN
    return _row(
        measured,
        measured,
        quality,
        (UNKNOWN, _CERTAIN, speed),
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
      cost_ratio: see `Pretrained.cost_ratio`.
      baseline: autoregressive decoding, timed alternately with `measured`.
      conditions: the other fields of a row that are not measured.
    """
    accepted, tau = (
        paired.of_records(measured.records, ratio, clusters=measured.clusters)
        for ratio in ("acceptance_tested", "block_efficiency")
    )
    speed = UNKNOWN
    if measured.timing and baseline.timing:
        speed = timing.speedup(
            baseline.unit_seconds,
            baseline.unit_tokens,
            measured.unit_seconds,
            measured.unit_tokens,
            measured.unit_clusters,
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
    record = Record.total(measured.records)
    accepted, tau, speed = intervals
    positions = bool(record.accepted_at)
    return ResultRow(
        **conditions,
        emitted_tokens=record.emitted_tokens,
        target_calls=record.target_calls,
        tested=record.tested,
        accepted=record.accepted,
        drafted=record.drafted if positions else None,
        tested_at=list(record.tested_at or ()) if positions else None,
        accepted_at=list(record.accepted_at or ()) if positions else None,
        acceptance_tested=number(accepted.value),
        acceptance_tested_ci95=accepted.ends,
        acceptance_joint=[number(x) for x in record.acceptance_joint or ()],
        overlap=number(record.value("overlap")),
        block_efficiency=tau.value,
        block_efficiency_ci95=tau.ends,
        mbsu=memory_bound_speedup(tau.value, conditions["cost_ratio"], conditions["block_size"]),
        seconds=sum(measured.unit_seconds) if measured.timing else None,
        baseline_seconds=sum(baseline.unit_seconds) if baseline.timing else None,
        speedup=number(speed.value),
        speedup_ci95=speed.ends,
        quality={} if quality is None else quality.corpus,
        primary_metric=None if quality is None else quality.primary,
        timing=_timed(measured, baseline),
        per_prompt=_per_prompt(measured, quality),
    )


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
    records = measured.records
    return PerPrompt(
        emitted=[record.emitted_tokens for record in records],
        target_calls=[record.target_calls for record in records],
        tested=[record.tested for record in records],
        accepted=[record.accepted for record in records],
        output_digest=[fingerprints.of_tokens(c.tokens) for c in measured.completions],
        finish_reason=[c.finish_reason for c in measured.completions],
        overlap=_column(records, "overlap"),
        drafted=_column(records, "drafted") if any(record.accepted_at for record in records) else None,
        score=None if quality is None else quality.example_N,
        cluster=measured.clusters,
    )


def _column(records: Sequence[Record], name: str) -> list[Any] | None:
    """Lists a count of every prompt; None if it is unknown for any."""
    column = [getattr(record, name) for record in records]
    return None if any(count is None for count in column) else column
