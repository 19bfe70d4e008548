"""Decoding: sampling distributions, drafters, verifiers, and the two loops that use them.

Names are imported on first use, so that a command's help can read `rules` and `named_drafters` without
importing JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distillspec_jax.decoding.autoregressive import AutoregressiveLoop, sample
    from distillspec_jax.decoding.block_rule import BlockRule
    from distillspec_jax.decoding.candidates_rule import CandidatesRule
    from distillspec_jax.decoding.drafters import Draft, Drafter, ModelDrafter
    from distillspec_jax.decoding.engine import Completion, DecodingProgress, Engine
    from distillspec_jax.decoding.hybrid import HybridDrafter
    from distillspec_jax.decoding.lenient_rule import LenientRule
    from distillspec_jax.decoding.one_pass_drafter import OnePassDrafter
    from distillspec_jax.decoding.prompt_lookup import PromptLookup
    from distillspec_jax.decoding.sampling import SamplingDistribution, SamplingParams
    from distillspec_jax.decoding.speculative import SpeculativeLoop
    from distillspec_jax.decoding.state import Loop, PairParams, RowSettings, State, Status
    from distillspec_jax.decoding.stopping import StopOnEos, StopOnStrings, Stopping
    from distillspec_jax.decoding.verifiers import TokenRule, Verdict, Verifier

_NAMES = {
    "autoregressive": ("AutoregressiveLoop", "sample"),
    "block_rule": ("BlockRule",),
    "candidates_rule": ("CandidatesRule",),
    "drafters": ("Draft", "Drafter", "ModelDrafter"),
    "engine": ("Completion", "DecodingProgress", "Engine"),
    "hybrid": ("HybridDrafter",),
    "lenient_rule": ("LenientRule",),
    "one_pass_drafter": ("OnePassDrafter",),
    "prompt_lookup": ("PromptLookup",),
    "sampling": ("SamplingDistribution", "SamplingParams"),
    "speculative": ("SpeculativeLoop",),
    "state": ("Loop", "PairParams", "RowSettings", "State", "Status"),
    "stopping": ("StopOnEos", "StopOnStrings", "Stopping"),
    "verifiers": ("TokenRule", "Verdict", "Verifier"),
}
"""Maps a module to its public names."""
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "AutoregressiveLoop",
    "BlockRule",
    "CandidatesRule",
    "Completion",
    "Draft",
    "Drafter",
    "Engine",
    "HybridDrafter",
    "LenientRule",
    "Loop",
    "ModelDrafter",
    "OnePassDrafter",
    "PairParams",
    "DecodingProgress",
    "PromptLookup",
    "RowSettings",
    "SamplingDistribution",
    "SamplingParams",
    "SpeculativeLoop",
    "State",
    "Status",
    "StopOnEos",
    "StopOnStrings",
    "Stopping",
    "TokenRule",
    "Verdict",
    "Verifier",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
