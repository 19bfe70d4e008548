"""Training a draft to propose a block in one call (PARD, arXiv 2504.18583, Section 3.2).

Each step draws random cuts of each text and puts masks in place of the tokens after a cut. Each mask learns
the target's distribution at its position given the whole preceding text, although the draft sees the text
only up to the cut. PARD reads every position at every depth and drops some at random. Here cuts are sampled
and the texts read once, so a step costs `cuts * (tokens - 1)` masks per row, whatever the length.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.errors import UsageError, check_number
from distillspec_jax.metrics import Mean
from distillspec_jax.models.interface import Batch
from distillspec_jax.shapes import Array

_OF_TARGETS = ("decoder_target_tokens", "top_ids", "top_logprobs", "tail_logprob")
"""Features with one entry per target token; masks have such entries as well."""


@dataclasses.dataclass(frozen=True)
class OnePass:
    """Settings for training a draft to read masks.

    Attributes:
      mask_id: the id of a mask, which occurs in no text, such as a padded row of the embedding. None: the
        draft's own, or else the first padded row.
      tokens: G, tokens to draft in one call, including the one after the pending token.
      cuts: per text and step.

    Raises:
      UsageError: a number is out of range.
    """

    mask_id: int | None = None
    tokens: int = 8
    cuts: int = 8

    def __post_init__(self) -> None:
        check_number("OnePass.tokens", self.tokens, 2, most=64)
        check_number("OnePass.cuts", self.cuts, 1, most=1024)
        if self.mask_id is not None:
            check_number("OnePass.mask_id", self.mask_id, 0)

    def resolved(self, own: int | None, vocab_size: int, logits: int) -> OnePass:
        """Returns a copy with the mask chosen.

        Args:
          own: the mask that the draft already knows.
          vocab_size: number of real ids; `logits`: of the network, including its embedding's padded rows.

        Raises:
          UsageError: the draft knows another mask, the network lacks the id, or there is no padded row.
        """
        mask_id = self.mask_id
        if own is not None and mask_id not in (None, own):
            raise UsageError(f"OnePass.mask_id={mask_id}: the draft knows {own} as its mask, leave it out")
        if mask_id is None:
            mask_id = own if own is not None else vocab_size
            if mask_id >= logits:
                raise UsageError(
                    f"OnePass.mask_id=None: all {logits} ids of the draft are of its vocabulary; name one "
                    "that no text has, such as a reserved token"
                )
        if mask_id >= logits:
            raise UsageError(f"OnePass.mask_id={mask_id}: must be below the draft's {logits} ids")
        return dataclasses.replace(self, mask_id=mask_id)

    def with_tails(self, batch: Batch, key: Array) -> tuple[dict[str, Array], Array]:
        """Appends tails of masks to the targets of a batch.

        Args:
          batch: rows of one example each, `[B, T]`.
          key: draws the cuts.

        Returns:
          The batch with `[B, X]` instead of `[B, T]`, as described in `models/mask_tails.py`; masks past the
          end of a text have weight 0. And `[B, X]`, the index of the target token that each predicts.
        """
        assert self.mask_id is not None  # `resolved`
        tokens_BT, weights_BT = batch["decoder_input_tokens"], batch["decoder_loss_weights"]
        rows, width = tokens_BT.shape
        slot_BT = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), tokens_BT.shape)
        length_B11 = jnp.max(jnp.where(weights_BT > 0, slot_BT + 1, 1), axis=1)[:, None, None]
        drawn_BM1 = jax.random.uniform(key, (rows, self.cuts, 1))
        cut_BM1 = jnp.minimum(jnp.floor(drawn_BM1 * length_B11), length_B11 - 1).astype(jnp.int32)
        place_BMG = cut_BM1 + jnp.arange(1, self.tokens, dtype=jnp.int32)[None, None]
        number_1M1 = jnp.arange(1, self.cuts + 1, dtype=jnp.int32)[None, :, None]

        def joined(of_tokens_BT: Array, of_masks: Array) -> Array:
            masks_BY = jnp.broadcast_to(of_masks, place_BMG.shape).reshape(rows, -1)
            return jnp.concatenate([of_tokens_BT, masks_BY.astype(of_tokens_BT.dtype)], axis=1)

        position_BX = joined(slot_BT, place_BMG)
        about_BX = jnp.minimum(position_BX, width - 1)
        tailed = {name: of_targets(batch[name], about_BX) for name in _OF_TARGETS if name in batch}
        known_BX = jnp.take_along_axis(weights_BT, about_BX, axis=1)
        return {
            **batch,
            **tailed,
            "decoder_input_tokens": joined(tokens_BT, jnp.array(self.mask_id)),
            "decoder_loss_weights": jnp.where(position_BX < width, known_BX, 0),
            "decoder_positions": position_BX,
            "decoder_tails": joined(jnp.zeros_like(slot_BT), number_1M1),
            "decoder_cuts": joined(slot_BT, cut_BM1),
        }, about_BX


def of_targets(values: Any, about_BX: Array) -> Array:
    """Gathers per-target-token values `[B, T, ...]` for tokens and masks: `[B, X, ...]`."""
    return jax.vmap(lambda values_T, about_X: values_T[about_X])(values, about_BX)


def acceptances(name: str, accepted_BX: Array, mask_BX: Array, batch: Batch) -> dict[str, Mean]:
    """Makes metrics of each token's probability of acceptance, separately for tokens and masks."""
    if "decoder_tails" not in batch:
        return {name: Mean.of(accepted_BX, mask_BX)}
    masks_BX = batch["decoder_tails"] > 0
    return {
        name: Mean.of(accepted_BX, mask_BX * ~masks_BX),
        "acceptance_of_masks": Mean.of(accepted_BX, mask_BX * masks_BX),
    }
