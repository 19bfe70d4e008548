"""Drafting without a model: copies what followed the latest earlier occurrence of the last tokens."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp

from distillspec_jax.decoding.drafters import Draft
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.decoding.verifiers import accept_left_to_right
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import prompt_lengths
from distillspec_jax.shapes import Array


@flax.struct.dataclass
class History:
    """The searchable text of each row.

    Attributes:
      tokens_BS: int32, prompt and committed output without the pending token; garbage from `length_B` on.
      length_B: int32.
    """

    tokens_BS: Array
    length_B: Array


class _LookedUp(NamedTuple):
    history: History
    tokens_BG: Array


@dataclasses.dataclass(frozen=True)
class PromptLookup:
    """Offers the continuation of the latest earlier occurrence of the text's last n tokens.

    It uses the longest n with a match. Without a match it offers nothing, and the round is an autoregressive
    step. The recorded draft distributions are one-hot, so any lossless rule preserves the target's
    distribution. It needs no parameters and almost no time: the baseline that a draft model must beat.

    Attributes:
      vocab_size: V of the distributions (the sampling distribution's, if that cuts off padded rows).
      longest, shortest: range of the match length n.

    Raises:
      UsageError: unless 1 <= shortest <= longest.
    """

    vocab_size: int
    longest: int = 3
    shortest: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise UsageError(
                f"PromptLookup.shortest is {self.shortest} and longest {self.longest}: "
                "need 1 <= shortest <= longest"
            )

    @property
    def candidates(self) -> int:
        """Always 1: the latest of the longest matches."""
        return 1

    def prepare(self, params: Any, rows: int | None) -> Any:
        """See `Drafter.prepare`. There are no parameters."""
        return params

    def init(self, params: Any, prompt_BT: Array, max_length: int, pending_B: Array) -> History:
        """See `Drafter.init`."""
        tokens_BS = jnp.pad(jnp.maximum(prompt_BT, 0).astype(jnp.int32), ((0, 0), (0, max_length + 1)))
        length_B = prompt_lengths(prompt_BT)
        last_B = jnp.take_along_axis(tokens_BS, jnp.maximum(length_B - 1, 0)[:, None], axis=1)[:, 0]
        # A decoder-only target's pending token is the prompt's last; an encoder-decoder's begins the output.
        return History(tokens_BS, length_B - ((length_B > 0) & (last_B == pending_B)))

    def draft(
        self,
        params: Any,
        state: History,
        keys_B: Array,
        pending_B: Array,
        distribution: SamplingDistribution,
        block_size: int,
    ) -> Draft:
        """See `Drafter.draft`. Draws nothing."""
        rows, slots = state.tokens_BS.shape
        tokens_BS = state.tokens_BS.at[jnp.arange(rows), state.length_B].set(pending_B, mode="drop")
        start_B, found_B = self._continuation(tokens_BS, state.length_B)
        place_BG = start_B[:, None] + jnp.arange(block_size)[None]
        tokens_BG = jnp.take_along_axis(tokens_BS, jnp.minimum(place_BG, slots - 1), axis=1)
        # The continuation ends at the pending token, the last known one.
        length_B = jnp.where(found_B, jnp.minimum(state.length_B + 1 - start_B, block_size), 0)
        # An excluded id ends a block: a lenient rule could accept it.
        drawn_BG = jnp.ones_like(tokens_BG, bool)
        for excluded in distribution.excluded_ids:
            drawn_BG &= tokens_BG != excluded
        length_B = accept_left_to_right(drawn_BG, length_B)
        ids_11V = jnp.arange(self.vocab_size)[None, None]
        log_q_BGV = jnp.where(ids_11V == tokens_BG[..., None], 0.0, -jnp.inf)
        return Draft(
            tokens_BNG=tokens_BG[:, None],
            log_q_BNGV=log_q_BGV[:, None],
            length_BN=length_B[:, None],
            state=_LookedUp(History(tokens_BS, state.length_B), tokens_BG),
        )

    def _continuation(self, tokens_BS: Array, last_B: Array) -> tuple[Array, Array]:
        """Finds the slot after the latest, longest match of the text's end, and whether there is a match."""
        slot_1S = jnp.arange(tokens_BS.shape[1])[None]
        matches_BS = slot_1S < last_B[:, None]  # per slot: whether the n tokens up to it equal the last n
        start_B, found_B = jnp.zeros_like(last_B), jnp.zeros(last_B.shape, bool)
        for n in range(self.longest):
            back_B = last_B - n
            token_B = jnp.take_along_axis(tokens_BS, jnp.maximum(back_B, 0)[:, None], axis=1)
            shifted_BS = jnp.pad(tokens_BS, ((0, 0), (n, 0)))[:, : tokens_BS.shape[1]]
            matches_BS &= (shifted_BS == token_B) & (slot_1S >= n) & (back_B >= 0)[:, None]
            if n + 1 >= self.shortest:
                any_B = matches_BS.any(-1)
                latest_B = jnp.max(jnp.where(matches_BS, slot_1S, -1), axis=-1)
                start_B = jnp.where(any_B, latest_B + 1, start_B)
                found_B |= any_B
        return start_B, found_B

    def commit(self, state: _LookedUp, branch_B: Array, accepted_B: Array) -> History:
        """See `Drafter.commit`."""
        del branch_B  # There is one block.
        tokens_BS, length_B = state.history.tokens_BS, state.history.length_B
        rows, slots = tokens_BS.shape
        offset_1G = jnp.arange(state.tokens_BG.shape[1])[None]
        kept_BG = offset_1G < accepted_B[:, None]
        place_BG = jnp.where(kept_BG, length_B[:, None] + 1 + offset_1G, slots)  # out of range: dropped
        tokens_BS = tokens_BS.at[jnp.arange(rows)[:, None], place_BG].set(state.tokens_BG, mode="drop")
        return History(tokens_BS, length_B + 1 + accepted_B)

    def follow(
        self, params: Any, state: History, pending_B: Array, tokens_BT: Array, count_B: Array
    ) -> History:
        """See `Drafter.follow`."""
        rows, slots = state.tokens_BS.shape
        line_BK = jnp.concatenate([pending_B[:, None], tokens_BT], axis=1)
        offset_1K = jnp.arange(line_BK.shape[1])[None]
        place_BK = jnp.where(offset_1K < count_B[:, None], state.length_B[:, None] + offset_1K, slots)
        tokens_BS = state.tokens_BS.at[jnp.arange(rows)[:, None], place_BK].set(line_BK, mode="drop")
        return History(tokens_BS, state.length_B + count_B)
