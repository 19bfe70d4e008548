"""TensorRT-LLM: `speculative_decoding` of choices and of performance records, and counters by position.

Read in TensorRT-LLM 1.x (late 2026): tensorrt_llm/metrics/collector.py (counters), the performance records
that the server writes with `perf_metrics_output_dir`, and pull request 19311 (choices, which also have a
histogram; open when it was read). Every round with drafts has one at position 0, so that this counter counts
rounds; where all positions were offered equally often, the block size was fixed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from distillspec_jax import schema
from distillspec_jax.acceptance import PartialRecord
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
class _Speculative:
    """The fields of `speculative_decoding` that are read; performance records have the first two alone."""

    total_accepted_draft_tokens: schema.Count
    total_draft_tokens: schema.Count
    num_spec_steps: schema.Count | None = None
    acceptance_histogram: list[schema.Count] | None = None
    num_spec_tokens: schema.Count | None = None


_NAME = "speculative_decoding"


def _holders(line: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yields the objects that have `speculative_decoding`, or might have it."""
    choices = line.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping) and _NAME in choice:
            yield choice
    worker = line.get("gen_perf_metrics", line)
    if isinstance(worker, Mapping) and isinstance(worker.get("perf_metrics"), Mapping):
        yield worker["perf_metrics"]


def _recognises(line: Mapping[str, Any]) -> bool:
    return any(True for _ in _holders(line))


def _answer(line: Mapping[str, Any], place: str, block_size: int | None) -> Answer | None:
    found = [_one(holder[_NAME], place, block_size) for holder in _holders(line) if holder.get(_NAME)]
    if not found:
        return None
    return Answer(PartialRecord.total(one.record for one in found), found[0].block_size)


def _one(found: Any, place: str, block_size: int | None) -> Answer:
    told = schema.read(_Speculative, found, place, "TensorRT-LLM's speculative_decoding")
    return of_histogram(
        place,
        told.acceptance_histogram,
        rounds=told.num_spec_steps,
        drafted=told.total_draft_tokens,
        accepted=told.total_accepted_draft_tokens,
        block_size=told.num_spec_tokens or block_size,
    )


def _interval(deltas: Deltas, block_size: int | None) -> Answer:
    drafted_at, accepted_at = by_position(deltas, "drafted_at"), by_position(deltas, "accepted_at")
    if drafted_at is None:
        return of_counters(deltas, block_size=block_size)
    fixed = len(drafted_at) if len(set(drafted_at)) == 1 and drafted_at[0] else block_size
    sums: dict[str, int | Mapping[int, int]] = {
        "target_calls": drafted_at[0],
        "drafted": sum(drafted_at),
        "accepted": sum(accepted_at or ()),
        "accepted_at": dict(enumerate(accepted_at or ())) or {0: 0},
    }
    return of_counters({**deltas, **sums}, block_size=fixed)


ENGINE = Engine(
    "TensorRT-LLM",
    _recognises,
    _answer,
    Counters(
        {
            "drafted_at": "trtllm_spec_decode_drafted_tokens",
            "accepted_at": "trtllm_spec_decode_accepted_tokens",
            "texts": "trtllm_request_success",
        },
        "token_position",
        _interval,
    ),
)
