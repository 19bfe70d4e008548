"""The sizes of a T5, checked."""

from __future__ import annotations

import dataclasses

from distillspec_jax.errors import UsageError, nearest

ACTIVATIONS = ("gelu", "linear", "relu", "silu")
"""Of a feed-forward; GELU is the tanh approximation, as in T5X."""

DTYPES = ("bfloat16", "float16", "float32")

_STACKS = ("num_encoder_layers", "num_decoder_layers")
_WIDTHS = ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Shapes of a T5, under T5X's field names.

    Attributes:
      vocab_size: rows of the embedding, padding rows included.
      mlp_activations: `('relu',)` is T5 1.0, `('gelu', 'linear')` T5 1.1; more than one are multiplied.
      logits_via_embedding: tie the output projection to the embedding (T5 1.0, the zoo).
      relpos_buckets: of relative positions, half of them exact in a decoder and a quarter in an encoder.
      relpos_max_distance: from here on all distances share the last bucket.
      decoder_start_id: the token before the first target token.
      dtype: of activations; parameters and logits are float32.

    Raises:
      UsageError: a value that no network can have; named by its field.
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
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    decoder_start_id: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        for field in (*_WIDTHS, *_STACKS):
            _require(field, getattr(self, field), getattr(self, field) >= 1, "be at least 1")
        buckets = self.relpos_buckets
        _require("relpos_buckets", buckets, buckets >= 4 and buckets % 2 == 0, "be even and at least 4")
        distance = self.relpos_max_distance
        above = f"be above relpos_buckets / 2 = {buckets // 2}"
        _require("relpos_max_distance", distance, distance > buckets // 2, above)
        _require("dropout_rate", self.dropout_rate, 0 <= self.dropout_rate < 1, "lie in [0, 1)")
        inside = f"lie in the vocabulary of {self.vocab_size}"
        start = self.decoder_start_id
        _require("decoder_start_id", start, 0 <= start < self.vocab_size, inside)
        _require("mlp_activations", self.mlp_activations, bool(self.mlp_activations), "name at least one")
        for name in self.mlp_activations:
            if name not in ACTIVATIONS:
                raise UsageError(f"mlp_activations: unknown {name!r}: {nearest(name, ACTIVATIONS)}")
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype: unknown {self.dtype!r}: {nearest(self.dtype, DTYPES)}")


def _require(field: str, value: object, valid: bool, must: str) -> None:
    if not valid:
        raise UsageError(f"T5Config: {field} is {value}, must {must}")
