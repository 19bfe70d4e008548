"""The common base of decoders: layers, the readout, and the places of new tokens."""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from distillspec_jax.models.attention import shared_dropout
from distillspec_jax.models.dense import Dense, Form
from distillspec_jax.models.interface import DecodeState
from distillspec_jax.models.projection import project
from distillspec_jax.models.rematerialisation import rematerialised
from distillspec_jax.shapes import Array


class Reach(NamedTuple):
    """Places of new tokens behind the rows of a cache, and what they see.

    Attributes:
      position_BK: int32, of the tokens in their rows.
      slot_1S: int32, of the cache's slots: a row's slots are its positions.
      before_BKS: whether a token may see a slot; its own is among those.
    """

    position_BK: Array
    slot_1S: Array
    before_BKS: Array


def reach_of(state: DecodeState, tokens: int) -> Reach:
    """Counts positions row by row: the rows of a batch stand at different lengths."""
    slot_1S = jnp.arange(state.cache[0][0].shape[2])[None]
    position_BK = state.length_B[:, None] + jnp.arange(tokens)[None]
    return Reach(position_BK, slot_1S, slot_1S[:, None] <= position_BK[:, :, None])


class DecoderStack(nn.Module):
    """Base of a family's decoder, which adds how its layers are called.

    Attributes:
      config: the family's; read here are `embedding_rank`, `logits_via_embedding`, `vocab_size` and
        `dropout_rate`.
      form: of the kernels, see `dense.py`; prepared parameters have a kernel for logits, tied or not.
      remat, scan_layers: see `Network`.
      kernel: of attention, of `attention.KERNELS`.
    """

    config: Any
    form: Form = "canonical"
    remat: str = "none"
    scan_layers: bool = False
    kernel: str = "plain"

    def set_up(self, layer: type[nn.Module], count: int, norm: nn.Module, deterministic: int) -> None:
        """Makes the modules, within `setup`.

        Args:
          layer: the class of the layers.
          norm: the last one.
          deterministic: see `rematerialised`.
        """
        config = self.config
        layer = rematerialised(layer, self.remat, deterministic)
        self.layers = [layer(config, self.form, self.kernel) for _ in range(count)]
        self.decoder_norm = norm
        self.dropout = shared_dropout(config.dropout_rate)
        if config.embedding_rank:
            self.narrow = Dense(config.embedding_rank, ("embed", "rank"), form=self.form)
        if not self.reads_embedding:
            axes = ("rank" if config.embedding_rank else "embed", "vocab")
            self.logits_dense = Dense(config.vocab_size, axes, form=self.form)

    @property
    def reads_embedding(self) -> bool:
        """Whether the embedding's table makes the logits."""
        return self.form == "canonical" and bool(self.config.logits_via_embedding)

    def features(self, x: Array, deterministic: bool) -> Array:
        """Features that `logits` reads, from the last layer's output: `[B, T, M]`, M may be a rank."""
        y = self.dropout(self.decoder_norm(x), deterministic=deterministic).astype(jnp.float32)
        return self.narrow(y) if self.config.embedding_rank else y

    def logits(self, features_BTM: Array, embedding_VM: Array) -> Array:
        """Logits `[B, T, V]`, neither scaled nor capped."""
        if self.reads_embedding:
            return project(features_BTM, embedding_VM, axis=1)
        return self.logits_dense(features_BTM)
