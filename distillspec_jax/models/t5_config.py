"""The validated configuration of a T5."""

from __future__ import annotations

import dataclasses

from distillspec_jax.models.checks import (
    check_count,
    check_embedding_rank,
    check_feed_forward,
    check_sizes,
    count_tables,
    require,
)

_STACKS = ("num_encoder_layers", "num_decoder_layers")
_SIZES = (
    *("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim"),
    *("relpos_buckets", "relpos_max_distance"),
)
_MOST_BIAS = 100
"""The largest bias of attention scores; beyond it, the softmax has no gradient."""


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Configuration of a T5, with T5X's field names.

    Attributes:
      vocab_size: rows of the embedding, including padding rows.
      mlp_activations: `('relu',)` is T5 1.0, `('gelu', 'linear')` T5 1.1; several are multiplied.
      logits_via_embedding: tie the output projection to the embedding (T5 1.0, the zoo).
      embedding_rank: 0, or the width of a factorised draft's embedding and projection to logits, see
        `factorised.py`.
      relpos_buckets: relative-position buckets; half are exact in a decoder, a quarter in an encoder.
      relpos_max_distance: all distances from this one on share the last bucket.
      relpos_neighbours: initial bias of the encoder's first head for the previous token, and of its second
        head for the next one; 0: T5X's init, with which a small network is slow to learn either.
      decoder_start_id: the token before the first target token.
      dtype: dtype of activations; parameters and logits are float32.

    Raises:
      UsageError: a field has an invalid value; the error names the field.
    """

    vocab_size: int
    emb_dim: int = 512
    num_heads: int = 6
    head_dim: int = 64
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    mlp_dim: int = 1024
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.0
    logits_via_embedding: bool = False
    embedding_rank: int = 0
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    relpos_neighbours: float = 0.0
    decoder_start_id: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_sizes(self, _SIZES, _STACKS)
        check_embedding_rank(self)
        buckets = self.relpos_buckets
        require(self, "relpos_buckets", buckets >= 4 and buckets % 2 == 0, "be even and at least 4")
        above = f"be above relpos_buckets / 2 = {buckets // 2}"
        require(self, "relpos_max_distance", self.relpos_max_distance > buckets // 2, above)
        bias = self.relpos_neighbours
        number = isinstance(bias, int | float) and not isinstance(bias, bool) and 0 <= bias <= _MOST_BIAS
        require(self, "relpos_neighbours", number, f"be a number from 0 to {_MOST_BIAS}")
        require(self, "relpos_neighbours", not bias or self.num_heads > 1, "be 0 where there is one head")
        inside = f"lie in the vocabulary of {self.vocab_size}"
        require(self, "decoder_start_id", 0 <= self.decoder_start_id < self.vocab_size, inside)
        check_feed_forward(self)
        check_count(self)

    @property
    def num_parameters(self) -> int:
        """The number of parameters, computed without tracing."""
        width, attention = self.emb_dim, 4 * self.emb_dim * self.num_heads * self.head_dim
        feed_forward = (len(self.mlp_activations) + 1) * width * self.mlp_dim
        encoder = self.num_encoder_layers * (attention + feed_forward + 2 * width)
        decoder = self.num_decoder_layers * (2 * attention + feed_forward + 3 * width)
        ends = 2 * (self.num_heads * self.relpos_buckets + width)  # position biases, final norms
        return encoder + decoder + ends + count_tables(self)
