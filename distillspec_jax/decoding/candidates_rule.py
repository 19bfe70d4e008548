"""Lossless verification of several candidate blocks per row in one target call."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.decoding.verifiers import Verdict, acceptance, draw_last, residual, row_of
from distillspec_jax.shapes import Array


@dataclasses.dataclass(frozen=True)
class CandidatesRule:
    """Recursive rejection sampling over N blocks (SpecInfer, arXiv 2305.09781; SpecTr, arXiv 2310.15141).

    At every position, the blocks that agree with the accepted prefix offer their next tokens in turn. A token
    y drawn from q is kept with probability min(1, p(y) / q(y)); after each rejection, p becomes
    norm(max(0, p - q)). The first kept token is accepted, and the blocks that contain it continue. If no
    token is kept, the last token is drawn from the current p, which is the original p if no block offered
    a token. With one block, this is the token rule.
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
        rows, blocks, size = tokens_BNG.shape
        branch_B = jnp.zeros(rows, jnp.int32)
        agrees_BN = jnp.ones((rows, blocks), bool)
        going_B = jnp.ones(rows, bool)
        accepted_B = jnp.zeros(rows, jnp.int32)
        log_next_BV = log_p_BNKV[:, 0, 0]
        was_rejected_B = jnp.zeros(rows, bool)
        for place in range(size):
            offers_BN = agrees_BN & (length_BN > place) & going_B[:, None]
            log_p_BV = row_of(log_p_BNKV[:, :, place], branch_B)
            kept_B = jnp.zeros(rows, bool)
            token_B = jnp.zeros(rows, jnp.int32)
            for block in range(blocks):
                y_B, log_q_BV = tokens_BNG[:, block, place], log_q_BNGV[:, block, place]
                ratio_B = acceptance(row_of(log_p_BV, y_B), row_of(log_q_BV, y_B))
                # With one block, the offsets and therefore the uniform numbers equal the token rule's.
                keys = randomness.draw_keys(keys_B, place + size * block, Purpose.ACCEPT)
                tested_B = offers_BN[:, block] & ~kept_B
                passes_B = tested_B & (randomness.uniform(keys) < ratio_B)
                token_B = jnp.where(passes_B, y_B, token_B)
                branch_B = jnp.where(passes_B, block, branch_B)
                kept_B |= passes_B
                fails_B = tested_B & ~passes_B
                log_p_BV = jnp.where(fails_B[:, None], residual(log_p_BV, log_q_BV), log_p_BV)
            # Rows whose block ends at this position draw their last token from the remaining p.
            ends_B = going_B & ~kept_B
            log_next_BV = jnp.where(ends_B[:, None], log_p_BV, log_next_BV)
            was_rejected_B |= ends_B & offers_BN.any(axis=1)
            accepted_B += kept_B
            holds_BN = (tokens_BNG[:, :, place] == token_B[:, None]) & (length_BN > place)
            agrees_BN &= holds_BN | ~kept_B[:, None]
            going_B &= kept_B
        # Blocks that agree contain the same accepted prefix; the longest tells how far testing could go.
        branch_B = jnp.argmax(jnp.where(agrees_BN, length_BN, -1), axis=1).astype(jnp.int32)
        whole_BV = row_of(log_p_BNKV[:, :, size], branch_B)
        log_next_BV = jnp.where(going_B[:, None], whole_BV, log_next_BV)
        next_token_B = draw_last(keys_B, accepted_B, was_rejected_B, log_next_BV)
        return Verdict(branch_B, accepted_B, next_token_B)
