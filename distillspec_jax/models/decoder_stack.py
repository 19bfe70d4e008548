"""The common base of decoders: layers, the readout, and the positions of new tokens."""

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
    """Positions of new tokens after the cached ones, and their causal mask.

    Attributes:
      position_BK: int32, positions of the tokens in their rows.
      slot_1S: int32, the cache's slots; the slots of a row equal its positions.
      before_BKS: whether a token may attend to a slot, its own included.
    """

    position_BK: Array
    slot_1S: Array
    before_BKS: Array


def reach_of(state: DecodeState, tokens: int) -> Reach:
    """Computes positions per row, because the rows of a batch have different lengths."""
    slot_1S = jnp.arange(state.cache[0][0].shape[2])[None]
    position_BK = state.length_B[:, None] + jnp.arange(tokens)[None]
    return Reach(position_BK, slot_1S, slot_1S[:, None] <= position_BK[:, :, None])


class DecoderStack(nn.Module):
    """Base of a family's decoder; the family adds the calls of its layers.

    Attributes:
      config: the family's configuration; this class reads `embedding_rank`, `logits_via_embedding`,
        `vocab_size` and `dropout_rate`.
      form: form of the kernels, see `dense.py`; prepared parameters have a kernel for logits, tied or not.
      remat, scan_layers: see `Network`.
      kernel: attention kernel, one of `attention.KERNELS`.
    """

    config: Any
    form: Form = "canonical"
    remat: str = "none"
    scan_layers: bool = False
    kernel: str = "plain"

    def set_up(self, layer: type[nn.Module], count: int, norm: nn.Module, deterministic: int) -> None:
        """Makes the submodules; call it within `setup`.

        Args:
          layer: the class of the layers.
          norm: the final norm.
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
        """Whether the embedding table computes the logits."""
        return self.form == "canonical" and bool(self.config.logits_via_embedding)

    def features(self, x: Array, deterministic: bool) -> Array:
        """Computes the input features of `logits` from the last layer's output: `[B, T, M or rank]`."""
        y = self.dropout(self.decoder_norm(x), deterministic=deterministic).astype(jnp.float32)
        return self.narrow(y) if self.config.embedding_rank else y

    def logits(self, features_BTM: Array, embedding_VM: Array) -> Array:
        """Computes logits `[B, T, V]`, neither scaled nor capped."""
        if self.reads_embedding:
            return project(features_BTM, embedding_VM, axis=1)
        return self.logits_dense(features_BTM)
