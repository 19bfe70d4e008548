"""Several different drafters for one target: each offers its blocks, and one target call verifies all."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax.numpy as jnp

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.drafters import Draft, Drafter
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.decoding.verifiers import row_of
from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array


@flax.struct.dataclass
class HybridMemory:
    """The members' memories, and the last round's text, which members whose block lost have yet to read.

    Attributes:
      members: one memory per member.
      pending_B: int32, the pending token of the last round.
      tokens_BG: int32, the winning block of the last round.
      unread_MB: int32 `[B]` per member: tokens that were committed without it, accepted + 1 or 0.
    """

    members: tuple[Any, ...]
    pending_B: Array
    tokens_BG: Array
    unread_MB: tuple[Array, ...]


class _Drafted(NamedTuple):
    drafts: tuple[Draft, ...]
    pending_B: Array


@dataclasses.dataclass(frozen=True)
class HybridDrafter:
    """Concatenates the candidate blocks of several drafters; a rule for several candidates verifies them.

    The members' draws are independent given the prefix (each member has its own keys), and blocks are
    offered in the order of the members. A member whose block lost reads the round's text in the next round,
    in one extra call of its network.

    Attributes:
      members: drafters, models or prompt lookup.
      block_size: the largest G of any round.

    Raises:
      UsageError: there is no member.
    """

    members: tuple[Drafter, ...]
    block_size: int = 5

    def __post_init__(self) -> None:
        if not self.members:
            raise UsageError("a hybrid drafter needs at least one member")

    @property
    def candidates(self) -> int:
        """Blocks per row."""
        return sum(self._blocks)

    @property
    def _blocks(self) -> list[int]:
        return [member.candidates for member in self.members]

    def prepare(self, params: tuple[Any, ...], rows: int | None) -> tuple[Any, ...]:
        """See `Drafter.prepare`; prepares each member's parameters."""
        return tuple(member.prepare(own, rows) for member, own in zip(self.members, params, strict=True))

    def init(
        self, params: tuple[Any, ...], prompt_BT: Array, max_length: int, pending_B: Array
    ) -> HybridMemory:
        """See `Drafter.init`."""
        zero_B = jnp.zeros(len(prompt_BT), jnp.int32)
        return HybridMemory(
            members=tuple(
                member.init(own, prompt_BT, max_length, pending_B)
                for member, own in zip(self.members, params, strict=True)
            ),
            pending_B=zero_B,
            tokens_BG=jnp.zeros((len(prompt_BT), self.block_size), jnp.int32),
            unread_MB=(zero_B,) * len(self.members),
        )

    def draft(
        self,
        params: tuple[Any, ...],
        state: HybridMemory,
        keys_B: Array,
        pending_B: Array,
        distribution: SamplingDistribution,
        block_size: int,
    ) -> Draft:
        """See `Drafter.draft`."""
        memories = self._read(params, state, pending_B)
        drafts = tuple(
            member.draft(own, memory, randomness.member_keys(keys_B, m), pending_B, distribution, block_size)
            for m, (member, own, memory) in enumerate(zip(self.members, params, memories, strict=True))
        )
        return Draft(
            tokens_BNG=jnp.concatenate([draft.tokens_BNG for draft in drafts], axis=1),
            log_q_BNGV=jnp.concatenate([draft.log_q_BNGV for draft in drafts], axis=1),
            length_BN=jnp.concatenate([draft.length_BN for draft in drafts], axis=1),
            state=_Drafted(drafts, pending_B),
        )

    def _read(self, params: tuple[Any, ...], state: HybridMemory, pending_B: Array) -> tuple[Any, ...]:
        """Returns the members' memories after all have read the last round; its last token is pending now."""
        # The text is the accepted drafts, then the token that is pending now.
        kept_BG = jnp.pad(state.tokens_BG, ((0, 0), (0, 1)))
        memories = []
        for member, own, memory, unread_B in zip(
            self.members, params, state.members, state.unread_MB, strict=True
        ):
            last_1K = jnp.arange(kept_BG.shape[1])[None] == unread_B[:, None] - 1
            text_BK = jnp.where(last_1K, pending_B[:, None], kept_BG)
            memories.append(member.follow(own, memory, state.pending_B, text_BK, unread_B))
        return tuple(memories)

    def commit(self, state: _Drafted, branch_B: Array, accepted_B: Array) -> HybridMemory:
        """See `Drafter.commit`."""
        members, unread, first = [], [], 0
        for member, draft, blocks in zip(self.members, state.drafts, self._blocks, strict=True):
            won_B = (branch_B >= first) & (branch_B < first + blocks)
            own_branch_B = jnp.where(won_B, branch_B - first, 0)
            members.append(member.commit(draft.state, own_branch_B, jnp.where(won_B, accepted_B, -1)))
            unread.append(jnp.where(won_B, 0, accepted_B + 1))
            first += blocks
        tokens_BNG = jnp.concatenate([draft.tokens_BNG for draft in state.drafts], axis=1)
        tokens_BG = row_of(tokens_BNG, branch_B)
        room = self.block_size - tokens_BG.shape[1]
        return HybridMemory(
            tuple(members), state.pending_B, jnp.pad(tokens_BG, ((0, 0), (0, room))), tuple(unread)
        )

    def follow(
        self, params: tuple[Any, ...], state: HybridMemory, pending_B: Array, tokens_BT: Array, count_B: Array
    ) -> HybridMemory:
        """See `Drafter.follow`."""
        read = self._read(params, state, pending_B)
        return HybridMemory(
            members=tuple(
                member.follow(own, memory, pending_B, tokens_BT, count_B)
                for member, own, memory in zip(self.members, params, read, strict=True)
            ),
            pending_B=pending_B,
            tokens_BG=state.tokens_BG,
            unread_MB=(jnp.zeros_like(count_B),) * len(self.members),
        )
