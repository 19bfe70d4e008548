"""T5Gemma in Linen, as a `LanguageModel`: an encoder and a decoder with Gemma 2's layers.

Embeddings are scaled and the logits soft-capped. Each stack has its own embedding table; the decoder's has
the same key as other families' (`token_embedder`), and is the one that drafts factorise.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from distillspec_jax.models.attention import bias_of, shared_dropout
from distillspec_jax.models.decoder_stack import DecoderStack, reach_of
from distillspec_jax.models.dense import Form
from distillspec_jax.models.embedding import Embed
from distillspec_jax.models.encoder_decoder import extended, first_state, sight, sight_of_inputs, started
from distillspec_jax.models.interface import Batch, DecodeState
from distillspec_jax.models.layer_stack import through
from distillspec_jax.models.network import Network
from distillspec_jax.models.prepared import prepared
from distillspec_jax.models.rematerialisation import rematerialised
from distillspec_jax.models.soft_cap import soft_capped
from distillspec_jax.models.t5gemma_config import T5GemmaConfig
from distillspec_jax.models.t5gemma_layers import (
    DecoderLayer,
    EncoderLayer,
    decoder_views,
    encoder_views,
    norm,
)
from distillspec_jax.shapes import Array, Params

_EMBEDDING_SPREAD = 0.02
"""Gemma's value, because the decoder's table also makes the logits, which are not scaled."""


def _embed(config: T5GemmaConfig, embedder: Embed, tokens: Array) -> Array:
    x = embedder(tokens) * embedder.features**0.5
    return x.astype(jnp.dtype(config.dtype))


class Encoder(nn.Module):
    """The encoder's embedding table and stack."""

    config: T5GemmaConfig
    remat: str = "none"
    scan_layers: bool = False
    kernel: str = "plain"

    def setup(self) -> None:
        config, stack = self.config, self.config.encoder
        self.token_embedder = Embed(config.vocab_size, stack.emb_dim, spread=_EMBEDDING_SPREAD)
        layer = rematerialised(EncoderLayer, self.remat, deterministic=3)
        self.layers = [layer(config, self.kernel) for _ in range(stack.num_layers)]
        self.encoder_norm = norm(config)
        self.dropout = shared_dropout(config.dropout_rate)

    def __call__(self, tokens_BT: Array, mask_BTT: Array, deterministic: bool) -> Array:
        x = _embed(self.config, self.token_embedder, tokens_BT)
        x = self.dropout(x, deterministic=deterministic)
        views = encoder_views(self.config, mask_BTT)
        layer = functools.partial(EncoderLayer, self.config, self.kernel)
        x, _ = through(self, layer, x, each=views, deterministic=deterministic)
        return self.dropout(self.encoder_norm(x), deterministic=deterministic)


class Decoder(DecoderStack):
    """The decoder stack."""

    config: T5GemmaConfig

    def setup(self) -> None:
        self.set_up(DecoderLayer, self.config.num_decoder_layers, norm(self.config), deterministic=5)

    def __call__(
        self,
        x_BTM: Array,
        encoded_BSM: Array,
        position_BT: Array,
        mask_BTT: Array,
        cross_mask_BTS: Array,
        deterministic: bool,
    ) -> Array:
        """Computes the input features of `logits`; the first axis of positions and masks may be 1."""
        views = decoder_views(self.config, mask_BTT, position_BT, position_BT)
        cross_bias = bias_of(cross_mask_BTS)
        x = self.dropout(x_BTM, deterministic=deterministic)
        layer = functools.partial(DecoderLayer, self.config, self.form, self.kernel)
        x, _ = through(self, layer, x, encoded_BSM, cross_bias, each=views, deterministic=deterministic)
        return self.features(x, deterministic)

    def cross(self, encoded_BSM: Array) -> list[tuple[Array, Array]]:
        return [layer.cross(encoded_BSM) for layer in self.layers]

    def extend(self, x_BKM: Array, state: DecodeState) -> tuple[Array, Any]:
        reach = reach_of(state, x_BKM.shape[1])
        views = decoder_views(self.config, reach.before_BKS, reach.position_BK, reach.slot_1S)
        x, cache = extended(self.layers, x_BKM, state, views)
        return self.features(x, True), cache


class Transformer(nn.Module):
    """The network; `T5Gemma` below is its interface to decoding and training."""

    config: T5GemmaConfig
    form: Form = "canonical"
    remat: str = "none"
    scan_layers: bool = False
    kernel: str = "plain"

    def setup(self) -> None:
        config = self.config
        self.token_embedder = Embed(
            config.vocab_size, config.emb_dim, spread=_EMBEDDING_SPREAD, rank=config.embedding_rank
        )
        self.encoder = Encoder(config, self.remat, self.scan_layers, self.kernel)
        self.decoder = Decoder(config, self.form, self.remat, self.scan_layers, self.kernel)

    def __call__(self, batch: Batch, deterministic: bool = True) -> Array:
        return self.readout(self.hidden(batch, deterministic))

    def readout(self, hidden_BTM: Array) -> Array:
        logits = self.decoder.logits(hidden_BTM, self.token_embedder.embedding)
        return soft_capped(logits, self.config.logits_cap)

    def hidden(self, batch: Batch, deterministic: bool) -> Array:
        seen = sight(batch)
        encoded = self.encoder(batch["encoder_input_tokens"], seen.inputs_BSS, deterministic)
        position = jnp.atleast_2d(seen.position)
        tokens_BT = started(batch, position, self.config.decoder_start_id)
        x = _embed(self.config, self.token_embedder, tokens_BT)
        return self.decoder(x, encoded, position, seen.targets_BTT, seen.across_BTS, deterministic)

    def cross(self, tokens_BS: Array) -> list[tuple[Array, Array]]:
        """Computes the cross-attention keys and values of every decoder layer."""
        return self.decoder.cross(self.encoder(tokens_BS, sight_of_inputs(tokens_BS), True))

    def extend(self, tokens_BK: Array, state: DecodeState) -> tuple[Array, Any]:
        return self.decoder.extend(_embed(self.config, self.token_embedder, tokens_BK), state)


@dataclasses.dataclass(frozen=True)
class T5Gemma(Network):
    """T5Gemma as a `LanguageModel`."""

    config: T5GemmaConfig
    transformer = Transformer
    config_type = T5GemmaConfig
    depth_field = "num_decoder_layers"

    @property
    def logits_cap(self) -> float:
        return self.config.logits_cap

    @property
    def attention_cap(self) -> float:
        return self.config.attention_cap

    def prepare(self, params: Params, rows: int | None = None) -> Params:
        """See `LanguageModel.prepare`."""
        return prepared(params, rows, head_dim=self.config.head_dim, int8=self.int8)

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        cross = self._apply(params, prompt_BT, method="cross")
        return first_state(cross, prompt_BT, max_length, self.config.decoder_start_id)
