"""Drafts a whole block in one call of a network that was trained to read masks (PARD, arXiv 2504.18583).

G - 1 masks follow the pending token; the logits at the pending token and at each mask give the
distributions of the block's tokens. None of them depends on a token drawn in the same round, so each
token's distribution given the prefix is the recorded one, and verification remains exact.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.struct
import jax.numpy as jnp

from distillspec_jax import bounds
from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.drafters import Draft
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import DecodeState, LanguageModel
from distillspec_jax.shapes import Array, Params


@flax.struct.dataclass
class OnePassMemory:
    """The memory of `OnePassDrafter` between rounds.

    Attributes:
      cache: the network's state. It lacks the pending token and those of `recent_BW`, which were drafted by
        masks and are read at the start of the next round.
      recent_BW: int32, committed tokens before the pending one, left-aligned; garbage from `count_B` on.
      count_B: int32, number of tokens in `recent_BW`.
      own_B: int32, the network's own pending token after the prompt, which may differ from that of a target
        of another family.
      begun_B: boolean; False until the row first commits.
    """

    cache: DecodeState
    recent_BW: Array
    count_B: Array
    own_B: Array
    begun_B: Array

    def pending(self, pending_B: Array) -> Array:
        """Returns the pending tokens for the network: its own in a row's first round, then the target's."""
        return jnp.where(self.begun_B, pending_B, self.own_B)


class _Drafted(NamedTuple):
    """Data between `draft` and `commit`: the memory before the round, the cache after it, the blocks."""

    memory: OnePassMemory
    cache: DecodeState
    tokens_BNG: Array


@dataclasses.dataclass(frozen=True)
class OnePassDrafter:
    """Drafts with one call per round, over up to `block_size` committed tokens and as many masks.

    Attributes:
      model: the network, distilled with `one_pass.OnePass`.
      mask_id: the id that the network was trained to read as "to be drafted".
      block_size: the largest block size of any round.
      candidates: N, blocks per row, all drawn from the same distributions; N > 1 needs a rule that verifies
        several.

    Raises:
      UsageError: a number is out of range, or the network has no embedding for the mask.
    """

    model: LanguageModel
    mask_id: int
    block_size: int
    candidates: int = 1

    def __post_init__(self) -> None:
        for name in ("block_size", "candidates"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, must be at least 1")
        bounds.check_most("candidates", self.candidates, bounds.CANDIDATES)
        if not 0 <= self.mask_id < self.model.vocab_size:
            raise UsageError(f"mask_id is {self.mask_id}, must be below {self.model.vocab_size}")

    def prepare(self, params: Params, rows: int | None) -> Params:
        """See `Drafter.prepare`."""
        return self.model.prepare(params, None if rows is None else rows * 2 * self.block_size)

    def init(self, params: Params, prompt_BT: Array, max_length: int, pending_B: Array) -> OnePassMemory:
        """See `Drafter.init`. Prefill leaves out the network's own pending token, not the target's."""
        cache, own_B = self.model.prefill(params, prompt_BT, max_length)
        return OnePassMemory(
            cache=cache,
            recent_BW=jnp.zeros((len(pending_B), self.block_size), jnp.int32),
            count_B=jnp.zeros(pending_B.shape, jnp.int32),
            own_B=own_B.astype(jnp.int32),
            begun_B=jnp.zeros(pending_B.shape, bool),
        )

    def draft(
        self,
        params: Params,
        state: OnePassMemory,
        keys_B: Array,
        pending_B: Array,
        distribution: SamplingDistribution,
        block_size: int,
    ) -> Draft:
        """See `Drafter.draft`."""
        rows, count_B1 = len(pending_B), state.count_B[:, None]
        width = self.block_size + block_size
        # Committed tokens, the pending one, masks; rows with few committed tokens do not use the last masks.
        place_1X = jnp.arange(width)[None]
        recent_BX = jnp.pad(state.recent_BW, ((0, 0), (0, block_size)))
        pending_B1 = state.pending(pending_B)[:, None]
        masked_BX = jnp.where(place_1X == count_B1, pending_B1, self.mask_id)
        fed_BX = jnp.where(place_1X < count_B1, recent_BX, masked_BX)
        ids_V = self.model.listed_ids
        logits_BXV, cache = self.model.extend_listed(params, state.cache, fed_BX)
        drafting_BG = count_B1 + jnp.arange(block_size)[None]
        logits_BGV = jnp.take_along_axis(logits_BXV, drafting_BG[..., None], axis=1)

        log_q, tokens = [], []
        for place in range(block_size):
            log_q_BV = distribution.log_probs(logits_BGV[:, place], ids_V)
            of_blocks = []
            for block in range(self.candidates):
                offset = jnp.full(rows, block * block_size + place)
                token_B = randomness.draw(randomness.draw_keys(keys_B, offset, Purpose.DRAFT), log_q_BV)
                of_blocks.append(token_B if ids_V is None else jnp.array(ids_V)[token_B])
            log_q.append(log_q_BV)
            tokens.append(jnp.stack(of_blocks, axis=1))
        log_q_BGV = self.model.spread(jnp.stack(log_q, axis=1))[..., : distribution.vocab_size]
        tokens_BNG = jnp.stack(tokens, axis=2).astype(jnp.int32)
        return Draft(
            tokens_BNG=tokens_BNG,
            log_q_BNGV=jnp.broadcast_to(log_q_BGV[:, None], (*tokens_BNG.shape, log_q_BGV.shape[-1])),
            length_BN=jnp.full(tokens_BNG.shape[:2], block_size, jnp.int32),
            state=_Drafted(state, cache, tokens_BNG),
        )

    def commit(self, state: _Drafted, branch_B: Array, accepted_B: Array) -> OnePassMemory:
        """See `Drafter.commit`. Keeps the accepted tokens, because the cache holds masks in their place."""
        memory, idle_B = state.memory, accepted_B < 0
        tokens_BG = state.tokens_BNG[jnp.arange(len(branch_B)), branch_B]
        recent_BW = jnp.pad(tokens_BG, ((0, 0), (0, self.block_size - tokens_BG.shape[1])))
        read_B = jnp.where(idle_B, 0, memory.count_B + 1)
        return OnePassMemory(
            cache=state.cache.rewind(memory.cache.length_B + read_B),
            recent_BW=jnp.where(idle_B[:, None], memory.recent_BW, recent_BW),
            count_B=jnp.where(idle_B, memory.count_B, accepted_B),
            own_B=memory.own_B,
            begun_B=memory.begun_B | ~idle_B,
        )

    def follow(
        self, params: Params, state: OnePassMemory, pending_B: Array, tokens_BT: Array, count_B: Array
    ) -> OnePassMemory:
        """See `Drafter.follow`; one call of the network, which also reads the tokens drafted by masks."""
        pending_B1, count_B1 = state.pending(pending_B)[:, None], state.count_B[:, None]
        width = self.block_size + 1 + tokens_BT.shape[1]
        place_BX = jnp.broadcast_to(jnp.arange(width)[None], (len(pending_B), width))
        line_BX = jnp.concatenate([state.recent_BW, pending_B1, tokens_BT], axis=1)
        # Skips the garbage in `recent_BW`.
        source_BX = jnp.where(place_BX < count_B1, place_BX, place_BX + self.block_size - count_B1)
        fed_BX = jnp.take_along_axis(line_BX, jnp.minimum(source_BX, width - 1), axis=1)
        _, cache = self.model.extend(params, state.cache, fed_BX)
        some_B = count_B > 0
        read_B = jnp.where(some_B, state.count_B + count_B, 0)
        return dataclasses.replace(
            state,
            cache=cache.rewind(state.cache.length_B + read_B),
            count_B=jnp.where(some_B, 0, state.count_B),
            begun_B=state.begun_B | some_B,
        )
