"""T5Gemma's layers and their attention masks.

Sublayers have pre- and post-norms, and attention scores are soft-capped, as in Gemma 2. Positions are rotary
and enter only self-attention.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from distillspec_jax.models import rotary
from distillspec_jax.models.attention import (
    Attention,
    MlpBlock,
    RMSNorm,
    View,
    bias_of,
    shared_dropout,
)
from distillspec_jax.models.dense import Form
from distillspec_jax.models.t5gemma_config import Stack, T5GemmaConfig
from distillspec_jax.shapes import Array


def _attention(
    config: T5GemmaConfig, stack: Stack, kernel: str, form: Form = "canonical", fused: bool = False
) -> Attention:
    return Attention(
        stack.num_heads,
        stack.head_dim,
        stack.emb_dim,
        config.dropout_rate,
        jnp.dtype(config.dtype),
        form,
        fused,
        num_kv_heads=stack.num_kv_heads,
        query_scale=config.query_scalar**-0.5,
        softcap=config.attention_cap,
        kernel=kernel,
    )


def _mlp(config: T5GemmaConfig, stack: Stack, form: Form = "canonical") -> MlpBlock:
    dtype = jnp.dtype(config.dtype)
    return MlpBlock(stack.mlp_dim, config.mlp_activations, config.dropout_rate, dtype, form)


def norm(config: T5GemmaConfig) -> RMSNorm:
    """Makes one norm of a stack."""
    return RMSNorm(jnp.dtype(config.dtype), config.norm_epsilon, around_zero=True)


def encoder_views(config: T5GemmaConfig, mask_BSS: Array) -> list[View]:
    """Makes every layer's view of the inputs; the window extends fully on both sides, as in transformers."""
    # Only distances matter, so a packed example may begin at any position.
    place_1S = jnp.arange(mask_BSS.shape[2])[None]
    near_1SS = jnp.abs(place_1S[:, :, None] - place_1S[:, None]) <= config.window
    return _views(config, config.encoder, mask_BSS, near_1SS, place_1S)


def decoder_views(config: T5GemmaConfig, mask_BQS: Array, query_BQ: Array, key_BS: Array) -> list[View]:
    """Makes every layer's view of the targets from the positions of queries and keys."""
    near_BQS = query_BQ[:, :, None] - key_BS[:, None] < config.window
    return _views(config, config.decoder, mask_BQS, near_BQS, query_BQ)


def _views(
    config: T5GemmaConfig, stack: Stack, mask_BQS: Array, near_BQS: Array, position_BQ: Array
) -> list[View]:
    rotation = rotary.rotation(position_BQ, rotary.frequencies(stack.head_dim, config.rope_theta))
    everywhere, windowed = (View(bias_of(seen), rotation) for seen in (mask_BQS, mask_BQS & near_BQS))
    unwindowed = config.layers_without_window(stack.num_layers)
    return [everywhere if all_seen else windowed for all_seen in unwindowed]


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, with pre- and post-norms."""

    config: T5GemmaConfig
    kernel: str = "plain"

    def setup(self) -> None:
        config, stack = self.config, self.config.encoder
        self.pre_attention_layer_norm, self.post_attention_layer_norm = norm(config), norm(config)
        self.attention = _attention(config, stack, self.kernel)
        self.pre_mlp_layer_norm, self.post_mlp_layer_norm = norm(config), norm(config)
        self.mlp = _mlp(config, stack)
        self.dropout = shared_dropout(config.dropout_rate)

    def __call__(self, x_BTM: Array, view: View, deterministic: bool) -> Array:
        y = self.pre_attention_layer_norm(x_BTM)
        query, kv = self.attention.queries_keys_values(y, view.rotation)
        y = self.post_attention_layer_norm(self.attention.attend(query, kv, view.bias, deterministic))
        x_BTM = x_BTM + self.dropout(y, deterministic=deterministic)
        y = self.post_mlp_layer_norm(self.mlp(self.pre_mlp_layer_norm(x_BTM), deterministic))
        return x_BTM + self.dropout(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward, with pre- and post-norms."""

    config: T5GemmaConfig
    form: Form = "canonical"
    kernel: str = "plain"

    def setup(self) -> None:
        config, stack, form = self.config, self.config.decoder, self.form
        self.pre_self_attention_layer_norm = norm(config)
        self.self_attention = _attention(config, stack, self.kernel, form, form != "canonical")
        self.post_self_attention_layer_norm = norm(config)
        self.pre_cross_attention_layer_norm = norm(config)
        self.encoder_decoder_attention = _attention(config, stack, self.kernel, form)
        self.post_cross_attention_layer_norm = norm(config)
        self.pre_mlp_layer_norm, self.post_mlp_layer_norm = norm(config), norm(config)
        self.mlp = _mlp(config, stack, form)
        self.dropout = shared_dropout(config.dropout_rate)

    def _after_self_attention(
        self, x: Array, attended: Array, cross: tuple[Array, Array], cross_bias: Array, deterministic: bool
    ) -> Array:
        y = self.post_self_attention_layer_norm(attended)
        x = x + self.dropout(y, deterministic=deterministic)
        query = self.encoder_decoder_attention.queries(self.pre_cross_attention_layer_norm(x))
        y = self.encoder_decoder_attention.attend(query, cross, cross_bias, deterministic)
        y = self.post_cross_attention_layer_norm(y)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.post_mlp_layer_norm(self.mlp(self.pre_mlp_layer_norm(x), deterministic))
        return x + self.dropout(y, deterministic=deterministic)

    def __call__(
        self, x_BTM: Array, encoded_BSM: Array, cross_bias: Array, view: View, deterministic: bool
    ) -> Array:
        y = self.pre_self_attention_layer_norm(x_BTM)
        query, kv = self.self_attention.queries_keys_values(y, view.rotation)
        y = self.self_attention.attend(query, kv, view.bias, deterministic)
        return self._after_self_attention(x_BTM, y, self.cross(encoded_BSM), cross_bias, deterministic)

    def cross(self, encoded_BSM: Array) -> tuple[Array, Array]:
        """Computes the encoder's keys and values, once per prompt."""
        return self.encoder_decoder_attention.keys_values(encoded_BSM)

    def extend(
        self,
        x_BKM: Array,
        cache: tuple[Array, Array],
        length_B: Array,
        view: View,
        cross: tuple[Array, Array],
        cross_bias: Array,
    ) -> tuple[Array, tuple[Array, Array]]:
        y = self.pre_self_attention_layer_norm(x_BKM)
        y, cache = self.self_attention.extend(y, cache, length_B, view.bias, view.rotation)
        return self._after_self_attention(x_BKM, y, cross, cross_bias, True), cache
