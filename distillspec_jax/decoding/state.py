"""The state that an autoregressive or speculative decoding loop carries from round to round.

Every leaf has the batch as its leading axis, so generic code can gather a row or give its slot to another
prompt without knowing the contents.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.acceptance import Record
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.models.interface import DecodeState
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Array, Params


class Status(enum.IntEnum):
    """The status of a row. A row that is not running is idle: it no longer changes."""

    RUNNING = 0
    ENDED = 1  # by its own content: EOS
    LENGTH = 2  # by its limit
    FAILED = 3  # the target's logits were not finite


class PairParams(NamedTuple):
    """Parameters of the target and of its drafter."""

    target: Params
    draft: Any = None


@flax.struct.dataclass
class RowSettings:
    """PRNG key, limit and sampling distribution of each row of a batch, on the device.

    Attributes:
      keys_B: typed PRNG keys, one per row (`randomness.row_keys`).
      limit_B: int32, maximum tokens to emit, EOS included; 0 makes the row idle from the start.
      distribution: the sampling distribution with `[B]` fields.
    """

    keys_B: Array
    limit_B: Array | np.ndarray
    distribution: SamplingDistribution


@flax.struct.dataclass
class Rows:
    """The settings of each row and its output so far.

    Attributes:
      settings: see `RowSettings`.
      pending_B: int32, the last committed token, which no KV cache holds yet.
      output_BT: int32, the emitted tokens, 0 beyond `emitted_B`.
      emitted_B: int32, number of emitted tokens, EOS included.
      status_B: int32, a `Status`.
    """

    settings: RowSettings
    pending_B: Array
    output_BT: Array
    emitted_B: Array
    status_B: Array

    @classmethod
    def start(cls, settings: RowSettings, pending_B: Array, max_new_tokens: int) -> Rows:
        """Makes rows that have emitted nothing, with room for `max_new_tokens`; caps limits at that."""
        limit_B = jnp.minimum(settings.limit_B, max_new_tokens).astype(jnp.int32)
        rows = limit_B.shape[0]
        return cls(
            settings=RowSettings(settings.keys_B, limit_B, settings.distribution.for_rows(rows)),
            pending_B=pending_B.astype(jnp.int32),
            output_BT=jnp.zeros((rows, max_new_tokens), jnp.int32),
            emitted_B=jnp.zeros(rows, jnp.int32),
            status_B=jnp.where(limit_B > 0, int(Status.RUNNING), int(Status.LENGTH)).astype(jnp.int32),
        )

    @property
    def running_B(self) -> Array:
        """Boolean: whether the row is still generating."""
        return self.status_B == Status.RUNNING

    @property
    def remaining_B(self) -> Array:
        """int32: how many tokens the limit still allows."""
        return jnp.asarray(self.settings.limit_B) - self.emitted_B

    def append(self, block_BK: Array, count_B: Array, ends_BK: Array) -> Rows:
        """Emits the first `count_B` tokens of a block and updates the status of the rows.

        Args:
          block_BK: int32 tokens, garbage from `count_B` on.
          count_B: int32 in 0..K, at most `remaining_B`; 0 leaves the row unchanged.
          ends_BK: boolean, `Stopping.ends` of the block; only the last emitted token may end a row.
        """
        rows, capacity = self.output_BT.shape
        offset_1K = jnp.arange(block_BK.shape[1])[None]
        slot_BK = self.emitted_B[:, None] + offset_1K
        slot_BK = jnp.where(offset_1K < count_B[:, None], slot_BK, capacity)  # out of range: dropped
        output_BT = self.output_BT.at[jnp.arange(rows)[:, None], slot_BK].set(block_BK, mode="drop")
        emitted_B = self.emitted_B + count_B
        some_B = count_B > 0
        ended_B = some_B & take_last(ends_BK, count_B)
        full_B = some_B & (emitted_B >= self.settings.limit_B)
        status_B = jnp.where(full_B, int(Status.LENGTH), self.status_B)
        return dataclasses.replace(
            self,
            pending_B=jnp.where(some_B, take_last(block_BK, count_B), self.pending_B),
            output_BT=output_BT,
            emitted_B=emitted_B,
            status_B=jnp.where(ended_B, int(Status.ENDED), status_B),
        )

    def fail(self, failed_B: Array) -> Rows:
        """Marks rows whose target logits were not finite; they keep the tokens they have emitted."""
        return dataclasses.replace(
            self, status_B=jnp.where(failed_B, int(Status.FAILED), self.status_B).astype(jnp.int32)
        )


@flax.struct.dataclass
class Counts:
    """Statistics of each row, as sums; reports compute the ratios.

    Tokens past EOS or a limit are never tested, accepted or emitted, and a failed round counts nothing, so
    `emitted = accepted + rounds - cut` holds in every row at any time.

    Attributes:
      rounds_B: int32, verify passes of the target (autoregressive: one-token passes), prefill excluded.
      cut_B: int32, rounds whose last emitted token is an accepted draft that was EOS or reached the limit.
      drafted_B: int32, drafts that were offered (with several blocks, in the chosen one), tested or not.
      tested_BG: int32, rounds in which draft position i was tested.
      accepted_BG: int32, rounds in which at least i + 1 drafts were accepted.
      overlap_B: float32, sum over tested positions of sum_v min(p, q); zero unless the loop measures it.
    """

    rounds_B: Array
    cut_B: Array
    drafted_B: Array
    tested_BG: Array
    accepted_BG: Array
    overlap_B: Array

    @classmethod
    def zeros(cls, rows: int, block_size: int) -> Counts:
        zero_B = jnp.zeros(rows, jnp.int32)
        zero_BG = jnp.zeros((rows, block_size), jnp.int32)
        return cls(zero_B, zero_B, zero_B, zero_BG, zero_BG, zero_B.astype(jnp.float32))

    def records(self, emitted_B: Array | np.ndarray) -> list[Record]:
        """Makes the record of each row from its number of emitted tokens; for arrays on the host."""
        return [
            Record(
                emitted_tokens=int(emitted_B[b]),
                target_calls=int(self.rounds_B[b]),
                tested=int(self.tested_BG[b].sum()),
                accepted=int(self.accepted_BG[b].sum()),
                drafted=int(self.drafted_B[b]),
                cut_rounds=int(self.cut_B[b]),
                tested_at=tuple(self.tested_BG[b].tolist()),
                accepted_at=tuple(self.accepted_BG[b].tolist()),
                overlap=float(self.overlap_B[b]),
            )
            for b in range(len(emitted_B))
        ]


@flax.struct.dataclass
class State:
    """The carry of a decoding loop.

    Attributes:
      rows: settings and output of each row.
      target: the target's state; holds every committed token except the pending one.
      draft: the drafter's memory between rounds; None in autoregressive decoding.
      counts: statistics; their G is the largest block that this state has room for.
    """

    rows: Rows
    target: DecodeState
    draft: Any
    counts: Counts


def placed(state: State, partitioner: Partitioner | None) -> State:
    """Constrains the state's sharding: rows over the mesh's data axis, target heads over its model axis.

    Without the constraint, XLA replicates an empty cache on every device and all-gathers every update to it.
    """
    if partitioner is None:
        return state
    shardings = dataclasses.replace(
        partitioner.rows(state), target=partitioner.rows(state.target, heads=True)
    )
    return jax.lax.with_sharding_constraint(state, shardings)


class Loop(Protocol):
    """A way to decode: a frozen, hashable value, a static argument of jitted functions."""

    def init(self, params: PairParams, prompt_BT: Array, settings: RowSettings, max_new_tokens: int) -> State:
        """Prefills the prompts (padded as in `prompt_lengths`) and reserves room for `max_new_tokens`."""

    def run(
        self, params: PairParams, state: State, max_rounds: Array | int, enough: Array | int = 1
    ) -> State:
        """Decodes while at least `enough` rows run, for at most `max_rounds` rounds, all on the device.

        Both numbers are traced.
        """


def run_rounds(
    round_: Callable[[State], State], state: State, max_rounds: Array | int, enough: Array | int
) -> State:
    """Implements `Loop.run` for a given round function."""

    def go_on(carry: tuple[State, Array]) -> Array:
        state, rounds = carry
        return (rounds < max_rounds) & (jnp.sum(state.rows.running_B) >= enough)

    def step(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, rounds = carry
        return round_(state), rounds + 1

    return jax.lax.while_loop(go_on, step, (state, jnp.int32(0)))[0]


def take_last(values_BK: Array, count_B: Array) -> Array:
    """Returns `values_BK[b, count_B[b] - 1]`; entry 0 where the count is 0."""
    index_B = jnp.maximum(count_B - 1, 0)
    return jnp.take_along_axis(values_BK, index_B[:, None], axis=1)[:, 0]
