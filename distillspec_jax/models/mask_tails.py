"""Rows of targets followed by tails of masks, on which `distillation/one_pass.py` trains a draft.

A batch with tails has, in addition to `decoder_input_tokens` `[B, X]` (T tokens per row, then masks):

    decoder_positions  `[B, X]`, counted from the first target; a tail's positions continue after its cut
    decoder_tails      `[B, X]`, 0 for a token, else the number of the tail that contains the mask
    decoder_cuts       `[B, X]`, the last visible token position: a token's own, or the tail's cut

All tails of a row share its tokens, so each additional cut costs only its masks, not another prefix.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from distillspec_jax.models.interface import Batch
from distillspec_jax.shapes import Array


class Places(NamedTuple):
    """Position, tail and cut of each of X tokens and masks; int32 `[B, X]` each, see above."""

    position: Array
    tail: Array
    cut: Array

    def after(self, position_BS: Array, shift_BX: Array) -> Places:
        """Returns the places with a prompt prepended, which shifts positions and cuts by `shift_BX`."""
        position_BX = self.position + shift_BX
        return Places(
            jnp.concatenate([position_BS, position_BX], axis=1),
            jnp.concatenate([jnp.zeros_like(position_BS), self.tail], axis=1),
            jnp.concatenate([position_BS, self.cut + shift_BX], axis=1),
        )

    def visible(self) -> Array:
        """Computes whether a token or mask (second axis) attends to another (third): `[B, X, X]`."""
        key_position, key_tail = self.position[:, None], self.tail[:, None]
        before = key_position <= self.position[:, :, None]
        token_seen = (key_tail == 0) & (key_position <= self.cut[:, :, None])
        return token_seen | (key_tail > 0) & (key_tail == self.tail[:, :, None]) & before


def places(batch: Batch) -> Places | None:
    """Reads the places of a batch; None if it has no tails."""
    if "decoder_tails" not in batch:
        return None
    return Places(batch["decoder_positions"], batch["decoder_tails"], batch["decoder_cuts"])
