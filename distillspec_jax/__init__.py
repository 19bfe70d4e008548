"""DistillSpec in JAX: distil a draft model so that speculative decoding accepts more of its tokens.

    import distillspec_jax as ds

    target = ds.load("zoo:wiki_leads/target")

The main functions are `load`, `generate`, `distill` and `sweep`. `trace` decodes one text round by round,
`examples` reads a task's rows, and `jsonl_task` makes a task from your own files. `read_results` reads the
results of sweeps, `interval` and `compare` compute ratios with intervals over prompts, and `report` writes a
page. They return `Pretrained`, `Generation`, `ResultRow` and `Interval`; a `UsageError` explains an invalid
call. `TextGenerator` keeps a pair ready for many calls, and `Engine` does so for token ids; `SamplingParams`
and a model's vocabulary (`tokenizer_of`) make its sampling distribution, and `rule` makes its verifier. The
packages below (`models`, `decoding`, `distillation`, `training`, `evaluation`) are for extensions. Names are
imported on first use, so that `import distillspec_jax` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distillspec_jax.version import __version__

if TYPE_CHECKING:
    from distillspec_jax.api import (
        Generation,
        Interval,
        Pretrained,
        ResultRow,
        UsageError,
        compare,
        distill,
        generate,
        interval,
        load,
        read_results,
        sweep,
    )
    from distillspec_jax.data.examples import examples
    from distillspec_jax.data.tasks import jsonl_task
    from distillspec_jax.decoding.engine import Engine
    from distillspec_jax.decoding.rules import rule
    from distillspec_jax.decoding.sampling import SamplingParams
    from distillspec_jax.generation.prompt_format import tokenizer_of
    from distillspec_jax.generation.text_generator import TextGenerator
    from distillspec_jax.generation.trace import trace
    from distillspec_jax.reports.html import report

__all__ = [
    "load",
    "generate",
    "distill",
    "sweep",
    "trace",
    "examples",
    "jsonl_task",
    "read_results",
    "interval",
    "compare",
    "report",
    "rule",
    "tokenizer_of",
    "TextGenerator",
    "Engine",
    "SamplingParams",
    "Pretrained",
    "Generation",
    "ResultRow",
    "Interval",
    "UsageError",
    "__version__",
]

_ELSEWHERE = {
    "trace": "generation.trace",
    "examples": "data.examples",
    "jsonl_task": "data.tasks",
    "report": "reports.html",
    "rule": "decoding.rules",
    "tokenizer_of": "generation.prompt_format",
    "TextGenerator": "generation.text_generator",
    "Engine": "decoding.engine",
    "SamplingParams": "decoding.sampling",
}
"""Modules of the names that are not in `api`."""


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)
    raise AttributeError(f"module 'distillspec_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
