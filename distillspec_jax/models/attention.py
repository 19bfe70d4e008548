"""Multi-head attention, by default as in T5: no biases, and 1/sqrt(d) is folded into the query's init.

Two methods use the same parameters: `attend` over a whole sequence (training, encoding), and `extend`
with K new queries per row against a KV cache whose rows have different lengths.
Parameter names and shapes are T5X's (`{query,key,value,out}/kernel`, 2-D).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.models.cpu_forms import few_queries
from distillspec_jax.models.dense import (
    TRANSPOSED,
    Dense,
    Form,
    StackedDense,
    along_last,
    fan_in_normal,
    logical,
)
from distillspec_jax.models.rotary import Rotation, rotate
from distillspec_jax.models.soft_cap import soft_capped
from distillspec_jax.shapes import Array

KERNELS = ("plain", "xla", "cudnn")
"""Attention over whole sequences: this module's, or an implementation of `jax.nn.dot_product_attention`.

cuDNN's does not store the scores; it requires 16-bit activations and an NVIDIA GPU.
"""
FEW_QUERIES = 16
"""Up to this many queries always use the plain kernel: those of a decoding round against a cache."""
MASKED = -1e10
"""Added to masked attention logits; finite, so that a row without any key stays finite, too."""


class View(NamedTuple):
    """A layer's attention bias (masks and positions), and the rotation of its queries and keys."""

    bias: Array
    rotation: Rotation | None


def check_kernel(name: str, softcap: float = 0.0) -> None:
    """Checks the name of an attention kernel.

    Args:
      softcap: see `Attention`; only the plain kernel supports one.

    Raises:
      UsageError: the kernel does not exist, or would ignore the cap.
    """
    if name not in KERNELS:
        raise UsageError(f"ATTENTION={name!r}: {nearest(name, KERNELS)}")
    if name != "plain" and softcap:
        raise UsageError(
            f"ATTENTION={name!r} does not cap attention's scores, as this network does (at {softcap:g}): "
            "set ATTENTION='plain'"
        )


def bias_of(mask_BQS: Array) -> Array:
    """Converts a boolean mask `[B, Q, S]` to an additive bias `[B, 1, Q, S]`."""
    return jnp.where(mask_BQS, 0.0, MASKED).astype(jnp.float32)[:, None]


def shared_dropout(rate: float) -> nn.Dropout:
    """T5X's dropout: one mask per sequence, shared by its positions; on attention weights, by its queries.

    A full mask of the attention weights would account for most of the random bits of a step.
    """
    return nn.Dropout(rate, broadcast_dims=(-2,))


class RMSNorm(nn.Module):
    """T5's layer norm: no mean subtraction, no bias, statistics in float32.

    Attributes:
      axis: the logical name of the normalised axis; None: it is never sharded.
      around_zero: the parameter is the scale minus 1 (Gemma).
    """

    dtype: Any = jnp.float32
    epsilon: float = 1e-6
    axis: str | None = "embed"
    around_zero: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.zeros if self.around_zero else nn.initializers.ones
        scale = self.param("scale", logical(init, self.axis), (x.shape[-1],), jnp.float32)
        scale = 1.0 + scale if self.around_zero else scale
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.epsilon)
        return (normed * along_last(scale, x32)).astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation with scale and bias; statistics in float32."""

    dtype: Any = jnp.float32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", logical(nn.initializers.ones, "embed"), (x.shape[-1],), jnp.float32)
        bias = self.param("bias", logical(nn.initializers.zeros, "embed"), (x.shape[-1],), jnp.float32)
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.epsilon)
        return (normed * along_last(scale, x32) + along_last(bias, x32)).astype(self.dtype)


class MlpBlock(nn.Module):
    """Plain (`activations=('relu',)`, T5 1.0) or gated (`('gelu', 'linear')`, T5 1.1) feed-forward block."""

    hidden: int
    activations: Sequence[str]
    dropout_rate: float
    dtype: Any = jnp.float32
    form: Form = "canonical"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        axes, count, form, use_bias = ("embed", "mlp"), len(self.activations), self.form, self.use_bias
        if form != "canonical" and count > 1:
            stack = StackedDense(count, self.hidden, axes, self.dtype, form, use_bias, name="wi_stack")
            inner = stack(x)
        else:
            names = ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]
            inner = tuple(
                Dense(self.hidden, axes, self.dtype, form=form, use_bias=use_bias, name=name)(x)
                for name in names
            )
        gate: Array | None = None
        for name, h in zip(self.activations, inner, strict=True):
            h = h if name == "linear" else getattr(nn, name)(h)
            gate = h if gate is None else gate * h
        assert gate is not None
        gate = shared_dropout(self.dropout_rate)(gate, deterministic=deterministic)
        outer = Dense(x.shape[-1], ("mlp", "embed"), self.dtype, form=form, use_bias=use_bias, name="wo")
        return outer(gate)


def relative_position_bucket(
    relative_position: Array, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Array:
    """Computes T5's bucket of `key position - query position`: exact if near, logarithmic if far.

    With `bidirectional=False`, all future positions share bucket 0 (they are masked anyway).
    """
    distance = -relative_position
    offset = jnp.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(distance < 0, num_buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(distance, 0)
    exact = num_buckets // 2
    # The epsilon is T5X's: it avoids log(0) and decides on which side of a boundary a distance falls.
    scaled = jnp.log(distance.astype(jnp.float32) / exact + np.finfo(np.float32).eps)
    far = exact + (scaled / np.log(max_distance / exact) * (num_buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))


class RelativePositionBias(nn.Module):
    """A learned bias per head and bucketed distance, shared by all layers of a stack.

    Attributes:
      neighbours: see `T5Config.relpos_neighbours`; only affects initialisation.
    """

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool
    neighbours: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query_position: Array, key_position: Array) -> Array:
        """Maps `[..., Q]` and `[..., S]` positions to a bias `[..., H, Q, S]`."""
        table_HR = self.param(
            "rel_embedding",
            logical(self._init, "heads", "relpos_buckets"),
            (self.num_heads, self.num_buckets),
            jnp.float32,
        )
        bucket = self._bucket(key_position[..., None, :] - query_position[..., :, None])
        return jnp.moveaxis(table_HR.T[bucket], -1, -3).astype(self.dtype)

    def _bucket(self, relative_position: Array) -> Array:
        return relative_position_bucket(
            relative_position,
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )

    def _init(self, key: Array, shape: tuple[int, int], dtype: Any) -> Array:
        table_HR = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")(key, shape, dtype)
        if not self.neighbours:
            return table_HR
        row_R = jnp.arange(self.num_buckets)
        near_HR = self._bucket(jnp.array([-1, 1]))[:, None] == row_R[None]
        return table_HR.at[:2].set(jnp.where(near_HR, self.neighbours, 0.0).astype(dtype))


class Attention(nn.Module):
    """Projections and softmax; masks and position biases enter as one additive bias.

    Attributes:
      fused: one product computes queries, keys and values, as for self-attention in prepared parameters.
      num_kv_heads: key and value heads, each shared by a group of adjacent query heads (grouped-query
        attention); None: as many as query heads.
      qkv_bias, out_bias: whether the projections have biases.
      query_scale: factor of the queries; None: it is folded into the initialisation of their kernel.
      norm_epsilon: epsilon of the per-head norm of queries and keys before rotation (Qwen3); None: no norm.
      norms_around_zero: see `RMSNorm.around_zero`.
      softcap: soft cap of the scores, before masks and biases, see `soft_cap.py`; 0: none.
      kernel: one of `KERNELS`; only the plain one supports dropout of the attention weights.
    """

    num_heads: int
    head_dim: int
    features: int
    dropout_rate: float
    dtype: Any = jnp.float32
    form: Form = "canonical"
    fused: bool = False
    num_kv_heads: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    query_scale: float | None = None
    norm_epsilon: float | None = None
    norms_around_zero: bool = False
    softcap: float = 0.0
    kernel: str = "plain"

    def setup(self) -> None:
        group = self.num_heads // (self.num_kv_heads or self.num_heads)
        width = self.num_heads * self.head_dim
        axes, bias = ("embed", "joined_kv"), self.qkv_bias

        def query_init(*args: Any) -> Array:
            return fan_in_normal(*args) / (1 if self.query_scale else np.sqrt(self.head_dim))

        if self.fused:
            self.qkv_stack = StackedDense(group + 2, width // group, axes, self.dtype, self.form, bias)
        else:
            self.query = Dense(width, axes, self.dtype, query_init, self.form, bias)
            # Always canonical: cross-attention computes keys and values once, for all rows of a whole prompt.
            self.key = Dense(width // group, axes, self.dtype, use_bias=bias)
            self.value = Dense(width // group, axes, self.dtype, use_bias=bias)
        out = ("joined_kv", "embed")
        self.out = Dense(self.features, out, self.dtype, form=self.form, use_bias=self.out_bias)
        self.dropout = shared_dropout(self.dropout_rate)
        if self.norm_epsilon is not None:
            of_heads = (self.dtype, self.norm_epsilon, None, self.norms_around_zero)
            self.query_norm, self.key_norm = RMSNorm(*of_heads), RMSNorm(*of_heads)

    def _heads(self, x_BTE: Array) -> Array:
        """`[B, T, H*D] -> [B, H, T, D]`, the cache's layout: the slots of one head are contiguous."""
        b, t, _ = x_BTE.shape
        return jnp.swapaxes(x_BTE.reshape(b, t, -1, self.head_dim), 1, 2)

    def queries(self, x_BTM: Array) -> Array:
        """Computes queries `[B, H, T, D]` of a sequence for cross-attention."""
        query = self._heads(self.query(x_BTM))
        return query * self.query_scale if self.query_scale else query

    def keys_values(self, x_BTM: Array) -> tuple[Array, Array]:
        """Computes keys and values `[B, H, T, D]` of a sequence."""
        return self._heads(self.key(x_BTM)), self._heads(self.value(x_BTM))

    def queries_keys_values(
        self, x_BTM: Array, rotation: Rotation | None = None
    ) -> tuple[Array, tuple[Array, Array]]:
        """Computes queries, keys and values of one input for self-attention, the only user of stacked params.

        Args:
          rotation: rotates queries and keys by their positions.
        """
        if self.fused:
            # The members are the first heads of every group, the second heads, ...; then keys and values.
            *queries, key, value = (self._heads(part) for part in self.qkv_stack(x_BTM))
            b, _, t, d = key.shape
            query = jnp.stack(queries, axis=2).reshape(b, self.num_heads, t, d)
        else:
            query, (key, value) = self._heads(self.query(x_BTM)), self.keys_values(x_BTM)
        if self.norm_epsilon is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.query_scale:
            query *= self.query_scale
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, (key, value)

    def attend(
        self, q_BHQD: Array, kv: tuple[Array, Array], bias_BHQS: Array, deterministic: bool = True
    ) -> Array:
        """Attends with queries over keys and values `[B, H, S, D]` to `[B, Q, M]`; softmax in float32."""
        b, h, q, d = q_BHQD.shape
        if self.kernel != "plain" and q > FEW_QUERIES:
            q_BQHD, k_BSHD, v_BSHD = (jnp.swapaxes(x, 1, 2) for x in (q_BHQD, *kv))
            kernel: Any = self.kernel
            out_BQHD = jax.nn.dot_product_attention(
                q_BQHD, k_BSHD, v_BSHD, bias_BHQS, scale=1.0, implementation=kernel
            )
            return self.out(out_BQHD.reshape(b, q, h * d))
        # Flattens the query heads of a group into the query axis, as they share the same keys.
        line = (b, kv[0].shape[1], -1, d)
        if self.form in TRANSPOSED:
            scores = few_queries(q_BHQD.reshape(line), kv[0])
        elif self.form == "stacked":  # many rows, of few queries each
            scores = jax.lax.platform_dependent(q_BHQD.reshape(line), kv[0], cpu=few_queries, default=_scores)
        else:
            scores = _scores(q_BHQD.reshape(line), kv[0])
        scores = soft_capped(scores.reshape(b, h, q, -1).astype(jnp.float32), self.softcap)
        # Selected, not only added: a rejected draft's slot may hold NaN, which no sum masks.
        scores = jnp.where(bias_BHQS < MASKED / 2, MASKED, scores + bias_BHQS)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        weights = weights.reshape(*line[:3], scores.shape[-1])
        out = jnp.einsum("bhqs,bhsd->bhqd", weights, kv[1]).reshape(b, h, q, d)
        return self.out(jnp.swapaxes(out, 1, 2).reshape(b, q, h * d))

    def extend(
        self,
        x_BKM: Array,
        cache: tuple[Array, Array],
        length_B: Array,
        bias_BHKS: Array,
        rotation: Rotation | None = None,
    ) -> tuple[Array, tuple[Array, Array]]:
        """Writes K keys and values at each row's own length, then attends over the cache.

        Writes past the end are dropped, never clamped onto earlier tokens.
        """
        q_BHKD, (key, value) = self.queries_keys_values(x_BKM, rotation)
        # A value that is not finite would spoil rows that give it no weight (0 x NaN), should its token be
        # rejected: the key tells instead, through the scores of those that do see the slot.
        finite = jnp.isfinite(value).all(-1, keepdims=True)
        new = jnp.where(finite, key, jnp.nan), jnp.where(finite, value, 0)
        slot_BK = length_B[:, None] + jnp.arange(x_BKM.shape[1])[None]
        keys, values = (
            _written(old, slot_BK, fresh.astype(old.dtype)) for old, fresh in zip(cache, new, strict=True)
        )
        return self.attend(q_BHKD, (keys, values), bias_BHKS), (keys, values)


def _scores(query_BHQD: Array, key_BHSD: Array) -> Array:
    return jnp.einsum("bhqd,bhsd->bhqs", query_BHQD, key_BHSD)


def _written(cache_BHTD: Array, slot_BK: Array, fresh_BHKD: Array) -> Array:
    """Returns the cache with new entries at each row's own slots.

    Rows and heads are batch dimensions of the scatter, so each device writes only its own shard.
    """

    def write(cache_TD: Array, slot_K: Array, fresh_KD: Array) -> Array:
        return cache_TD.at[slot_K].set(fresh_KD, mode="drop")

    return jax.vmap(jax.vmap(write, in_axes=(0, None, 0)))(cache_BHTD, slot_BK, fresh_BHKD)
