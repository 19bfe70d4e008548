"""Verification: which drafted tokens to keep, and the one token that the target adds.

A verifier is a pure function of keys, tokens and laws; it knows neither models nor caches.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Protocol

import jax.numpy as jnp

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array


class Verdict(NamedTuple):
    """What a round commits: `tokens[branch, :accepted]`, then `next_token`; each int32 `[B]`."""

    branch_B: Array
    accepted_B: Array
    next_token_B: Array


class Verifier(Protocol):
    """A frozen, hashable rule: a static part of the speculative loop."""

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
        """Verifies N candidate blocks a row.

        Args:
          keys_B: the round's keys (`randomness.round_keys`); single draws are derived from them.
          tokens_BNG: int32 drafts.
          log_q_BNGV: the laws that they were drawn from.
          log_p_BNKV: K = G + 1 laws of the target: position i follows `tokens[..., :i]`.
          length_BN: int32 in 0..G, how many drafts of each block count. The rest is garbage.
          logits_BNKV: the target's raw logits, for rules that are not functions of the laws alone.

        Returns:
          A verdict with `accepted_B <= length_BN[branch]`; the bonus token's law is p at that length.
        """


@dataclasses.dataclass(frozen=True)
class TokenRule:
    """Speculative sampling, one candidate: lossless token by token (Leviathan et al., arXiv 2211.17192).

    Accept y with probability min(1, p(y) / q(y)), left to right; at the first rejection draw from
    norm(max(0, p - q)), after the last accepted draft from p.
    """

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
        if tokens_BNG.shape[1] != 1:
            raise UsageError(f"TokenRule verifies one candidate block a row, not {tokens_BNG.shape[1]}")
        tokens_BG, length_B = tokens_BNG[:, 0], length_BN[:, 0]
        log_q_BGV, log_p_BKV = log_q_BNGV[:, 0], log_p_BNKV[:, 0]
        offset_1G = jnp.arange(tokens_BG.shape[1])[None]

        ratio_BG = acceptance(_at(log_p_BKV[:, :-1], tokens_BG), _at(log_q_BGV, tokens_BG))
        keys_BG = randomness.draw_keys(keys_B[:, None], offset_1G, Purpose.ACCEPT)
        kept_BG = (randomness.uniform(keys_BG) < ratio_BG) & (offset_1G < length_B[:, None])
        accepted_B = jnp.cumprod(kept_BG.astype(jnp.int32), axis=1).sum(axis=1)

        rejected_B = accepted_B < length_B
        log_p_BV = _row(log_p_BKV, accepted_B)
        log_q_BV = _row(log_q_BGV, jnp.minimum(accepted_B, offset_1G.size - 1))
        log_next_BV = jnp.where(rejected_B[:, None], residual(log_p_BV, log_q_BV), log_p_BV)
        purpose_B = jnp.where(rejected_B, int(Purpose.RESIDUAL), int(Purpose.BONUS))
        next_token_B = randomness.draw(randomness.draw_keys(keys_B, accepted_B, purpose_B), log_next_BV)
        return Verdict(jnp.zeros_like(accepted_B), accepted_B, next_token_B)


TOKEN_RULE = TokenRule()
"""The default rule."""


def acceptance(log_p: Array, log_q: Array) -> Array:
    """min(1, p / q) of drawn tokens, from log-probabilities of any one shape.

    1 exactly where p >= q, 0 where p is 0. A drawn token has q > 0; elsewhere the value means nothing.
    """
    return jnp.exp(jnp.minimum(log_p - log_q, 0.0))


def residual(log_p: Array, log_q: Array) -> Array:
    """log norm(max(0, p - q)) over the last axis; p itself where the difference underflows to nothing.

    That happens only where p and q agree to rounding, so that a rejection was rounding, too.
    """
    excess = jnp.maximum(jnp.exp(log_p) - jnp.exp(log_q), 0.0)
    mass = jnp.sum(excess, axis=-1, keepdims=True)
    return jnp.where(mass > 0, jnp.log(excess) - jnp.log(jnp.where(mass > 0, mass, 1.0)), log_p)


def _at(log_BGV: Array, tokens_BG: Array) -> Array:
    return jnp.take_along_axis(log_BGV, tokens_BG[..., None], axis=-1)[..., 0]


def _row(log_BGV: Array, index_B: Array) -> Array:
    return jnp.take_along_axis(log_BGV, index_B[:, None, None], axis=1)[:, 0]
