"""The engines that `watch` reads, and which of them an answer is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.engines import distillspec, llama_cpp, sglang, tensorrt_llm, vllm
from distillspec_jax.evaluation.engines.engine import Engine

ENGINES: tuple[Engine, ...] = (
    distillspec.ENGINE,
    vllm.ENGINE,
    tensorrt_llm.ENGINE,
    sglang.ENGINE,
    llama_cpp.ENGINE,
)

RESPONSE = "response"
"""A field that an answer may be wrapped in, beside fields of whoever logged it."""


def body(line: Mapping[str, Any]) -> Mapping[str, Any]:
    """Unwraps an answer."""
    inner = line.get(RESPONSE)
    return inner if isinstance(inner, Mapping) else line


def engine_of(line: Mapping[str, Any], place: str) -> Engine:
    """Finds whose answer an object is.

    Raises:
      UsageError: nobody's; by place, with the engines that are known.
    """
    found = next((engine for engine in ENGINES if engine.recognises(body(line))), None)
    if found is None:
        names = ", ".join(engine.name for engine in ENGINES)
        raise UsageError(f"{place}: no line of generate, and no answer with counts of {names}")
    return found
