"""SGLang: `meta_info` of answers, `sglext.spec_tokens_details` of OpenAI's form, and two counters.

Read in SGLang 0.5: io_struct.py, entrypoints/openai/utils.py (`return_spec_tokens_details`) and
metrics/collector.py. Reading the prompt yields a text's first token, so that the rounds emitted one fewer.
The counters tell rounds and tokens of finished requests, and no drafts: block efficiency alone.
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
    of_counters,
    of_histogram,
    whole,
)


@dataclasses.dataclass(frozen=True)
class _Info:
    """The fields of `meta_info` and `spec_tokens_details` that are read."""

    spec_verify_ct: schema.Count
    spec_num_correct_drafts: schema.Count
    spec_num_proposed_drafts: schema.Count | None = None
    spec_correct_drafts_histogram: list[schema.Count] | None = None
    completion_tokens: schema.Count | None = None


def _infos(line: Mapping[str, Any]) -> Iterator[Any]:
    """Yields what may be such an object: the answer's, or that of each choice."""
    extension = line.get("sglext")
    if isinstance(extension, Mapping) and "spec_tokens_details" in extension:
        yield extension["spec_tokens_details"]
    elif "meta_info" in line:
        yield line["meta_info"]
    else:
        choices = line.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, Mapping) and "meta_info" in choice:
                yield choice["meta_info"]


def _recognises(line: Mapping[str, Any]) -> bool:
    return any(isinstance(info, Mapping) for info in _infos(line))


def _answer(line: Mapping[str, Any], place: str, block_size: int | None) -> Answer | None:
    found = []
    for info in _infos(line):
        if isinstance(info, Mapping) and "spec_verify_ct" in info and "spec_num_correct_drafts" in info:
            found.append(_one(info, place, block_size).record)
    return Answer(PartialRecord.total(found), block_size) if found else None


def _one(info: Mapping[str, Any], place: str, block_size: int | None) -> Answer:
    told = schema.read(_Info, info, place, "SGLang's meta_info")
    tokens = told.completion_tokens
    return of_histogram(
        place,
        told.spec_correct_drafts_histogram,
        rounds=told.spec_verify_ct,
        drafted=told.spec_num_proposed_drafts,
        accepted=told.spec_num_correct_drafts,
        block_size=block_size,
        emitted_tokens=tokens - 1 if tokens else None,
    )


def _interval(deltas: Deltas, block_size: int | None) -> Answer:
    tokens, texts = whole(deltas, "tokens"), whole(deltas, "texts")
    emitted = None if tokens is None or texts is None else max(tokens - texts, 0)
    return of_counters(deltas, block_size=block_size, emitted_tokens=emitted)


ENGINE = Engine(
    "SGLang",
    _recognises,
    _answer,
    Counters(
        {
            "target_calls": "sglang:spec_verify_calls",
            "tokens": "sglang:generation_tokens",
            "texts": "sglang:num_requests",
        },
        "position",
        _interval,
    ),
)
