"""Block verification: judges a block as a whole; its block efficiency is at least the token rule's."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.decoding.verifiers import Verdict, draw_last, log_at, one_candidate, row_of
from distillspec_jax.shapes import Array


@dataclasses.dataclass(frozen=True)
class BlockRule:
    """Lossless verification of one candidate as a whole (Sun et al., arXiv 2403.10444, algorithm 2).

    Let r_0 = 1, r_i = min(1, r_{i-1} p(y_i) / q(y_i)), and let S_i be the sum over the vocabulary of
    max(0, r_i p - q) at the position after y_i. Then h_i = S_i / (S_i + 1 - r_i), except h_i = r_i at the
    block's last draft. The rule draws a uniform number for *every* i and keeps the longest prefix whose
    number is below h_i. The next token comes from norm(max(0, r_i p - q)), or from p after a whole block.
    """

    depends_on_whole_block = True

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
        offset_1G = jnp.arange(tokens_BG.shape[1])[None]
        drafted_BG = offset_1G < length_B[:, None]

        ratio_BG = log_at(log_p_BKV[:, :-1], tokens_BG) - log_at(log_q_BGV, tokens_BG)
        ratio_BG = jnp.where(drafted_BG, ratio_BG, 0.0)  # garbage may be -inf - -inf
        log_r_BK = _running_minimum(ratio_BG)
        r_BK = jnp.exp(log_r_BK)

        # Target mass in excess of the draft's after each prefix; no draft follows the longest prefix.
        excess_BGV = jnp.maximum(
            jnp.exp(log_r_BK[:, :-1, None] + log_p_BKV[:, :-1]) - jnp.exp(log_q_BGV), 0.0
        )
        s_BG = excess_BGV.sum(-1)
        remainder_BG = s_BG + (1.0 - r_BK[:, :-1])
        # 0 / 0 where r is 1 and p = q: any value is exact, and 1 keeps the longer prefix.
        h_BG = jnp.where(remainder_BG > 0, s_BG / jnp.where(remainder_BG > 0, remainder_BG, 1.0), 1.0)
        place_1K = jnp.arange(r_BK.shape[1])[None]
        h_BK = jnp.concatenate([h_BG, r_BK[:, -1:]], axis=1)
        h_BK = jnp.where(place_1K == length_B[:, None], r_BK, h_BK)

        keys_BG = randomness.draw_keys(keys_B[:, None], offset_1G, Purpose.ACCEPT)
        kept_BG = (randomness.uniform(keys_BG) < h_BK[:, 1:]) & drafted_BG
        accepted_B = jnp.max(jnp.where(kept_BG, offset_1G + 1, 0), axis=1)

        rejected_B = accepted_B < length_B
        log_p_BV = row_of(log_p_BKV, accepted_B)
        excess_BV = row_of(excess_BGV, jnp.minimum(accepted_B, offset_1G.size - 1))
        # If the excess underflows to zero, r p and q agree up to rounding error: draw from p.
        usable_B = rejected_B & (excess_BV.sum(-1) > 0)
        log_next_BV = jnp.where(usable_B[:, None], jnp.log(excess_BV), log_p_BV)
        next_token_B = draw_last(keys_B, accepted_B, rejected_B, log_next_BV)
        return Verdict(jnp.zeros_like(accepted_B), accepted_B, next_token_B)


def _running_minimum(ratio_BG: Array) -> Array:
    """Computes log r_0 .. log r_G, `[B, G + 1]`: r_i = min(1, r_{i-1} * ratio_i) in logarithms."""
    log_r_BK = [jnp.zeros_like(ratio_BG[:, 0])]
    for i in range(ratio_BG.shape[1]):
        log_r_BK.append(jnp.minimum(0.0, log_r_BK[-1] + ratio_BG[:, i]))
    return jnp.stack(log_r_BK, axis=1)
