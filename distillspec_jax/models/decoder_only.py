"""Decoder-only networks in Linen, from GPT to Gemma 3, as a `LanguageModel`.

Prompt and targets form one causal sequence. The features' inputs are the prompt, so that all code above this
package works with both kinds of models. The targets' start token is the last token of the prompt, which
`prefill` leaves pending.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from distillspec_jax.errors import UsageError
from distillspec_jax.models import rotary
from distillspec_jax.models.attention import (
    Attention,
    LayerNorm,
    MlpBlock,
    RMSNorm,
    View,
    bias_of,
    shared_dropout,
)
from distillspec_jax.models.decoder_only_config import DecoderOnlyConfig
from distillspec_jax.models.decoder_stack import DecoderStack, Reach, reach_of
from distillspec_jax.models.dense import Form
from distillspec_jax.models.embedding import Embed
from distillspec_jax.models.interface import Batch, DecodeState, prompt_lengths
from distillspec_jax.models.layer_stack import through
from distillspec_jax.models.mask_tails import places
from distillspec_jax.models.network import Network
from distillspec_jax.models.prepared import prepared
from distillspec_jax.models.rotary import RopeScaling, Rotation
from distillspec_jax.shapes import Array, Params

_EMBEDDING_SPREAD = 0.02
"""GPT-2's value, because the table also makes the logits, which are not scaled."""


class Line(NamedTuple):
    """Prompts and targets as one sequence.

    Attributes:
      tokens_BT, position_BT: int32; positions count each row's own tokens and skip padding.
      mask_BTT: whether a token (second axis) may attend to another (third).
    """

    tokens_BT: Array
    position_BT: Array
    mask_BTT: Array


def line(batch: Batch) -> Line:
    """Concatenates `encoder_input_tokens` without the last and `decoder_input_tokens` starting with that one.

    A row holds one example, perhaps with tails of masks (`mask_tails.py`), or several (`*_segment_ids`,
    `*_positions`). Without inputs in the batch or in a row, the sequence is just the targets, which start
    with the id 0 of the features.
    """
    tailed = places(batch)
    outputs_BT = batch["decoder_input_tokens"]
    inputs_BS = batch.get("encoder_input_tokens", jnp.zeros((len(outputs_BT), 0), jnp.int32))
    slot_1S = jnp.arange(inputs_BS.shape[1])[None]
    if "encoder_segment_ids" in batch:
        own_BS, own_BT = batch["encoder_segment_ids"], batch["decoder_segment_ids"]
        place_BS, place_BT = batch["encoder_positions"], batch["decoder_positions"]
    else:
        own_BS = (slot_1S < prompt_lengths(inputs_BS)[:, None]).astype(jnp.int32)
        own_BT = jnp.ones_like(outputs_BT)
        place_BS = jnp.broadcast_to(slot_1S, inputs_BS.shape)
        place_BT = jnp.broadcast_to(jnp.arange(outputs_BT.shape[1])[None], outputs_BT.shape)
        place_BT = place_BT if tailed is None else tailed.position

    same_BTS = own_BT[:, :, None] == own_BS[:, None]
    length_BT = jnp.sum(same_BTS, axis=2)
    if inputs_BS.shape[1]:
        last_BT = jnp.max(jnp.where(same_BTS, slot_1S[:, None], 0), axis=2)
        first_BT = (place_BT == 0) & (outputs_BT == 0) & (length_BT > 0)
        outputs_BT = jnp.where(first_BT, jnp.take_along_axis(inputs_BS, last_BT, axis=1), outputs_BT)
    # The pending token is among the targets, so its slot in the prompt is masked like padding.
    followed_BS = jnp.pad(own_BS, ((0, 0), (0, 1)))[:, 1:] == own_BS
    own_BX = jnp.concatenate([jnp.where(followed_BS, own_BS, 0), own_BT], axis=1)
    shift_BT = jnp.maximum(length_BT - 1, 0)
    position_BX = jnp.concatenate([place_BS, place_BT + shift_BT], axis=1)
    visible_BXX = position_BX[:, None] <= position_BX[:, :, None]
    if tailed is not None:
        visible_BXX = tailed.after(place_BS, shift_BT).visible()
    visible_BXX &= own_BX[:, :, None] == own_BX[:, None]
    return Line(jnp.concatenate([inputs_BS, outputs_BT], axis=1), position_BX, visible_BXX)


class DecoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward, with optional post-norms."""

    config: DecoderOnlyConfig
    form: Form = "canonical"
    kernel: str = "plain"

    def setup(self) -> None:
        config, form, dtype = self.config, self.form, jnp.dtype(self.config.dtype)
        self.pre_self_attention_layer_norm = _norm(config)
        self.self_attention = Attention(
            config.num_heads,
            config.head_dim,
            config.emb_dim,
            config.dropout_rate,
            dtype,
            form,
            fused=form != "canonical",
            num_kv_heads=config.num_kv_heads,
            qkv_bias=config.qkv_bias,
            out_bias=config.out_bias,
            query_scale=(config.query_scalar or config.head_dim) ** -0.5,
            norm_epsilon=config.norm_epsilon if config.qk_norm else None,
            norms_around_zero=config.norms_around_zero,
            kernel=self.kernel,
        )
        self.pre_mlp_layer_norm = _norm(config)
        self.mlp = MlpBlock(
            config.mlp_dim, config.mlp_activations, config.dropout_rate, dtype, form, config.mlp_bias
        )
        if config.post_norms:
            self.post_self_attention_layer_norm, self.post_mlp_layer_norm = _norm(config), _norm(config)
        self.dropout = shared_dropout(config.dropout_rate)

    def __call__(self, x_BTM: Array, view: View, deterministic: bool) -> tuple[Array, tuple[Array, Array]]:
        """Returns the residual stream after the layer, and the layer's keys and values."""
        y = self.pre_self_attention_layer_norm(x_BTM)
        query, kv = self.self_attention.queries_keys_values(y, view.rotation)
        y = self.self_attention.attend(query, kv, view.bias, deterministic)
        return self._after_attention(x_BTM, y, deterministic), kv

    def extend(
        self,
        x_BKM: Array,
        cache: tuple[Array, Array],
        length_B: Array,
        view: View,
    ) -> tuple[Array, tuple[Array, Array]]:
        y = self.pre_self_attention_layer_norm(x_BKM)
        y, cache = self.self_attention.extend(y, cache, length_B, view.bias, view.rotation)
        return self._after_attention(x_BKM, y, True), cache

    def _after_attention(self, x: Array, attended: Array, deterministic: bool) -> Array:
        post_norms = self.config.post_norms
        attended = self.post_self_attention_layer_norm(attended) if post_norms else attended
        x = x + self.dropout(attended, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        y = self.post_mlp_layer_norm(y) if post_norms else y
        return x + self.dropout(y, deterministic=deterministic)


def _norm(config: DecoderOnlyConfig) -> nn.Module:
    dtype = jnp.dtype(config.dtype)
    if config.norm == "layer":
        return LayerNorm(dtype, config.norm_epsilon)
    return RMSNorm(dtype, config.norm_epsilon, around_zero=config.norms_around_zero)


class Decoder(DecoderStack):
    """The stack; each layer has its own mask and rotation (`View`)."""

    config: DecoderOnlyConfig

    def setup(self) -> None:
        self.set_up(DecoderLayer, self.config.num_layers, _norm(self.config), deterministic=3)

    def _views(self, mask_BQS: Array, query_BQ: Array, key_BS: Array) -> list[View]:
        """Makes every layer's view from the positions of queries and keys."""
        config = self.config
        everywhere = View(bias_of(mask_BQS), self._rotation(query_BQ, config.rope_theta, config.rope_scaling))
        if not config.window:
            return [everywhere] * config.num_layers
        near_BQS = mask_BQS & (query_BQ[:, :, None] - key_BS[:, None] < config.window)
        rotation = everywhere.rotation
        if config.window_rope_theta:
            rotation = self._rotation(query_BQ, config.window_rope_theta)
        windowed = View(bias_of(near_BQS), rotation)
        return [everywhere if all_seen else windowed for all_seen in config.layers_without_window]

    def _rotation(
        self, position_BT: Array, theta: float, scaling: RopeScaling | None = None
    ) -> Rotation | None:
        if self.config.positions != "rotary":
            return None
        return rotary.rotation(position_BT, rotary.frequencies(self.config.head_dim, theta, scaling))

    def __call__(
        self, x_BTM: Array, position_BT: Array, mask_BTT: Array, deterministic: bool
    ) -> tuple[Array, list[tuple[Array, Array]]]:
        """Returns the stack's output, the input of `features`, and every layer's keys and values."""
        views = self._views(mask_BTT, position_BT, position_BT)
        x = self.dropout(x_BTM, deterministic=deterministic)
        layer = functools.partial(DecoderLayer, self.config, self.form, self.kernel)
        return through(self, layer, x, each=views, deterministic=deterministic)

    def extend(self, x_BKM: Array, state: DecodeState, reach: Reach) -> tuple[Array, Any]:
        """Runs the stack on new tokens with the cache."""
        views, x, cache = self._views(reach.before_BKS, reach.position_BK, reach.slot_1S), x_BKM, []
        for layer, kv, view in zip(self.layers, state.cache, views, strict=True):
            x, kv = layer.extend(x, kv, state.length_B, view)
            cache.append(kv)
        return self.features(x, True), cache


class Transformer(nn.Module):
    """The network; `DecoderOnly` below is its interface to decoding and training."""

    config: DecoderOnlyConfig
    form: Form = "canonical"
    remat: str = "none"
    scan_layers: bool = False
    kernel: str = "plain"

    def setup(self) -> None:
        config = self.config
        self.token_embedder = Embed(
            config.vocab_size, config.emb_dim, spread=_EMBEDDING_SPREAD, rank=config.embedding_rank
        )
        if config.positions == "learned":
            self.position_embedder = Embed(
                config.max_positions, config.emb_dim, "positions", _EMBEDDING_SPREAD
            )
        self.decoder = Decoder(config, self.form, self.remat, self.scan_layers, self.kernel)

    def _embed(self, tokens: Array, position: Array) -> Array:
        x = self.token_embedder(tokens)
        if self.config.scaled_embedding:
            x *= self.config.emb_dim**0.5
        if self.config.positions == "learned":
            x += self.position_embedder(position)
        return x.astype(jnp.dtype(self.config.dtype))

    def __call__(self, batch: Batch, deterministic: bool = True) -> Array:
        return self.readout(self.hidden(batch, deterministic))

    def readout(self, hidden_BTM: Array) -> Array:
        return self.decoder.logits(hidden_BTM, self.token_embedder.embedding)

    def hidden(self, batch: Batch, deterministic: bool) -> Array:
        whole = line(batch)
        x = self._embed(whole.tokens_BT, whole.position_BT)
        x, _ = self.decoder(x, whole.position_BT, whole.mask_BTT, deterministic)
        targets = batch["decoder_input_tokens"].shape[1]
        return self.decoder.features(x[:, x.shape[1] - targets :], deterministic)

    def read(self, prompt_BT: Array) -> list[tuple[Array, Array]]:
        """Computes every layer's keys and values for whole prompts, padded on the right."""
        place_1T = jnp.arange(prompt_BT.shape[1])[None]
        before_1TT = place_1T[:, None] <= place_1T[:, :, None]
        return self.decoder(self._embed(prompt_BT, place_1T), place_1T, before_1TT, True)[1]

    def extend(self, tokens_BK: Array, state: DecodeState) -> tuple[Array, Any]:
        reach = reach_of(state, tokens_BK.shape[1])
        return self.decoder.extend(self._embed(tokens_BK, reach.position_BK), state, reach)


@dataclasses.dataclass(frozen=True)
class DecoderOnly(Network):
    """A decoder-only network as a `LanguageModel`."""

    config: DecoderOnlyConfig
    transformer = Transformer
    config_type = DecoderOnlyConfig
    depth_field = "num_layers"

    @property
    def room(self) -> int | None:
        # The last token is never fed to the network.
        return self.config.max_positions + 1 if self.config.positions == "learned" else None

    def prepare(self, params: Params, rows: int | None = None) -> Params:
        """See `LanguageModel.prepare`."""
        return prepared(params, rows, head_dim=self.config.head_dim, int8=self.int8)

    def hidden(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        """See `interface.py`; the targets continue where the row's prompt ends (`line`).

        Raises:
          UsageError: as in `prefill`.
        """
        if "decoder_positions" not in batch:  # packed rows exceed their examples; `training.job` checks them
            self._check_room(batch.get("encoder_input_tokens"), batch["decoder_input_tokens"].shape[1])
        return super().hidden(params, batch, dropout_key=dropout_key)

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        """Caches every prompt without its last token, which is pending.

        Raises:
          UsageError: prompt and output exceed the learned positions.
        """
        self._check_room(prompt_BT, max_length)
        length_B = jnp.maximum(prompt_lengths(prompt_BT) - 1, 0)
        more = ((0, 0), (0, 0), (0, max_length - 1), (0, 0))
        cache = jax.tree.map(lambda kv: jnp.pad(kv, more), self._apply(params, prompt_BT, method="read"))
        pending_B = jnp.take_along_axis(prompt_BT, length_B[:, None], axis=1)[:, 0]
        return DecodeState(length_B, cache, context={}), pending_B

    def _check_room(self, prompt_BT: Array | None, max_length: int) -> None:
        width = 1 if prompt_BT is None else prompt_BT.shape[1]
        if self.room is not None and width + max_length > self.room:
            raise UsageError(
                f"prompts of up to {width} tokens and {max_length} more do not fit the model's "
                f"{self.config.max_positions} positions: shorten either"
            )
