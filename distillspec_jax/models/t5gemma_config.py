"""The validated configuration of a T5Gemma."""

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
    """Sizes of the encoder or the decoder."""

    num_layers: int
    emb_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int


@dataclasses.dataclass(frozen=True)
class T5GemmaConfig:
    """Configuration of a T5Gemma (arXiv 2504.06225): an encoder-decoder with Gemma 2's layers.

    Attributes:
      vocab_size: rows of each stack's embedding, including padding rows.
      emb_dim, num_heads, num_kv_heads, head_dim, mlp_dim: decoder sizes; num_kv_heads 0: as `num_heads`.
      encoder_emb_dim, encoder_num_heads, encoder_num_kv_heads, encoder_head_dim, encoder_mlp_dim: encoder
        sizes; 0: as the decoder's.
      mlp_activations: one activation, or a gate and `linear`, which are multiplied.
      logits_via_embedding: tie the output projection to the decoder's embedding; it is not scaled.
      embedding_rank: 0, or the width of a factorised draft's decoder embedding and projection to logits, see
        `factorised.py`.
      query_scalar: queries are divided by its square root; 0: the decoder's `head_dim`.
      window: sliding-window size. A decoder token attends to itself and `window - 1` tokens before it, an
        encoder token to itself and `window` tokens on either side; 0: no layer has a window.
      unwindowed_every: every so-many-th layer has no window; 0: all layers have the window.
      attention_cap: soft cap of the attention scores, including cross-attention; 0: none.
      logits_cap: soft cap of the logits; 0: none.
      max_positions: training sequence length.
      rope_theta: theta of self-attention's rotary positions.
      decoder_start_id: the token before the first target token.
      dtype: dtype of activations; parameters and logits are float32.

    Raises:
      UsageError: a field has an invalid value; the error names the field.
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
        """Sets a field to a value if it is 0."""
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
        """For each layer of a stack, whether it has no window."""
        every = self.unwindowed_every
        return tuple(not self.window or bool(every and (i + 1) % every == 0) for i in range(layers))

    @property
    def num_parameters(self) -> int:
        """The number of parameters, computed without tracing."""
        encoder, decoder = self.encoder, self.decoder
        below = encoder.num_layers * (self._attention(encoder) + self._feed_forward(encoder))
        above = self._attention(decoder) + self._attention(decoder, encoder.emb_dim)
        above = decoder.num_layers * (above + self._feed_forward(decoder))
        ends = (self.vocab_size + 1) * encoder.emb_dim + decoder.emb_dim  # encoder table, final norms
        return below + above + ends + count_tables(self)

    def _attention(self, stack: Stack, keyed_dim: int = 0) -> int:
        """Counts the parameters of an attention and its two norms; `keyed_dim`: width of the keys' input."""
        queries, keys = stack.num_heads * stack.head_dim, stack.num_kv_heads * stack.head_dim
        return 2 * stack.emb_dim * (queries + 1) + 2 * (keyed_dim or stack.emb_dim) * keys

    def _feed_forward(self, stack: Stack) -> int:
        return stack.emb_dim * (stack.mlp_dim * (len(self.mlp_activations) + 1) + 2)
