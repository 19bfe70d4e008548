"""T5 1.0 and 1.1 in Linen, with T5X's parameter tree, as a `LanguageModel`.

Unlike T5X's cache, decoding passes keys and values explicitly, so that the rows of a batch can have
different lengths and be rewound in O(1).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from distillspec_jax.models.attention import (
    Attention,
    MlpBlock,
    RelativePositionBias,
    RMSNorm,
    bias_of,
    shared_dropout,
)
from distillspec_jax.models.decoder_stack import DecoderStack, reach_of
from distillspec_jax.models.dense import Form
from distillspec_jax.models.embedding import Embed
from distillspec_jax.models.encoder_decoder import extended, first_state, sight, sight_of_inputs, started
from distillspec_jax.models.interface import Batch, DecodeState
from distillspec_jax.models.layer_stack import through
from distillspec_jax.models.network import Network
from distillspec_jax.models.prepared import prepared
from distillspec_jax.models.rematerialisation import rematerialised
from distillspec_jax.models.spread import spread
from distillspec_jax.models.t5_config import T5Config
from distillspec_jax.shapes import Array, Params


def _attention(config: T5Config, kernel: str, form: Form = "canonical", fused: bool = False) -> Attention:
    sizes = (config.num_heads, config.head_dim, config.emb_dim)
    dtype = jnp.dtype(config.dtype)
    return Attention(*sizes, config.dropout_rate, dtype, form, fused, kernel=kernel)


def _mlp(config: T5Config, form: Form = "canonical") -> MlpBlock:
    dtype = jnp.dtype(config.dtype)
    return MlpBlock(config.mlp_dim, config.mlp_activations, config.dropout_rate, dtype, form)


def _norm(config: T5Config) -> RMSNorm:
    return RMSNorm(jnp.dtype(config.dtype))


def _relpos(config: T5Config, bidirectional: bool) -> RelativePositionBias:
    return RelativePositionBias(
        config.num_heads,
        config.relpos_buckets,
        config.relpos_max_distance,
        bidirectional,
        config.relpos_neighbours if bidirectional else 0.0,
    )


def _bias(relpos: Array, mask_BQS: Array) -> Array:
    """Adds mask and position biases, the latter `[H, Q, S]` for all rows or `[B, H, Q, S]`."""
    relpos_BHQS = spread(relpos, len(mask_BQS)) if relpos.ndim == 3 else relpos
    return relpos_BHQS + bias_of(mask_BQS)


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    config: T5Config
    kernel: str = "plain"

    def setup(self) -> None:
        self.pre_attention_layer_norm = _norm(self.config)
        self.attention = _attention(self.config, self.kernel)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _mlp(self.config)
        self.dropout = shared_dropout(self.config.dropout_rate)

    def __call__(self, x_BTM: Array, bias: Array, deterministic: bool) -> Array:
        y = self.pre_attention_layer_norm(x_BTM)
        y = self.attention.attend(*self.attention.queries_keys_values(y), bias, deterministic)
        x_BTM = x_BTM + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x_BTM), deterministic)
        return x_BTM + self.dropout(y, deterministic=deterministic)


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention and feed-forward."""

    config: T5Config
    form: Form = "canonical"
    kernel: str = "plain"

    def setup(self) -> None:
        self.pre_self_attention_layer_norm = _norm(self.config)
        self.self_attention = _attention(self.config, self.kernel, self.form, self.form != "canonical")
        self.pre_cross_attention_layer_norm = _norm(self.config)
        self.encoder_decoder_attention = _attention(self.config, self.kernel, self.form)
        self.pre_mlp_layer_norm = _norm(self.config)
        self.mlp = _mlp(self.config, self.form)
        self.dropout = shared_dropout(self.config.dropout_rate)

    def _after_self_attention(
        self, x: Array, attended: Array, cross: tuple[Array, Array], cross_bias: Array, deterministic: bool
    ) -> Array:
        x = x + self.dropout(attended, deterministic=deterministic)
        y = self.pre_cross_attention_layer_norm(x)
        q_BHTD = self.encoder_decoder_attention.queries(y)
        y = self.encoder_decoder_attention.attend(q_BHTD, cross, cross_bias, deterministic)
        x = x + self.dropout(y, deterministic=deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return x + self.dropout(y, deterministic=deterministic)

    def __call__(
        self, x_BTM: Array, encoded_BSM: Array, bias: Array, cross_bias: Array, deterministic: bool
    ) -> Array:
        y = self.pre_self_attention_layer_norm(x_BTM)
        y = self.self_attention.attend(*self.self_attention.queries_keys_values(y), bias, deterministic)
        return self._after_self_attention(x_BTM, y, self.cross(encoded_BSM), cross_bias, deterministic)

    def cross(self, encoded_BSM: Array) -> tuple[Array, Array]:
        """Computes the encoder's keys and values, once per prompt."""
        return self.encoder_decoder_attention.keys_values(encoded_BSM)

    def extend(
        self,
        x_BKM: Array,
        cache: tuple[Array, Array],
        length_B: Array,
        bias: Array,
        cross: tuple[Array, Array],
        cross_bias: Array,
    ) -> tuple[Array, tuple[Array, Array]]:
        y = self.pre_self_attention_layer_norm(x_BKM)
        y, cache = self.self_attention.extend(y, cache, length_B, bias)
        return self._after_self_attention(x_BKM, y, cross, cross_bias, True), cache


class Encoder(nn.Module):
    """The encoder stack, with bidirectional relative positions."""

    config: T5Config
    remat: str = "none"
    scan_layers: bool = False
    kernel: str = "plain"

    def setup(self) -> None:
        self.relpos_bias = _relpos(self.config, bidirectional=True)
        layer = rematerialised(EncoderLayer, self.remat, deterministic=3)
        self.layers = [layer(self.config, self.kernel) for _ in range(self.config.num_encoder_layers)]
        self.encoder_norm = _norm(self.config)
        self.dropout = shared_dropout(self.config.dropout_rate)

    def __call__(self, x_BTM: Array, mask_BTT: Array, deterministic: bool) -> Array:
        position = jnp.arange(x_BTM.shape[1])
        bias = _bias(self.relpos_bias(position, position), mask_BTT)
        x = self.dropout(x_BTM, deterministic=deterministic)
        layer = functools.partial(EncoderLayer, self.config, self.kernel)
        x, _ = through(self, layer, x, bias, deterministic=deterministic)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)


class Decoder(DecoderStack):
    """The decoder stack, with one table of relative positions shared by all layers."""

    config: T5Config

    def setup(self) -> None:
        self.relpos_bias = _relpos(self.config, bidirectional=False)
        self.set_up(DecoderLayer, self.config.num_decoder_layers, _norm(self.config), deterministic=5)

    def __call__(
        self,
        x_BTM: Array,
        encoded_BSM: Array,
        position: Array,
        mask_BTT: Array,
        cross_mask_BTS: Array,
        deterministic: bool,
    ) -> Array:
        """Computes the input features of `logits`; positions are `[T]`, shared by all rows, or `[B, T]`."""
        bias = _bias(self.relpos_bias(position, position), mask_BTT)
        cross_bias = bias_of(cross_mask_BTS)
        x = self.dropout(x_BTM, deterministic=deterministic)
        layer = functools.partial(DecoderLayer, self.config, self.form, self.kernel)
        x, _ = through(self, layer, x, encoded_BSM, bias, cross_bias, deterministic=deterministic)
        return self.features(x, deterministic)

    def cross(self, encoded_BSM: Array) -> list[tuple[Array, Array]]:
        return [layer.cross(encoded_BSM) for layer in self.layers]

    def extend(self, x_BKM: Array, state: DecodeState) -> tuple[Array, Any]:
        reach = reach_of(state, x_BKM.shape[1])
        bias = self.relpos_bias(reach.position_BK, reach.slot_1S) + bias_of(reach.before_BKS)
        x, cache = extended(self.layers, x_BKM, state, [bias] * len(self.layers))
        return self.features(x, True), cache


class Transformer(nn.Module):
    """The network; `EncoderDecoder` below is its interface to decoding and training."""

    config: T5Config
    form: Form = "canonical"
    remat: str = "none"
    scan_layers: bool = False
    kernel: str = "plain"

    def setup(self) -> None:
        config = self.config
        self.token_embedder = Embed(config.vocab_size, config.emb_dim, rank=config.embedding_rank)
        self.encoder = Encoder(config, self.remat, self.scan_layers, self.kernel)
        self.decoder = Decoder(config, self.form, self.remat, self.scan_layers, self.kernel)

    def _embed(self, tokens: Array) -> Array:
        return self.token_embedder(tokens).astype(jnp.dtype(self.config.dtype))

    def __call__(self, batch: Batch, deterministic: bool = True) -> Array:
        return self.readout(self.hidden(batch, deterministic))

    def readout(self, hidden_BTM: Array) -> Array:
        logits = self.decoder.logits(hidden_BTM, self.token_embedder.embedding)
        if self.decoder.reads_embedding:  # else the kernel includes the scale (`prepared`), or is untied
            logits /= jnp.sqrt(self.config.emb_dim)
        return logits

    def hidden(self, batch: Batch, deterministic: bool) -> Array:
        seen = sight(batch)
        encoded = self.encoder(self._embed(batch["encoder_input_tokens"]), seen.inputs_BSS, deterministic)
        outputs = self._embed(started(batch, seen.position, self.config.decoder_start_id))
        return self.decoder(outputs, encoded, seen.position, seen.targets_BTT, seen.across_BTS, deterministic)

    def cross(self, tokens_BS: Array) -> list[tuple[Array, Array]]:
        """Computes the cross-attention keys and values of every decoder layer."""
        return self.decoder.cross(self.encoder(self._embed(tokens_BS), sight_of_inputs(tokens_BS), True))

    def extend(self, tokens_BK: Array, state: DecodeState) -> tuple[Array, Any]:
        return self.decoder.extend(self._embed(tokens_BK), state)


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(Network):
    """T5 as a `LanguageModel`."""

    config: T5Config
    transformer = Transformer
    config_type = T5Config
    depth_field = "num_decoder_layers"
    prompts_end_with_eos = True

    @property
    def logits_scale(self) -> float:
        """Scales tied logits as in T5, because the table also embeds the inputs."""
        return self.config.emb_dim**-0.5

    def prepare(self, params: Params, rows: int | None = None) -> Params:
        """See `LanguageModel.prepare`."""
        head_dim, scale = self.config.head_dim, self.logits_scale
        return prepared(params, rows, head_dim=head_dim, logits_scale=scale, int8=self.int8)

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        cross = self._apply(params, prompt_BT, method="cross")
        return first_state(cross, prompt_BT, max_length, self.config.decoder_start_id)


def init_params(model: EncoderDecoder, key: Array) -> Params:
    """Initialises parameters as plain arrays."""
    return nn.meta.unbox(jax.jit(model.init)(key))
