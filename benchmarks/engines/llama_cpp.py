"""`python -m benchmarks.engines.llama_cpp --target=DIR --draft=DIR`: llama.cpp's server with a pair of ours.

    python -m benchmarks.engines.llama_cpp --server=…/llama-server --target=runs/smollm2 --draft=runs/draft

The pair is converted and the server started by the lines that `distillspec deploy` prints. Its answers'
sums stand beside its counters, and what it accepts beside what we accept. llama.cpp's source is in PyPI's
llama-cpp-python (vendor/llama.cpp); `cmake --build build --target llama-server` makes the server.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.engines import comparison
from benchmarks.engines.recording import Serving
from distillspec_jax.cli import errors

_LEFT_OUT = ("generation_settings", "prompt", "tokens", "logprobs")
_QUESTION = "Which rivers flow through Vienna?"


def _body(prompt: Sequence[int], limit: int) -> dict[str, Any]:
    return {"prompt": list(prompt), "n_predict": limit, "temperature": 0.0, "return_tokens": True}


def _tokens(answer: Mapping[str, Any]) -> list[int]:
    return list(answer["tokens"])


def _trimmed(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name not in _LEFT_OUT}


SERVING = Serving(
    engine="llama.cpp",
    flags=("--metrics",),
    version=("/props", "build_info"),
    route="/completion",
    body=_body,
    tokens=_tokens,
    others=(
        ("/v1/completions", {"prompt": _QUESTION, "max_tokens": 24, "temperature": 0}),
        (
            "/v1/chat/completions",
            {
                "messages": [{"role": "user", "content": _QUESTION}],
                "max_tokens": 24,
                "temperature": 0.8,
                "seed": 1,
            },
        ),
        ("/completion", {"prompt": _QUESTION, "n_predict": 1}),  # one token: nothing is drafted
    ),
    trimmed=_trimmed,
    room=True,
)


def main(argv: list[str]) -> int:
    """Runs the command."""
    return comparison.main(SERVING, argv, str(__doc__), "llama-server", "benchmarks.engines.llama_cpp")


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.engines.llama_cpp"))
