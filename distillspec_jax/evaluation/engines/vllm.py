"""vLLM: `metrics.speculative_decoding` of answers, and the counters `vllm:spec_decode_…`.

Read in vLLM 0.32: docs/features/speculative_decoding/acceptance_metrics.md (answers; the server needs
`--per-request-spec-decode-metrics`) and vllm/v1/spec_decode/metrics.py (counters).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from distillspec_jax import schema
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.engines.engine import (
    Answer,
    Counters,
    Deltas,
    Engine,
    by_position,
    of_counters,
    of_histogram,
)


@dataclasses.dataclass(frozen=True)
class _Metrics:
    """The fields of `metrics.speculative_decoding` that are read."""

    acceptance_histogram: list[schema.Count]
    num_spec_steps: schema.Count
    num_accepted_draft_tokens: schema.Count
    num_draft_tokens: schema.Count
    num_spec_tokens: schema.Count
    acceptance_histogram_by_draft_length: dict[str, list[schema.Count]] | None = None
    per_step_accepted: list[schema.Count] | None = None
    per_step_drafted: list[schema.Count] | None = None


def _recognises(line: Mapping[str, Any]) -> bool:
    metrics = line.get("metrics")
    return isinstance(metrics, Mapping) and "speculative_decoding" in metrics


def _answer(line: Mapping[str, Any], place: str, block_size: int | None) -> Answer | None:
    """Makes an answer's counts; tokens are left out, since steps without drafts emit some, too."""
    found = line["metrics"]["speculative_decoding"]
    if found is None:
        return None
    told = schema.read(_Metrics, found, place, "vLLM's metrics.speculative_decoding")
    return of_histogram(
        place,
        told.acceptance_histogram,
        rounds=told.num_spec_steps,
        drafted=told.num_draft_tokens,
        accepted=told.num_accepted_draft_tokens,
        block_size=told.num_spec_tokens or block_size,
        tested_at=_tested_at(told, place),
    )


def _tested_at(told: _Metrics, place: str) -> list[int] | None:
    """Counts what was tested where drafts of each step are told: of k drafts j accepted, min(j + 1, k)."""
    field, steps = _steps(told, place)
    found = [0] * told.num_spec_tokens
    if not steps:
        return None if told.num_spec_steps else found  # a text of one token has no step
    for (drafted, accepted), count in steps.items():
        if not accepted <= drafted <= told.num_spec_tokens:
            raise UsageError(f"{place}: {field} has a step of {drafted:,} drafts, {accepted:,} accepted")
        for i in range(min(accepted + 1, drafted)):
            found[i] += count
    sums = [
        sum(each * count for each, count in zip(values, steps.values(), strict=True))
        for values in ([1] * len(steps), [j for _, j in steps], [k for k, _ in steps])
    ]
    if sums != [told.num_spec_steps, told.num_accepted_draft_tokens, told.num_draft_tokens]:
        raise UsageError(f"{place}: {field} has other counts than its sums")
    return found


def _steps(told: _Metrics, place: str) -> tuple[str, Counter[tuple[int, int]]]:
    """Counts the steps by drafts and accepted drafts; names the field that tells them."""
    if told.per_step_accepted is not None and told.per_step_drafted is not None:  # level `detailed`
        if len(told.per_step_accepted) != len(told.per_step_drafted):
            raise UsageError(f"{place}: per_step_accepted and per_step_drafted have different lengths")
        return "per_step_accepted", Counter(zip(told.per_step_drafted, told.per_step_accepted, strict=True))
    found: Counter[tuple[int, int]] = Counter()
    for text, histogram in (told.acceptance_histogram_by_draft_length or {}).items():
        length = int(text) if text.isdecimal() else -1
        if not 0 <= length <= told.num_spec_tokens or len(histogram) > length + 1:
            raise UsageError(f"{place}: acceptance_histogram_by_draft_length has an entry {text[:20]!r}")
        found.update({(length, j): count for j, count in enumerate(histogram) if count})
    return "acceptance_histogram_by_draft_length", found


def _interval(deltas: Deltas, block_size: int | None) -> Answer:
    """Makes an interval's counts: there is a series for every position up to num_speculative_tokens."""
    accepted_at = by_position(deltas, "accepted_at")
    return of_counters(deltas, block_size=len(accepted_at) if accepted_at else block_size)


ENGINE = Engine(
    "vLLM",
    _recognises,
    _answer,
    Counters(
        {
            "target_calls": "vllm:spec_decode_num_drafts",
            "drafted": "vllm:spec_decode_num_draft_tokens",
            "accepted": "vllm:spec_decode_num_accepted_tokens",
            "accepted_at": "vllm:spec_decode_num_accepted_tokens_per_pos",
            "texts": "vllm:request_success",
        },
        "position",
        _interval,
    ),
)
