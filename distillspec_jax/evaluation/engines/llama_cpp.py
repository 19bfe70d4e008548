"""llama.cpp's server: `timings` of answers, and the counters `llamacpp:spec_decode_…`.

Read in tools/server/README.md of llama.cpp, late 2026 (counters: pull request 26389; `--metrics`), and seen
at 0c1e57098. Rounds of an answer are told by newer builds alone (`draft_n_verif_steps`), and are not
reckoned from its tokens. A round offers as many drafts as the draft is sure of, fewer before the limit of
tokens, and the counters do not say how many at most: drafts that were tested are known only where the user
vouches for a block size and all rounds were full.

Counters are written with six digits (server-task.cpp, `to_metrics`, prints a double), those by position
whole: from a million on, accepted drafts are the sum over positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distillspec_jax import schema
from distillspec_jax.evaluation.engines.engine import (
    ROUNDINGS,
    Answer,
    Counters,
    Deltas,
    Engine,
    by_position,
    of_counters,
    of_histogram,
    whole,
)


@dataclasses.dataclass(frozen=True)
class _Timings:
    """The fields of `timings` that are read."""

    draft_n: schema.Count
    draft_n_accepted: schema.Count
    draft_n_verif_steps: schema.Count | None = None


def _recognises(line: Mapping[str, Any]) -> bool:
    timings = line.get("timings")
    return isinstance(timings, Mapping) and "predicted_n" in timings


def _answer(line: Mapping[str, Any], place: str, block_size: int | None) -> Answer | None:
    if "draft_n" not in line["timings"]:
        return None
    told = schema.read(_Timings, line["timings"], place, "llama.cpp's timings")
    return of_histogram(
        place,
        None,
        rounds=told.draft_n_verif_steps,
        drafted=told.draft_n,
        accepted=told.draft_n_accepted,
        block_size=block_size,
    )


def _interval(deltas: Deltas, block_size: int | None) -> Answer:
    drafted, accepted = (whole(deltas, name) or 0 for name in ("drafted", "accepted"))
    at = by_position(deltas, "accepted_at")
    if at is not None and abs(sum(at) - accepted) * ROUNDINGS <= drafted:  # as far as rounding explains
        deltas = {**deltas, "accepted": sum(at)}
    return of_counters(deltas, block_size=block_size)


ENGINE = Engine(
    "llama.cpp",
    _recognises,
    _answer,
    Counters(
        {
            "target_calls": "llamacpp:spec_decode_num_drafts",
            "drafted": "llamacpp:spec_decode_num_draft_tokens",
            "accepted": "llamacpp:spec_decode_num_accepted_tokens",
            "accepted_at": "llamacpp:spec_decode_num_accepted_tokens_per_pos",
        },
        "position",
        _interval,
        digits=6,
    ),
)
