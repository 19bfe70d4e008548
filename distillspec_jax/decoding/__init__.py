"""Decoding: sampling distributions, drafters, verifiers, and the two loops that use them."""

from distillspec_jax.decoding.autoregressive import AutoregressiveLoop, sample
from distillspec_jax.decoding.block_rule import BlockRule
from distillspec_jax.decoding.candidates_rule import CandidatesRule
from distillspec_jax.decoding.drafters import Draft, Drafter, ModelDrafter
from distillspec_jax.decoding.engine import Completion, DecodingProgress, Engine
from distillspec_jax.decoding.hybrid import HybridDrafter
from distillspec_jax.decoding.lenient_rule import LenientRule
from distillspec_jax.decoding.prompt_lookup import PromptLookup
from distillspec_jax.decoding.sampling import SamplingDistribution, SamplingParams
from distillspec_jax.decoding.speculative import SpeculativeLoop
from distillspec_jax.decoding.state import Loop, PairParams, RowSettings, State, Status
from distillspec_jax.decoding.stopping import StopOnEos, StopOnStrings, Stopping
from distillspec_jax.decoding.verifiers import TokenRule, Verdict, Verifier

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
