"""The paper's lenient acceptance, which deviates from the target's distribution to accept more drafts."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from distillspec_jax.decoding.verifiers import Verdict, acceptance, log_at, one_candidate, verify_by_ratio
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.shapes import Array

LENIENCES = ("linear", "square", "exponential")
_LEAST_EPSILON = 1e-30
"""Smaller numbers are zero or nearly zero in single precision."""


@dataclasses.dataclass(frozen=True)
class LenientRule:
    """A token rule that accepts y with min(1, f(p(y), epsilon) / q(y)) (arXiv 2310.08461, section 4.3).

    The residual distribution remains norm(max(0, p - q)), so the output no longer follows the target's
    distribution; at epsilon 1 it equals the token rule bit for bit. On a one-hot distribution (temperature
    0, top-k 1), leniency would have no effect. There, y is kept if it is the argmax or if f(p1(y), epsilon)
    >= max p1, where p1 is the softmax of the target's raw logits, and a rejection emits the argmax. This
    decision is deterministic.

    Attributes:
      function: `linear` p / epsilon, `square` p / epsilon^2, `exponential` p^epsilon.
      epsilon: in (0, 1]; smaller is more lenient.

    Raises:
      UsageError: the function is unknown, or epsilon is outside (0, 1] or nearly zero.
    """

    function: str = "exponential"
    epsilon: float = 1.0
    depends_on_whole_block = False

    def __post_init__(self) -> None:
        if self.function not in LENIENCES:
            raise UsageError(f"unknown leniency {self.function!r}: {nearest(self.function, LENIENCES)}")
        if not 0 < self.epsilon <= 1:
            raise UsageError(f"epsilon is {self.epsilon}, must be in (0, 1]; 1 is lossless")
        if self.epsilon < _LEAST_EPSILON:
            raise UsageError(f"epsilon is {self.epsilon}, must be at least {_LEAST_EPSILON}")

    def lenient(self, log_p: Array) -> Array:
        """Computes log f(p, epsilon)."""
        if self.function == "exponential":
            return self.epsilon * log_p
        return log_p - (1 if self.function == "linear" else 2) * math.log(self.epsilon)

    def __call__(
        self,
        keys_B: Array,
        tokens_BNG: Array,
        log_q_BNGV: Array,
        log_p_BNKV: Array,
        length_BN: Array,
        *,
        logits_BNKV: Array | None = None,
    ) -> Verdict:
        """See `Verifier`."""
        tokens_BG, log_q_BGV, log_p_BKV, length_B = one_candidate(
            self, tokens_BNG, log_q_BNGV, log_p_BNKV, length_BN
        )
        log_p_BG = log_at(log_p_BKV[:, :-1], tokens_BG)
        ratio_BG = acceptance(self.lenient(log_p_BG), log_at(log_q_BGV, tokens_BG))
        if self.epsilon < 1:
            if logits_BNKV is None:
                raise UsageError("LenientRule needs the target's raw logits")
            one_hot_BG = jnp.sum(log_p_BKV[:, :-1] > -jnp.inf, axis=-1) == 1
            kept_BG = (log_p_BG == 0.0) | self._near(logits_BNKV[:, 0, :-1, : log_p_BKV.shape[-1]], tokens_BG)
            ratio_BG = jnp.where(one_hot_BG, kept_BG.astype(jnp.float32), ratio_BG)
        return verify_by_ratio(keys_B, ratio_BG, log_q_BGV, log_p_BKV, length_B)

    def _near(self, logits_BGV: Array, tokens_BG: Array) -> Array:
        """Tests f(p1(y), epsilon) >= max p1, where p1 is the softmax of the logits."""
        log_p1_BGV = jax.nn.log_softmax(logits_BGV.astype(jnp.float32))
        return self.lenient(log_at(log_p1_BGV, tokens_BG)) >= jnp.max(log_p1_BGV, axis=-1)
