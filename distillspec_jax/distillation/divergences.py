"""Divergences between the target's law P and the draft's law Q, token by token.

Each is a pure function of raw logits over the whole vocabulary at temperature 1; the gradient reaches
the draft alone. Reductions are the caller's (`loss.py`).

References:
  DistillSpec, arXiv 2310.08461, section 3 and appendix A.1.
  GKD, arXiv 2306.13649 (the same JSD with beta on the target's side).
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array


class Divergence(Protocol):
    """A frozen value: `(target_logits, draft_logits, mask) -> per-token loss`."""

    def __call__(self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array) -> Array:
        """float32 `[B, T]`, nats (TVD: a probability); exactly 0, with zero gradient, where the mask is 0.

        Infinite only where the formula is: a KL whose second law gives no mass (a logit of -inf) to what the
        first one may say.
        """


def _log_laws(target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array) -> tuple[Array, Array]:
    """log P and log Q, float32; both uniform where the mask is 0: nothing there reaches a gradient."""
    real_BT1 = mask_BT[..., None] > 0
    target = jnp.where(real_BT1, jax.lax.stop_gradient(target_logits_BTV), 0.0)
    draft = jnp.where(real_BT1, draft_logits_BTV, 0.0)
    return jax.nn.log_softmax(target.astype(jnp.float32)), jax.nn.log_softmax(draft.astype(jnp.float32))


def _kl(log_a: Array, log_b: Array) -> Array:
    """KL(A || B) over the last axis; a term with A = 0 is 0, whatever B is there."""
    a = jnp.exp(log_a)
    # The ratio and not the product is selected: -inf - -inf must meet no factor, not even a cotangent's 0.
    return jnp.sum(a * jnp.where(a > 0, log_a - log_b, 0.0), axis=-1)


def _masked(loss_BT: Array, mask_BT: Array) -> Array:
    return jnp.where(mask_BT > 0, loss_BT, 0.0)


@dataclasses.dataclass(frozen=True)
class ForwardKL:
    """KL(P || Q): the draft covers whatever the target may say."""

    def __call__(self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array) -> Array:
        log_p, log_q = _log_laws(target_logits_BTV, draft_logits_BTV, mask_BT)
        return _masked(_kl(log_p, log_q), mask_BT)


@dataclasses.dataclass(frozen=True)
class ReverseKL:
    """KL(Q || P): the draft keeps to what the target is sure of."""

    def __call__(self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array) -> Array:
        log_p, log_q = _log_laws(target_logits_BTV, draft_logits_BTV, mask_BT)
        return _masked(_kl(log_q, log_p), mask_BT)


@dataclasses.dataclass(frozen=True)
class JensenShannon:
    """beta KL(P || M) + (1 - beta) KL(Q || M) with M = beta P + (1 - beta) Q; raw, not divided by beta.

    Attributes:
      beta: in (0, 1), the target's weight on both sides; 1/2 is the symmetric JSD.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        if self.beta in (0, 1):
            limit = "ForwardKL (FKL)" if self.beta == 0 else "ReverseKL (RKL)"
            raise UsageError(
                f"JensenShannon.beta={self.beta}: the divergence is 0 there; "
                f"use {limit}, its limit after division"
            )
        if not 0 < self.beta < 1:
            raise UsageError(f"JensenShannon.beta={self.beta} must lie in (0, 1)")

    def __call__(self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array) -> Array:
        log_p, log_q = _log_laws(target_logits_BTV, draft_logits_BTV, mask_BT)
        m = self.beta * jnp.exp(log_p) + (1 - self.beta) * jnp.exp(log_q)
        log_m = jnp.log(jnp.where(m > 0, m, 1.0))  # where M = 0, so are P and Q
        return _masked(self.beta * _kl(log_p, log_m) + (1 - self.beta) * _kl(log_q, log_m), mask_BT)


@dataclasses.dataclass(frozen=True)
class TotalVariation:
    """1/2 sum |P - Q|: one minus the probability that a drafted token is accepted (Corollary 3.6 of
    arXiv 2211.17192)."""

    def __call__(self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array) -> Array:
        log_p, log_q = _log_laws(target_logits_BTV, draft_logits_BTV, mask_BT)
        return _masked(0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1), mask_BT)


NAMES: dict[str, type] = {
    "fkl": ForwardKL,
    "rkl": ReverseKL,
    "jsd": JensenShannon,
    "tvd": TotalVariation,
}
"""Short names, for the Python interface; gin files name the classes."""
