"""The sizes of a T5Gemma, checked."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from distillspec_jax.models.checks import (
    check_count,
    check_embedding_rank,
    check_feed_forward,
    check_sizes,
    count_tables,
    require,
)

_OF_A_STACK = ("emb_dim", "num_heads", "num_kv_heads", "head_dim", "mlp_dim")
_STACKS = ("num_encoder_layers", "num_decoder_layers")


class Stack(NamedTuple):
    """Sizes of the encoder or of the decoder."""

    num_layers: int
    emb_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int


@dataclasses.dataclass(frozen=True)
class T5GemmaConfig:
    """Shapes of a T5Gemma (arXiv 2504.06225): an encoder-decoder whose layers are a Gemma 2's.

    Attributes:
      vocab_size: rows of either stack's embedding, padding rows included.
      emb_dim, num_heads, num_kv_heads, head_dim, mlp_dim: of the decoder; num_kv_heads 0: as `num_heads`.
      encoder_emb_dim, encoder_num_heads, encoder_num_kv_heads, encoder_head_dim, encoder_mlp_dim: of the
        encoder; 0: as the decoder's.
      mlp_activations: one of them, or a gate and `linear`, which are multiplied.
      logits_via_embedding: tie the output projection to the decoder's embedding; it is not scaled.
      embedding_rank: 0, or the width of a factorised draft's decoder embedding and projection to logits, see
        `factorised.py`.
      query_scalar: queries are divided by its square root; 0: the decoder's `head_dim`.
      window: in layers that have it a token of the decoder sees itself and so many less one before it, one of
        the encoder itself and so many on either side; 0: no layer has one.
      unwindowed_every: of so many layers in turn the last sees all; 0: all layers have the window.
      attention_cap: soft cap of attention's scores, across the stacks, too; 0: none.
      logits_cap: of the logits.
      max_positions: what it was trained on.
      rope_theta: of self-attention's rotary positions.
      decoder_start_id: the token before the first target token.
      dtype: of activations; parameters and logits are float32.

    Raises:
      UsageError: a value that no network can have; named by its field.
    """

    vocab_size: int
    emb_dim: int = 512
    num_heads: int = 8
    num_kv_heads: int = 0
    head_dim: int = 64
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    mlp_dim: int = 1024
    encoder_emb_dim: int = 0
    encoder_num_heads: int = 0
    encoder_num_kv_heads: int = 0
    encoder_head_dim: int = 0
    encoder_mlp_dim: int = 0
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.0
    logits_via_embedding: bool = True
    embedding_rank: int = 0
    query_scalar: float = 0.0
    window: int = 4096
    unwindowed_every: int = 2
    attention_cap: float = 50.0
    logits_cap: float = 30.0
    norm_epsilon: float = 1e-6
    max_positions: int = 8192
    rope_theta: float = 10_000.0
    decoder_start_id: int = 2
    dtype: str = "float32"

    def __post_init__(self) -> None:
        self._fill("num_kv_heads", self.num_heads)
        self._fill("query_scalar", self.head_dim)
        for field in _OF_A_STACK:
            self._fill(f"encoder_{field}", getattr(self, field))
        sizes = (*_OF_A_STACK, *(f"encoder_{field}" for field in _OF_A_STACK))
        check_sizes(self, ("vocab_size", *sizes, "max_positions"), _STACKS)
        check_embedding_rank(self)
        for prefix, stack in (("", self.decoder), ("encoder_", self.encoder)):
            groups = f"divide {prefix}num_heads = {stack.num_heads}"
            require(self, f"{prefix}num_kv_heads", stack.num_heads % stack.num_kv_heads == 0, groups)
            require(self, f"{prefix}head_dim", stack.head_dim % 2 == 0, "be even, since positions are rotary")
        within = f"be between 0 (none) and max_positions = {self.max_positions:,}"
        require(self, "window", 0 <= self.window <= self.max_positions, within)
        for field in ("unwindowed_every", "attention_cap", "logits_cap"):
            require(self, field, getattr(self, field) >= 0, "be 0 (none) or above")
        for field in ("query_scalar", "rope_theta"):
            require(self, field, getattr(self, field) > 0, "be above 0")
        require(self, "norm_epsilon", 0 < self.norm_epsilon <= 1, "be above 0 and at most 1")
        inside = f"lie in the vocabulary of {self.vocab_size}"
        require(self, "decoder_start_id", 0 <= self.decoder_start_id < self.vocab_size, inside)
        check_feed_forward(self)
        check_count(self)

    def _fill(self, field: str, value: int) -> None:
        """Puts a value where the field is 0."""
        if not getattr(self, field):
            object.__setattr__(self, field, value)

    @property
    def encoder(self) -> Stack:
        """The encoder's sizes."""
        return Stack(self.num_encoder_layers, *(getattr(self, f"encoder_{field}") for field in _OF_A_STACK))

    @property
    def decoder(self) -> Stack:
        """The decoder's sizes."""
        return Stack(self.num_decoder_layers, *(getattr(self, field) for field in _OF_A_STACK))

    def layers_without_window(self, layers: int) -> tuple[bool, ...]:
        """Whether each of a stack's layers sees all."""
        every = self.unwindowed_every
        return tuple(not self.window or bool(every and (i + 1) % every == 0) for i in range(layers))

    @property
    def num_parameters(self) -> int:
        """Numbers in the tree of parameters; reckoned, so that nothing need be traced."""
        encoder, decoder = self.encoder, self.decoder
        below = encoder.num_layers * (self._attention(encoder) + self._feed_forward(encoder))
        above = self._attention(decoder) + self._attention(decoder, encoder.emb_dim)
        above = decoder.num_layers * (above + self._feed_forward(decoder))
        ends = (self.vocab_size + 1) * encoder.emb_dim + decoder.emb_dim  # its table, last norms
        return below + above + ends + count_tables(self)

    def _attention(self, stack: Stack, keyed_dim: int = 0) -> int:
        """Numbers of an attention, and of its two norms; `keyed_dim`: width of what has the keys."""
        queries, keys = stack.num_heads * stack.head_dim, stack.num_kv_heads * stack.head_dim
        return 2 * stack.emb_dim * (queries + 1) + 2 * (keyed_dim or stack.emb_dim) * keys

    def _feed_forward(self, stack: Stack) -> int:
        return stack.emb_dim * (stack.mlp_dim * (len(self.mlp_activations) + 1) + 2)
