"""Drafters propose the tokens that the target verifies.

A drafter's memory persists across rounds; every leaf has the batch as its leading axis.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from distillspec_jax import bounds
from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.errors import UsageError
from distillspec_jax.models.interface import DecodeState, LanguageModel
from distillspec_jax.shapes import Array, Params


class Draft(NamedTuple):
    """N candidate blocks of G tokens for every row.

    Attributes:
      tokens_BNG: int32.
      log_q_BNGV: the distributions that the tokens were actually drawn from.
      length_BN: int32 in 0..G, how many tokens the drafter offers; the rest is garbage.
      state: the input of `commit`; its type may differ from the memory kept between rounds.
    """

    tokens_BNG: Array
    log_q_BNGV: Array
    length_BN: Array
    state: Any


class Drafter(Protocol):
    """A frozen, hashable value: a static part of the speculative loop.

    The candidates of a row are drawn independently of each other given the prefix.
    """

    @property
    def candidates(self) -> int:
        """N, blocks per row; N > 1 needs a rule that verifies several."""

    def prepare(self, params: Any, rows: int | None) -> Any:
        """Converts the parameters to the form that drafts fastest for `rows` rows; None: any number."""

    def init(self, params: Any, prompt_BT: Array, max_length: int, pending_B: Array) -> Any:
        """Reads the prompts and returns the memory, with room for `max_length` generated tokens.

        Args:
          pending_B: the target's pending token, which the memory must not hold (`models/interface.py`).
        """

    def draft(
        self,
        params: Any,
        state: Any,
        keys_B: Array,
        pending_B: Array,
        distribution: SamplingDistribution,
        block_size: int,
    ) -> Draft:
        """Proposes up to `block_size` (static) tokens to follow `pending_B`.

        Args:
          keys_B: the round's keys; the key of each draw is derived from them with `Purpose.DRAFT`.
          pending_B: int32, the last committed token, which the memory has not seen.
          distribution: the row's sampling distribution, the same one that gives the verifier's p.
        """

    def commit(self, state: Any, branch_B: Array, accepted_B: Array) -> Any:
        """Returns the memory after the first `accepted_B` tokens of block `branch_B` are committed.

        Args:
          state: `Draft.state`.
          accepted_B: int32 in -1..G; -1 means that the row is idle and committed nothing.
        """

    def follow(self, params: Any, state: Any, pending_B: Array, tokens_BT: Array, count_B: Array) -> Any:
        """Returns the memory after `count_B` tokens were committed without this drafter; 0 changes nothing.

        Args:
          pending_B: the last committed token before them.
          tokens_BT: int32, garbage from `count_B` on; the last of them is the new pending token.
        """


@flax.struct.dataclass
class ModelMemory:
    """The memory of `ModelDrafter` between rounds.

    Attributes:
      cache: the network's state. Once a row has committed a token, the cache lacks the last *two* committed
        tokens; before that, it lacks only the pending one.
      previous_B: int32, the committed token before the pending one. Until the row first commits, it is this
        network's own pending token, which may differ from that of a target of another family.
      has_previous_B: boolean; False until the row first commits.
    """

    cache: DecodeState
    previous_B: Array
    has_previous_B: Array


class _Drafted(NamedTuple):
    """Data between `draft` and `commit`: the memory before the round, a cache of B * N rows, the blocks."""

    memory: ModelMemory
    cache: DecodeState
    pending_B: Array
    tokens_BNG: Array


@dataclasses.dataclass(frozen=True)
class ModelDrafter:
    """Drafts with a small network: one block per row, or several that are independent given the prefix.

    Every round starts by feeding the last two committed tokens in one call, so no extra call is needed to
    cache the last draft of a fully accepted block. A row that has committed nothing feeds its pending token
    and a dummy, reads the logits at the former and discards the latter; both kinds of rows share a batch.

    Attributes:
      model: the network.
      candidates: N, blocks per row; N > 1 needs a rule that verifies several.

    Raises:
      UsageError: `candidates` is below 1 or above `bounds.CANDIDATES`.
    """

    model: LanguageModel
    candidates: int = 1

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise UsageError(f"candidates is {self.candidates}, must be at least 1")
        bounds.check_most("candidates", self.candidates, bounds.CANDIDATES)

    def prepare(self, params: Params, rows: int | None) -> Params:
        """See `Drafter.prepare`; every call of the network has one row per block."""
        return self.model.prepare(params, None if rows is None else rows * self.candidates)

    def init(self, params: Params, prompt_BT: Array, max_length: int, pending_B: Array) -> ModelMemory:
        """See `Drafter.init`. Prefill leaves out the network's own pending token, not the target's."""
        cache, own_B = self.model.prefill(params, prompt_BT, max_length)
        return ModelMemory(
            cache=cache,
            previous_B=own_B.astype(jnp.int32),
            has_previous_B=jnp.zeros(pending_B.shape, bool),
        )

    def draft(
        self,
        params: Params,
        state: ModelMemory,
        keys_B: Array,
        pending_B: Array,
        distribution: SamplingDistribution,
        block_size: int,
    ) -> Draft:
        """See `Drafter.draft`."""
        pending_B = _pending(state, pending_B)
        # A row that has committed nothing feeds its pending token twice: the second is the dummy.
        fed_B2 = jnp.stack([state.previous_B, pending_B], axis=1)
        # A draft with a shortlist draws from a distribution over the listed ids only; `spread` extends it to
        # the whole vocabulary at the end.
        extend, ids_V = self.model.extend_listed, self.model.listed_ids
        logits_B2V, cache = extend(params, state.cache, fed_B2)
        logits_BV = jnp.where(state.has_previous_B[:, None], logits_B2V[:, 1], logits_B2V[:, 0])
        cache = cache.rewind(state.cache.length_B + 1 + state.has_previous_B)

        # From here on, each block is a row. Block n draws with the offsets from n * G.
        rows, blocks = len(pending_B), self.candidates
        first_offset = jnp.tile(jnp.arange(blocks) * block_size, rows)
        if blocks > 1:
            row_of_block = jnp.repeat(jnp.arange(rows), blocks)
            cache, distribution = cache.select(row_of_block), distribution.select(row_of_block)
            logits_BV, keys_B = logits_BV[row_of_block], keys_B[row_of_block]

        def propose(logits_BV: Array, offset: Array | int) -> tuple[Array, Array]:
            log_q_BV = distribution.log_probs(logits_BV, ids_V)
            keys = randomness.draw_keys(keys_B, first_offset + offset, Purpose.DRAFT)
            token_B = randomness.draw(keys, log_q_BV)
            return token_B if ids_V is None else jnp.array(ids_V)[token_B], log_q_BV

        def step(
            carry: tuple[DecodeState, Array], offset: Array
        ) -> tuple[tuple[DecodeState, Array], tuple[Array, Array]]:
            cache, logits_BV = carry
            token_B, log_q_BV = propose(logits_BV, offset)
            logits_B1V, cache = extend(params, cache, token_B[:, None])
            return (cache, logits_B1V[:, 0]), (token_B, log_q_BV)

        # The last token is proposed outside the scan because the logits after it are never used.
        (cache, logits_BV), (tokens_GB, log_q_GBV) = jax.lax.scan(
            step, (cache, logits_BV), jnp.arange(block_size - 1)
        )
        token_B, log_q_BV = propose(logits_BV, block_size - 1)
        tokens_BG = jnp.concatenate([tokens_GB.T, token_B[:, None]], axis=1)
        log_q_BGV = jnp.concatenate([jnp.moveaxis(log_q_GBV, 0, 1), log_q_BV[:, None]], axis=1)
        log_q_BGV = self.model.spread(log_q_BGV)[..., : distribution.vocab_size]
        tokens_BNG = tokens_BG.reshape(rows, blocks, block_size)
        return Draft(
            tokens_BNG=tokens_BNG,
            log_q_BNGV=log_q_BGV.reshape(rows, blocks, block_size, -1),
            length_BN=jnp.full((rows, blocks), block_size, jnp.int32),
            state=_Drafted(state, cache, pending_B, tokens_BNG),
        )

    def commit(self, state: _Drafted, branch_B: Array, accepted_B: Array) -> ModelMemory:
        """See `Drafter.commit`."""
        rows, blocks, _ = state.tokens_BNG.shape
        tokens_BG, cache = state.tokens_BNG[:, 0], state.cache
        if blocks > 1:
            tokens_BG = state.tokens_BNG[jnp.arange(rows), branch_B]
            cache = cache.select(jnp.arange(rows) * blocks + branch_B)
        memory = state.memory
        # accepted + 1 tokens were committed, and the last is pending now. The one before it has index
        # accepted + 1, counted from the old previous token; idle rows (-1) keep the old previous token.
        line = [memory.previous_B[:, None], state.pending_B[:, None], tokens_BG]
        line_BK = jnp.concatenate(line, axis=1)
        previous_B = jnp.take_along_axis(line_BK, (accepted_B + 1)[:, None], axis=1)[:, 0]
        idle_B = accepted_B < 0
        gained_B = jnp.where(idle_B, 0, accepted_B + memory.has_previous_B)
        return ModelMemory(
            cache=cache.rewind(memory.cache.length_B + gained_B),
            previous_B=previous_B,
            has_previous_B=memory.has_previous_B | ~idle_B,
        )

    def follow(
        self, params: Params, state: ModelMemory, pending_B: Array, tokens_BT: Array, count_B: Array
    ) -> ModelMemory:
        """See `Drafter.follow`; makes one call of the network."""
        pending_B = _pending(state, pending_B)
        line_BK = jnp.concatenate([state.previous_B[:, None], pending_B[:, None], tokens_BT], axis=1)
        width = tokens_BT.shape[1]
        fed_BT = jnp.where(state.has_previous_B[:, None], line_BK[:, :width], line_BK[:, 1 : width + 1])
        _, cache = self.model.extend(params, state.cache, fed_BT)
        some_B = count_B > 0
        gained_B = jnp.where(some_B, count_B - 1 + state.has_previous_B, 0)
        return ModelMemory(
            cache=cache.rewind(state.cache.length_B + gained_B),
            previous_B=jnp.take_along_axis(line_BK, count_B[:, None], axis=1)[:, 0],
            has_previous_B=state.has_previous_B | some_B,
        )


def _pending(memory: ModelMemory, pending_B: Array) -> Array:
    """Returns the pending tokens for the drafter: its own in a row's first round, then the target's."""
    return jnp.where(memory.has_previous_B, pending_B, memory.previous_B)
