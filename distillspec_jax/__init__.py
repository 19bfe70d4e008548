"""DistillSpec in JAX: distil a draft model so that speculative decoding accepts more of its tokens.

    import distillspec_jax as ds

    target = ds.load("zoo:wiki_leads/target")

The verbs are `load`, `generate`, `distill` and `sweep`; `trace` decodes one text round by round, `examples`
reads a task's rows. `Pretrained`, `Generation` and `ResultRow` are what they return; `UsageError` says what
is wrong with a call. `TextGenerator` keeps a pair ready for many calls, and `Engine` does so for token ids: a
distribution is made by `SamplingParams` and the vocabulary of a model (`tokenizer_of`). The packages below
(`models`, `decoding`, `distillation`, `training`, `evaluation`) are for those who extend it. Names are
imported on first use, so that `import distillspec_jax` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distillspec_jax.version import __version__

if TYPE_CHECKING:
    from distillspec_jax.api import (
        Generation,
        Pretrained,
        ResultRow,
        UsageError,
        distill,
        generate,
        load,
        sweep,
    )
    from distillspec_jax.data.examples import examples
    from distillspec_jax.decoding.engine import Engine
    from distillspec_jax.decoding.sampling import SamplingParams
    from distillspec_jax.generation.prompt_format import tokenizer_of
    from distillspec_jax.generation.text_generator import TextGenerator
    from distillspec_jax.generation.trace import trace

__all__ = [
    "load",
    "generate",
    "distill",
    "sweep",
    "trace",
    "examples",
    "tokenizer_of",
    "TextGenerator",
    "Engine",
    "SamplingParams",
    "Pretrained",
    "Generation",
    "ResultRow",
    "UsageError",
    "__version__",
]

_ELSEWHERE = {
    "trace": "generation.trace",
    "examples": "data.examples",
    "tokenizer_of": "generation.prompt_format",
    "TextGenerator": "generation.text_generator",
    "Engine": "decoding.engine",
    "SamplingParams": "decoding.sampling",
}
"""Modules of the names that are not `api`'s."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)
    raise AttributeError(f"module 'distillspec_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
