"""DistillSpec in JAX: distil a draft model so that speculative decoding accepts more of its tokens.

    import distillspec_jax as ds

    target = ds.load("zoo:wiki_leads/target")

`load`, `generate`, `distill` and `sweep` are the whole surface for a user, with the types that they return,
`Pretrained`, `Generation` and `ResultRow`, and `UsageError`, which says what is wrong with a call. The
packages below (`models`, `decoding`, `distillation`, `training`, `evaluation`) are for those who extend it.
Names are imported on first use, so that `import distillspec_jax` costs nothing.
"""

from __future__ import annotations

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

__all__ = [
    "load",
    "generate",
    "distill",
    "sweep",
    "Pretrained",
    "Generation",
    "ResultRow",
    "UsageError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from distillspec_jax import api

        return getattr(api, name)
    raise AttributeError(f"module 'distillspec_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
