"""Attention masks of an encoder-decoder, and its initial decoding state.

All encoder-decoder families share these; each handles positions in its own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from distillspec_jax.models.attention import bias_of
from distillspec_jax.models.interface import Batch, DecodeState
from distillspec_jax.models.mask_tails import places
from distillspec_jax.shapes import Array


class Sight(NamedTuple):
    """Whether a token (second axis) may attend to another (third), under teacher forcing.

    Attributes:
      inputs_BSS: inputs to inputs.
      targets_BTT: targets to targets; `[1, T, T]` if all rows have the same mask.
      across_BTS: targets to inputs.
      position: int32, positions of the targets: `[T]`, shared by all rows, or `[B, T]`.
    """

    inputs_BSS: Array
    targets_BTT: Array
    across_BTS: Array
    position: Array


def sight(batch: Batch) -> Sight:
    """Makes the masks of a batch: one example per row, perhaps with tails of masks, or several."""
    inputs_BS, t = batch["encoder_input_tokens"], batch["decoder_input_tokens"].shape[1]
    segments_BS = batch.get("encoder_segment_ids")
    tailed, position = places(batch), jnp.arange(t)
    targets = jnp.tril(jnp.ones((t, t), bool))[None]
    if tailed is not None:
        targets, position = tailed.visible(), tailed.position
    across = jnp.broadcast_to((inputs_BS > 0)[:, None, :], (len(inputs_BS), t, inputs_BS.shape[1]))
    if segments_BS is not None:
        own_BT = batch["decoder_segment_ids"]
        targets = targets & (own_BT[:, :, None] == own_BT[:, None, :])
        across = across & (own_BT[:, :, None] == segments_BS[:, None, :])
    return Sight(sight_of_inputs(inputs_BS, segments_BS), targets, across, position)


def sight_of_inputs(inputs_BS: Array, segments_BS: Array | None = None) -> Array:
    """Makes the boolean encoder mask `[B, S, S]`: whether an input token may attend to another."""
    real_BS = inputs_BS > 0
    mask_BSS = real_BS[:, :, None] & real_BS[:, None, :]
    if segments_BS is not None:
        mask_BSS &= segments_BS[:, :, None] == segments_BS[:, None, :]
    return mask_BSS


def started(batch: Batch, position: Array, start_id: int) -> Array:
    """Returns the decoder's tokens, beginning with the network's own start token as decoding does.

    Features always start targets with 0.

    Args:
      position: see `Sight.position`; a packed row's batch has its own.
    """
    tokens_BT = batch["decoder_input_tokens"]
    if start_id == 0:
        return tokens_BT
    first = batch.get("decoder_positions", jnp.atleast_2d(position)) == 0
    return jnp.where(first & (tokens_BT == 0), start_id, tokens_BT)


def first_state(
    cross: list[tuple[Array, Array]], prompt_BS: Array, max_length: int, start_id: int
) -> tuple[DecodeState, Array]:
    """See `LanguageModel.prefill`.

    Args:
      cross: keys and values of the prompts, `[B, H, S, D]`, for every decoder layer; self-attention's have
        the same number and width of heads.
      start_id: the pending token.
    """

    def empty(cross_BHSD: Array) -> Any:
        b, h, _, d = cross_BHSD.shape
        return jnp.zeros((b, h, max_length, d), cross_BHSD.dtype)

    rows = len(prompt_BS)
    state = DecodeState(
        length_B=jnp.zeros(rows, jnp.int32),
        cache=jax.tree.map(empty, cross),
        context={"cross": cross, "mask_BS": prompt_BS > 0},
    )
    return state, jnp.full(rows, start_id, jnp.int32)


def extended(
    layers: Sequence[Any], x_BKM: Array, state: DecodeState, each: Sequence[Any]
) -> tuple[Array, list[tuple[Array, Array]]]:
    """Runs a decoder's layers on new tokens, with the cache and the encoded inputs.

    Args:
      each: every layer's self-attention bias, or view.

    Returns:
      The last layer's output and the extended cache.
    """
    cross_bias = bias_of(state.context["mask_BS"][:, None])
    cache = []
    for layer, kv, own, cross in zip(layers, state.cache, each, state.context["cross"], strict=True):
        x_BKM, kv = layer.extend(x_BKM, kv, state.length_B, own, cross, cross_bias)
        cache.append(kv)
    return x_BKM, cache
