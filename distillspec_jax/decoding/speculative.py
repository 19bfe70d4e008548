"""Speculative decoding: draft a block, score it in one target call, verify, commit; all on the device.

Rows of a batch accept different numbers of tokens and never wait for each other: each row has its own
length in both caches.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from distillspec_jax import bounds
from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.drafters import Draft, Drafter
from distillspec_jax.decoding.state import Counts, PairParams, Rows, RowSettings, State, run_rounds, take_last
from distillspec_jax.decoding.stopping import STOP_ON_EOS, Stopping
from distillspec_jax.decoding.verifiers import TOKEN_RULE, Verifier
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import DecodeState, LanguageModel
from distillspec_jax.shapes import Array


@dataclasses.dataclass(frozen=True)
class SpeculativeLoop:
    """Rounds of drafting and verifying (arXiv 2211.17192, algorithm 1; batched and ragged).

    A loop with any smaller `block_size` can run a state made by `init`.

    Attributes:
      target: the network whose distribution the output follows.
      drafter: proposes blocks.
      verifier: keeps a prefix of one block and adds a token.
      stopping: decides from a row's content when it ends.
      block_size: G, the maximum number of drafts per round.
      measure_overlap: also sum min(p, q) over the tested positions; costs two exponentials per logit.
    """

    target: LanguageModel
    drafter: Drafter
    verifier: Verifier = TOKEN_RULE
    stopping: Stopping = STOP_ON_EOS
    block_size: int = 5
    measure_overlap: bool = False

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise UsageError(f"block_size is {self.block_size}, must be at least 1")
        bounds.check_most("block_size", self.block_size, bounds.BLOCK_SIZE)

    def init(self, params: PairParams, prompt_BT: Array, settings: RowSettings, max_new_tokens: int) -> State:
        """See `Loop.init`."""
        # A round may write a whole block past the last token it emits.
        room = max_new_tokens + self.block_size + 1
        target, pending_B = self.target.prefill(params.target, prompt_BT, room)
        return State(
            rows=Rows.start(settings, pending_B, max_new_tokens),
            target=target,
            draft=self.drafter.init(params.draft, prompt_BT, room, pending_B),
            counts=Counts.zeros(len(pending_B), self.block_size),
        )

    def run(
        self, params: PairParams, state: State, max_rounds: Array | int, enough: Array | int = 1
    ) -> State:
        """See `Loop.run`."""
        return run_rounds(functools.partial(self.round, params), state, max_rounds, enough)

    def round(self, params: PairParams, state: State) -> State:
        """Runs one verify pass for every running row; idle rows do not change."""
        rows, distribution = state.rows, state.rows.settings.distribution
        keys_B = randomness.round_keys(rows.settings.keys_B, rows.emitted_B)
        draft = self.drafter.draft(
            params.draft, state.draft, keys_B, rows.pending_B, distribution, self.block_size
        )
        logits_BNKV, scored = self._score(params, state.target, rows.pending_B, draft.tokens_BNG)
        log_p_BNKV = distribution.log_probs(logits_BNKV)
        offered_BN = self._offered_length(draft)
        length_BN = self._usable_length(rows, draft.tokens_BNG, offered_BN)
        branch_B, accepted_B, next_token_B = self.verifier(
            keys_B, draft.tokens_BNG, draft.log_q_BNGV, log_p_BNKV, length_BN, logits_BNKV=logits_BNKV
        )

        log_p_BKV, log_q_BGV = _chosen(log_p_BNKV, branch_B), _chosen(draft.log_q_BNGV, branch_B)
        tested_B = jnp.minimum(accepted_B + 1, _chosen(length_BN, branch_B))
        drafted_B = _chosen(offered_BN, branch_B)
        failed_B = rows.running_B & self._not_finite(log_p_BKV, accepted_B, length_BN)
        active_B = rows.running_B & ~failed_B

        # The committed block: the accepted drafts, then the verifier's token in every later position.
        place_1K = jnp.arange(self.block_size + 1)[None]
        drafts_BK = jnp.pad(_chosen(draft.tokens_BNG, branch_B), ((0, 0), (0, 1)))
        block_BK = jnp.where(place_1K < accepted_B[:, None], drafts_BK, next_token_B[:, None])
        ends_BK = self.stopping.ends(rows.output_BT, rows.emitted_B, block_BK)
        done_B = take_last(ends_BK, accepted_B) | (accepted_B >= rows.remaining_B)
        cut_B = active_B & (accepted_B > 0) & done_B
        count_B = jnp.where(active_B, accepted_B + 1 - cut_B, 0)

        return State(
            rows=rows.append(block_BK, count_B, ends_BK).fail(failed_B),
            target=_take_branch(scored, branch_B, length_BN.shape[1]).rewind(state.target.length_B + count_B),
            draft=self.drafter.commit(draft.state, branch_B, jnp.where(active_B, accepted_B, -1)),
            counts=self._count(
                state.counts, active_B, cut_B, drafted_B, tested_B, accepted_B, log_p_BKV, log_q_BGV
            ),
        )

    def _score(
        self, params: PairParams, target: DecodeState, pending_B: Array, tokens_BNG: Array
    ) -> tuple[Array, DecodeState]:
        """Scores the pending token and every candidate block in one target call; the state has B * N rows."""
        rows, blocks, _ = tokens_BNG.shape
        if blocks > 1:
            target = target.select(jnp.repeat(jnp.arange(rows), blocks))
        pending_BN1 = jnp.broadcast_to(pending_B[:, None, None], (rows, blocks, 1))
        fed_BNK = jnp.concatenate([pending_BN1, tokens_BNG], axis=-1)
        logits, scored = self.target.extend(params.target, target, fed_BNK.reshape(rows * blocks, -1))
        return logits.reshape(*fed_BNK.shape, -1), scored

    def _offered_length(self, draft: Draft) -> Array:
        """Counts the drafts of each block up to the first whose draft distribution is NaN.

        A failing draft network therefore lowers the acceptance rate but keeps the output's distribution.
        """
        bad_BNG = jnp.isnan(draft.log_q_BNGV[..., 0])  # then every entry is
        first_bad_BN = jnp.where(bad_BNG.any(-1), jnp.argmax(bad_BNG, axis=-1), self.block_size)
        return jnp.minimum(draft.length_BN, first_bad_BN)

    def _usable_length(self, rows: Rows, tokens_BNG: Array, offered_BN: Array) -> Array:
        """Counts the offered drafts that may be tested: up to the first that ends the row, or its limit.

        The cut depends only on the drafted prefix (a stopping time), so it does not change the output
        distribution of any verifier.
        """
        ends = jax.vmap(self.stopping.ends, in_axes=(None, None, 1), out_axes=1)
        ends_BNG = ends(rows.output_BT, rows.emitted_B, tokens_BNG)
        first_end_BN = jnp.where(ends_BNG.any(-1), jnp.argmax(ends_BNG, axis=-1) + 1, self.block_size)
        remaining_BN = jnp.maximum(rows.remaining_B, 0)[:, None]
        return jnp.minimum(jnp.minimum(offered_BN, first_end_BN), remaining_BN).astype(jnp.int32)

    def _not_finite(self, log_p_BKV: Array, accepted_B: Array, length_BN: Array) -> Array:
        """Marks rows whose outcome depends on a NaN target distribution (then all its entries are NaN)."""
        last_B = length_BN[:, 0] if self.verifier.depends_on_whole_block else accepted_B
        place_1K = jnp.arange(log_p_BKV.shape[1])[None]
        return (jnp.isnan(log_p_BKV[:, :, 0]) & (place_1K <= last_B[:, None])).any(-1)

    def _count(
        self,
        counts: Counts,
        active_B: Array,
        cut_B: Array,
        drafted_B: Array,
        tested_B: Array,
        accepted_B: Array,
        log_p_BKV: Array,
        log_q_BGV: Array,
    ) -> Counts:
        place_1G = jnp.arange(counts.tested_BG.shape[1])[None]
        tested_BG = active_B[:, None] & (place_1G < tested_B[:, None])
        accepted_BG = active_B[:, None] & (place_1G < accepted_B[:, None])
        overlap_B = counts.overlap_B
        if self.measure_overlap:
            overlap_BG = jnp.exp(jnp.minimum(log_p_BKV[:, :-1], log_q_BGV)).sum(-1)
            overlap_B += jnp.where(tested_BG[:, : self.block_size], overlap_BG, 0.0).sum(-1)
        return Counts(
            rounds_B=counts.rounds_B + active_B,
            cut_B=counts.cut_B + cut_B,
            drafted_B=counts.drafted_B + jnp.where(active_B, drafted_B, 0),
            tested_BG=counts.tested_BG + tested_BG,
            accepted_BG=counts.accepted_BG + accepted_BG,
            overlap_B=overlap_B,
        )


def _chosen(values_BN: Array, branch_B: Array) -> Array:
    """Selects each row's chosen block: `[B, N, ...]` to `[B, ...]`."""
    if values_BN.shape[1] == 1:
        return values_BN[:, 0]
    return values_BN[jnp.arange(values_BN.shape[0]), branch_B]


def _take_branch(scored: DecodeState, branch_B: Array, blocks: int) -> DecodeState:
    if blocks == 1:
        return scored
    return scored.select(jnp.arange(branch_B.shape[0]) * blocks + branch_B)
