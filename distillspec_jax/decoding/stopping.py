"""When a sequence ends by its own content (its length limit is the loop's business)."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax.numpy as jnp

from distillspec_jax.shapes import Array


class Stopping(Protocol):
    """A frozen, hashable rule: a static part of a decoding loop."""

    def ends(self, output_BT: Array, emitted_B: Array, block_BK: Array) -> Array:
        """Which tokens of a block would end their row.

        Args:
          output_BT: what each row has emitted, valid up to `emitted_B`.
          block_BK: tokens that would follow it.

        Returns:
          Boolean `[B, K]`: the sequence ends with this token (which is kept).
        """


@dataclasses.dataclass(frozen=True)
class StopOnEos:
    """Ends a row at any of the end-of-sequence ids."""

    eos_ids: tuple[int, ...] = (1,)

    def ends(self, output_BT: Array, emitted_B: Array, block_BK: Array) -> Array:
        del output_BT, emitted_B  # An id ends the row wherever it stands.
        return jnp.isin(block_BK, jnp.asarray(self.eos_ids, block_BK.dtype))


STOP_ON_EOS = StopOnEos()
"""T5's convention, id 1: the default everywhere."""
