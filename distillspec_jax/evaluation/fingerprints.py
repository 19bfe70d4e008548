"""Short names for long contents, so that a resumed sweep knows what it has already measured."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from distillspec_jax.models.fingerprints import of_json, of_params

__all__ = ["of_json", "of_params", "of_tokens"]


def of_tokens(tokens: Sequence[int]) -> str:
    """Hex digest of one output: equal digests, equal outputs."""
    return hashlib.sha256(np.asarray(tokens, np.int32).tobytes()).hexdigest()[:12]
