"""Sight between the tokens of an encoder-decoder, and the state that its decoding begins with.

Every family with two stacks has these; how positions enter is its own.
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
    """Whether a token (second axis) may see another (third), under teacher forcing.

    Attributes:
      inputs_BSS: both of the inputs.
      targets_BTT: both of the targets; `[1, T, T]` where it is the same in all rows.
      across_BTS: a target's token and an input's.
      position: int32, of the targets in their row: `[T]`, those of all rows, or `[B, T]`.
    """

    inputs_BSS: Array
    targets_BTT: Array
    across_BTS: Array
    position: Array


def sight(batch: Batch) -> Sight:
    """Reads it from a batch of features: one example a row, perhaps with tails of masks, or several."""
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
    """Whether a token of the inputs may see another: bool `[B, S, S]`."""
    real_BS = inputs_BS > 0
    mask_BSS = real_BS[:, :, None] & real_BS[:, None, :]
    if segments_BS is not None:
        mask_BSS &= segments_BS[:, :, None] == segments_BS[:, None, :]
    return mask_BSS


def first_state(
    cross: list[tuple[Array, Array]], prompt_BS: Array, max_length: int, start_id: int
) -> tuple[DecodeState, Array]:
    """See `LanguageModel.prefill`.

    Args:
      cross: keys and values of the prompts, `[B, H, S, D]`, for every layer of the decoder, whose own have as
        many heads of the same width.
      start_id: the token that is pending.
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
    """Runs a decoder's layers on new tokens, against the cache and the inputs.

    Args:
      each: how every layer sees the line: a bias, or a view.

    Returns:
      The last layer's output and the longer cache.
    """
    cross_bias = bias_of(state.context["mask_BS"][:, None])
    cache = []
    for layer, kv, own, cross in zip(layers, state.cache, each, state.context["cross"], strict=True):
        x_BKM, kv = layer.extend(x_BKM, kv, state.length_B, own, cross, cross_bias)
        cache.append(kv)
    return x_BKM, cache
