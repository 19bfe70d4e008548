"""The validated configuration of a decoder-only network."""

from __future__ import annotations

import dataclasses

from distillspec_jax.models.checks import (
    check_count,
    check_embedding_rank,
    check_feed_forward,
    check_sizes,
    count_tables,
    require,
    require_one_of,
)
from distillspec_jax.models.rotary import RopeScaling

NORMS = ("layer", "rms")
POSITIONS = ("learned", "rotary")

_HEADS = ("num_heads", "num_kv_heads", "head_dim")
_SIZES = ("vocab_size", "emb_dim", *_HEADS, "mlp_dim", "max_positions")


@dataclasses.dataclass(frozen=True)
class DecoderOnlyConfig:
    """Configuration of a decoder-only network; the defaults make a Llama.

    Qwen2 has `qkv_bias`, Qwen3 `qk_norm`, Mistral a `window`. Gemma 3 has `qk_norm`, a `window` in most
    layers, and its own norms and embedding. GPT-2 and the paper's LM1B pair have `norm='layer'`,
    `positions='learned'`, one activation, and all biases.

    Attributes:
      vocab_size: rows of the embedding, including padding rows.
      num_kv_heads: key and value heads, shared by groups of query heads; 0: as many as `num_heads`.
      mlp_activations: one activation, or a gate and `linear`, which are multiplied.
      logits_via_embedding: tie the output projection to the embedding; unlike in T5, it is not scaled.
      embedding_rank: 0, or the width of a factorised draft's embedding and projection to logits, see
        `factorised.py`.
      qkv_bias, out_bias, mlp_bias: biases of the query, key and value projections, of attention's output
        projection, and of the feed-forward.
      qk_norm: normalise every head of queries and keys before rotating it.
      query_scalar: queries are divided by its square root; 0: `head_dim`.
      window: sliding-window size, including the token itself; 0: no window.
      unwindowed_every: every so-many-th layer has no window; 0: all layers have the window.
      norm: `rms` or `layer` (with mean and bias).
      norms_around_zero: norm parameters are scales minus 1.
      post_norms: also normalise the outputs of attention and the feed-forward.
      scaled_embedding: multiply embeddings by the square root of `emb_dim`.
      positions: `rotary` or `learned`.
      max_positions: maximum sequence length; for rotary positions, only the training length.
      rope_theta, rope_scaling: parameters of the rotary positions.
      window_rope_theta: theta in layers with a window, which have no RoPE scaling; 0: as in other layers.
      dtype: dtype of activations; parameters and logits are float32.

    Raises:
      UsageError: a field has an invalid value; the error names the field.
    """

    vocab_size: int
    emb_dim: int = 512
    num_heads: int = 8
    num_kv_heads: int = 0
    head_dim: int = 64
    num_layers: int = 8
    mlp_dim: int = 2048
    mlp_activations: tuple[str, ...] = ("silu", "linear")
    dropout_rate: float = 0.0
    logits_via_embedding: bool = False
    embedding_rank: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    query_scalar: float = 0.0
    window: int = 0
    unwindowed_every: int = 0
    norm: str = "rms"
    norm_epsilon: float = 1e-5
    norms_around_zero: bool = False
    post_norms: bool = False
    scaled_embedding: bool = False
    positions: str = "rotary"
    max_positions: int = 2048
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    window_rope_theta: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if not self.num_kv_heads:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        check_sizes(self, _SIZES, ("num_layers",))
        check_embedding_rank(self)
        groups = f"divide num_heads = {self.num_heads}"
        require(self, "num_kv_heads", self.num_heads % self.num_kv_heads == 0, groups)
        require_one_of(self, "norm", NORMS)
        require_one_of(self, "positions", POSITIONS)
        if self.positions == "rotary":
            require(self, "head_dim", self.head_dim % 2 == 0, "be even where positions are rotary")
        within = f"be between 0 (none) and max_positions = {self.max_positions:,}"
        require(self, "window", 0 <= self.window <= self.max_positions, within)
        for field in ("query_scalar", "unwindowed_every", "window_rope_theta"):
            require(self, field, getattr(self, field) >= 0, "be 0 (none) or above")
        for field in ("unwindowed_every", "window_rope_theta"):
            require(
                self, field, bool(self.window) or not getattr(self, field), "be 0 where there is no window"
            )
        require(
            self, "norms_around_zero", self.norm == "rms" or not self.norms_around_zero, "be of norm 'rms'"
        )
        require(self, "norm_epsilon", 0 < self.norm_epsilon <= 1, "be above 0 and at most 1")
        require(self, "rope_theta", self.rope_theta > 0, "be above 0")
        check_feed_forward(self)
        check_count(self)

    @property
    def layers_without_window(self) -> tuple[bool, ...]:
        """For each layer, whether a token attends to all earlier tokens."""
        every = self.unwindowed_every
        return tuple(not self.window or bool(every and (i + 1) % every == 0) for i in range(self.num_layers))

    @property
    def num_parameters(self) -> int:
        """The number of parameters, computed without tracing."""
        width, gates = self.emb_dim, len(self.mlp_activations)
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        norm = width if self.norm == "rms" else 2 * width
        layer = (
            2 * width * (queries + keys)
            + (gates + 1) * width * self.mlp_dim
            + (2 + 2 * self.post_norms) * norm
        )
        layer += self.qk_norm * 2 * self.head_dim
        layer += self.qkv_bias * (queries + 2 * keys) + self.out_bias * width
        layer += self.mlp_bias * (gates * self.mlp_dim + width)
        positions = self.max_positions * width if self.positions == "learned" else 0
        return self.num_layers * layer + norm + positions + count_tables(self)
