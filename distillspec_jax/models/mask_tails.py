"""Rows of targets that go on in tails of masks, on which `distillation/one_pass.py` trains a draft.

A batch has tails where it has, beside `decoder_input_tokens` `[B, X]` (the T tokens of each row, then masks):

    decoder_positions  `[B, X]`, counted from the first target; those of a tail go on behind its cut
    decoder_tails      `[B, X]`, 0 for a token, else the number of the tail that a mask is in
    decoder_cuts       `[B, X]`, the last position of the tokens that it sees: a token's own, a tail's cut

Many tails of one row share its tokens, so that a cut costs its masks and no second reading of the prefix.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from distillspec_jax.models.interface import Batch
from distillspec_jax.shapes import Array


class Places(NamedTuple):
    """Where each of X tokens and masks stands; int32 `[B, X]` each, see above."""

    position: Array
    tail: Array
    cut: Array

    def after(self, position_BS: Array, shift_BX: Array) -> Places:
        """The places of a line that begins with a prompt, whose tokens precede these by `shift_BX`."""
        position_BX = self.position + shift_BX
        return Places(
            jnp.concatenate([position_BS, position_BX], axis=1),
            jnp.concatenate([jnp.zeros_like(position_BS), self.tail], axis=1),
            jnp.concatenate([position_BS, self.cut + shift_BX], axis=1),
        )

    def visible(self) -> Array:
        """Whether a token or mask (second axis) sees another (third): `[B, X, X]`."""
        key_position, key_tail = self.position[:, None], self.tail[:, None]
        before = key_position <= self.position[:, :, None]
        token_seen = (key_tail == 0) & (key_position <= self.cut[:, :, None])
        return token_seen | (key_tail > 0) & (key_tail == self.tail[:, :, None]) & before


def places(batch: Batch) -> Places | None:
    """The places of a batch with tails; None: it has none."""
    if "decoder_tails" not in batch:
        return None
    return Places(batch["decoder_positions"], batch["decoder_tails"], batch["decoder_cuts"])
