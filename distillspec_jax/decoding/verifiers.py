"""Verifiers decide which drafted tokens to keep and draw the one token that the target adds.

A verifier is a pure function of keys, tokens and distributions; it knows neither models nor caches.
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
    """A round's outcome: commit `tokens[branch, :accepted]`, then `next_token`; each int32 `[B]`."""

    branch_B: Array
    accepted_B: Array
    next_token_B: Array


class Verifier(Protocol):
    """A frozen, hashable rule: a static part of the speculative loop."""

    @property
    def depends_on_whole_block(self) -> bool:
        """Whether a later draft can decide if an earlier one is kept.

        If so, a row fails when any target distribution of its block is NaN. If not, it fails only when the
        distribution of a kept draft, or of the token after the last one, is NaN.
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
        """Verifies N candidate blocks per row.

        Args:
          keys_B: the round's keys (`randomness.round_keys`); the key of each draw is derived from them.
          tokens_BNG: int32 drafts.
          log_q_BNGV: the distributions that the drafts were drawn from.
          log_p_BNKV: K = G + 1 distributions of the target: position i follows `tokens[..., :i]`.
          length_BN: int32 in 0..G, the number of valid drafts in each block. The rest is garbage.
          logits_BNKV: the target's raw logits, for rules that need more than the distributions.

        Returns:
          A verdict with `accepted_B <= length_BN[branch]`; the bonus token's distribution is p at that
          length.
        """


@dataclasses.dataclass(frozen=True)
class TokenRule:
    """Lossless token-by-token verification of one candidate block (Leviathan et al., arXiv 2211.17192).

    Accepts y with probability min(1, p(y) / q(y)), left to right. At the first rejection it draws from
    the residual distribution norm(max(0, p - q)); if all drafts are accepted, it draws from p.
    """

    depends_on_whole_block = False

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
        ratio_BG = acceptance(log_at(log_p_BKV[:, :-1], tokens_BG), log_at(log_q_BGV, tokens_BG))
        return verify_by_ratio(keys_B, ratio_BG, log_q_BGV, log_p_BKV, length_B)


TOKEN_RULE = TokenRule()
"""The default rule."""


def verify_by_ratio(
    keys_B: Array, ratio_BG: Array, log_q_BGV: Array, log_p_BKV: Array, length_B: Array
) -> Verdict:
    """Accepts drafts left to right, each with probability `ratio_BG`, and draws the next token.

    The next token comes from norm(max(0, p - q)) after a rejection, and from p if all drafts are accepted.
    """
    offset_1G = jnp.arange(ratio_BG.shape[1])[None]
    keys_BG = randomness.draw_keys(keys_B[:, None], offset_1G, Purpose.ACCEPT)
    accepted_B = accept_left_to_right(randomness.uniform(keys_BG) < ratio_BG, length_B)

    rejected_B = accepted_B < length_B
    log_p_BV = row_of(log_p_BKV, accepted_B)
    log_q_BV = row_of(log_q_BGV, jnp.minimum(accepted_B, offset_1G.size - 1))
    log_next_BV = jnp.where(rejected_B[:, None], residual(log_p_BV, log_q_BV), log_p_BV)
    next_token_B = draw_last(keys_B, accepted_B, rejected_B, log_next_BV)
    return Verdict(jnp.zeros_like(accepted_B), accepted_B, next_token_B)


def draw_last(keys_B: Array, accepted_B: Array, rejected_B: Array, log_next_BV: Array) -> Array:
    """Draws the token after the accepted drafts: a replacement after a rejection, else the bonus token."""
    purpose_B = jnp.where(rejected_B, int(Purpose.RESIDUAL), int(Purpose.BONUS))
    return randomness.draw(randomness.draw_keys(keys_B, accepted_B, purpose_B), log_next_BV)


def accept_left_to_right(passes_BG: Array, length_B: Array) -> Array:
    """Counts the leading drafts that pass, up to the first that fails or lies past the block's length."""
    kept_BG = passes_BG & (jnp.arange(passes_BG.shape[1])[None] < length_B[:, None])
    return jnp.cumprod(kept_BG.astype(jnp.int32), axis=1).sum(axis=1)


def acceptance(log_p: Array, log_q: Array) -> Array:
    """Acceptance probability min(1, p / q) of drawn tokens, from log-probabilities of equal shape.

    Exactly 1 where p >= q, and 0 where p is 0. A drawn token has q > 0; elsewhere the value is meaningless.
    """
    return jnp.exp(jnp.minimum(log_p - log_q, 0.0))


def residual(log_p: Array, log_q: Array) -> Array:
    """Log of the residual distribution, norm(max(0, p - q)) over the last axis; log p if that is all zero.

    It is all zero only if p and q agree up to rounding error; the rejection was then rounding error, too.
    """
    excess = jnp.maximum(jnp.exp(log_p) - jnp.exp(log_q), 0.0)
    mass = jnp.sum(excess, axis=-1, keepdims=True)
    return jnp.where(mass > 0, jnp.log(excess) - jnp.log(jnp.where(mass > 0, mass, 1.0)), log_p)


def one_candidate(
    rule: object, tokens_BNG: Array, log_q_BNGV: Array, log_p_BNKV: Array, length_BN: Array
) -> tuple[Array, Array, Array, Array]:
    """Takes the only candidate block of every row, for rules that verify just one.

    Raises:
      UsageError: there is more than one candidate.
    """
    if tokens_BNG.shape[1] != 1:
        name = type(rule).__name__
        raise UsageError(f"{name} verifies one candidate block a row, not {tokens_BNG.shape[1]}")
    return tokens_BNG[:, 0], log_q_BNGV[:, 0], log_p_BNKV[:, 0], length_BN[:, 0]


def log_at(log_BGV: Array, tokens_BG: Array) -> Array:
    """Looks up the log-probabilities of drawn tokens, `[..., G]`."""
    return jnp.take_along_axis(log_BGV, tokens_BG[..., None], axis=-1)[..., 0]


def row_of(values_BG: Array, index_B: Array) -> Array:
    """Takes `values[b, index[b]]` for every row b; any axes may follow."""
    index = index_B.reshape(-1, *[1] * (values_BG.ndim - 1))
    return jnp.take_along_axis(values_BG, index, axis=1)[:, 0]
