"""Multi-head attention, in T5's form by default: no biases, and no 1/sqrt(d) (it is folded into
the query's init).

Two ways through the same parameters: `attend` over a whole sequence (training, encoding), and
`extend`, K new queries a row against a cache whose rows have lengths of their own.
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
"""Ways to attend over whole sequences: what stands here, or `jax.nn.dot_product_attention`'s implementations.

cuDNN's keeps no scores in memory; it takes 16-bit activations on NVIDIA GPUs alone.
"""
FEW_QUERIES = 16
"""At most so many queries are always attended the plain way: a decoding round's, against a cache."""
MASKED = -1e10
"""Added to masked attention logits; finite, so that a row without any key stays finite too."""


class View(NamedTuple):
    """Tells what a layer's tokens see of each other, and the angles that queries and keys are turned by."""

    bias: Array
    rotation: Rotation | None


def check_kernel(name: str, softcap: float = 0.0) -> None:
    """Refuses a way to attend.

    Args:
      softcap: see `Attention`; the plain way alone knows one.

    Raises:
      UsageError: there is no such way, or it would leave the cap out.
    """
    if name not in KERNELS:
        raise UsageError(f"ATTENTION={name!r}: {nearest(name, KERNELS)}")
    if name != "plain" and softcap:
        raise UsageError(
            f"ATTENTION={name!r} does not cap attention's scores, as this network does (at {softcap:g}): "
            "set ATTENTION='plain'"
        )


def bias_of(mask_BQS: Array) -> Array:
    """Boolean `[B, Q, S]` to an additive `[B, 1, Q, S]`."""
    return jnp.where(mask_BQS, 0.0, MASKED).astype(jnp.float32)[:, None]


def shared_dropout(rate: float) -> nn.Dropout:
    """T5X's dropout: one mask a sequence, shared by its positions; of attention's weights, by its queries.

    A mask of all the weights would be most of what a step draws.
    """
    return nn.Dropout(rate, broadcast_dims=(-2,))


class RMSNorm(nn.Module):
    """T5's layer norm: no mean subtraction, no bias, statistics in float32.

    Attributes:
      axis: the logical name of the axis that is normed; None: it is never sharded.
      around_zero: the parameter is the scale less 1 (Gemma).
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
    """Mean and variance taken out, scale and bias put in; statistics in float32."""

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
    """Plain (`activations=('relu',)`, T5 1.0) or gated (`('gelu', 'linear')`, T5 1.1) feed-forward."""

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
    """Bucket of `key position - query position`: exact when near, logarithmic when far (T5).

    With `bidirectional=False` the future shares bucket 0 (it is masked anyway).
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
    # The epsilon is T5X's: it keeps log(0) out and decides which side of a boundary a distance falls.
    scaled = jnp.log(distance.astype(jnp.float32) / exact + np.finfo(np.float32).eps)
    far = exact + (scaled / np.log(max_distance / exact) * (num_buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))


class RelativePositionBias(nn.Module):
    """A learned bias per head and bucketed distance, shared by all layers of a stack.

    Attributes:
      neighbours: see `T5Config.relpos_neighbours`; of fresh parameters alone.
    """

    num_heads: int
    num_buckets: int
    max_distance: int
    bidirectional: bool
    neighbours: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, query_position: Array, key_position: Array) -> Array:
        """`[..., Q]` and `[..., S]` positions to a bias `[..., H, Q, S]`."""
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
    """Projections and softmax; masks and position biases come in as one additive bias.

    Attributes:
      fused: queries, keys and values come of one product, as self-attention's do in prepared parameters.
      num_kv_heads: fewer heads of keys and values, each shared by a group of neighbouring queries' heads;
        None: one for each.
      qkv_bias, out_bias: biases of the projections.
      query_scale: what queries are multiplied by; None: their kernel was initialised to that.
      norm_epsilon: of a norm of each query's and key's head before it is rotated (Qwen3); None: no such norm.
      norms_around_zero: see `RMSNorm.around_zero`.
      softcap: of scores, before masks and biases, see `soft_cap.py`; 0: none.
      kernel: of `KERNELS`; all but the plain one know no dropout of attention's weights.
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
            # Over a whole prompt, once: many rows.
            self.key = Dense(width // group, axes, self.dtype, use_bias=bias)
            self.value = Dense(width // group, axes, self.dtype, use_bias=bias)
        out = ("joined_kv", "embed")
        self.out = Dense(self.features, out, self.dtype, form=self.form, use_bias=self.out_bias)
        self.dropout = shared_dropout(self.dropout_rate)
        if self.norm_epsilon is not None:
            of_heads = (self.dtype, self.norm_epsilon, None, self.norms_around_zero)
            self.query_norm, self.key_norm = RMSNorm(*of_heads), RMSNorm(*of_heads)

    def _heads(self, x_BTE: Array) -> Array:
        """`[B, T, H*D] -> [B, H, T, D]`, the cache's layout: the slots of one head lie together."""
        b, t, _ = x_BTE.shape
        return jnp.swapaxes(x_BTE.reshape(b, t, -1, self.head_dim), 1, 2)

    def queries(self, x_BTM: Array) -> Array:
        """Queries `[B, H, T, D]` of a sequence, to attend to another one."""
        query = self._heads(self.query(x_BTM))
        return query * self.query_scale if self.query_scale else query

    def keys_values(self, x_BTM: Array) -> tuple[Array, Array]:
        """Keys and values `[B, H, T, D]` of a sequence."""
        return self._heads(self.key(x_BTM)), self._heads(self.value(x_BTM))

    def queries_keys_values(
        self, x_BTM: Array, rotation: Rotation | None = None
    ) -> tuple[Array, tuple[Array, Array]]:
        """Queries, keys and values of one input, for self-attention; it alone reads stacked parameters.

        Args:
          rotation: rotates queries and keys by their positions.
        """
        if self.fused:
            # Members are the first heads of every group, the second heads, ...; then keys and values.
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
        """Queries over keys and values `[B, H, S, D]` to `[B, Q, M]`; softmax in float32."""
        b, h, q, d = q_BHQD.shape
        if self.kernel != "plain" and q > FEW_QUERIES:
            q_BQHD, k_BSHD, v_BSHD = (jnp.swapaxes(x, 1, 2) for x in (q_BHQD, *kv))
            kernel: Any = self.kernel
            out_BQHD = jax.nn.dot_product_attention(
                q_BQHD, k_BSHD, v_BSHD, bias_BHQS, scale=1.0, implementation=kernel
            )
            return self.out(out_BQHD.reshape(b, q, h * d))
        # The queries of a group stand in line before the keys that they share.
        line = (b, kv[0].shape[1], -1, d)
        if self.form in TRANSPOSED:
            scores = few_queries(q_BHQD.reshape(line), kv[0])
        else:
            scores = jnp.einsum("bhqd,bhsd->bhqs", q_BHQD.reshape(line), kv[0])
        scores = soft_capped(scores.reshape(b, h, q, -1).astype(jnp.float32), self.softcap) + bias_BHQS
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

        Slots past the end are dropped, never clamped back onto earlier tokens.
        """
        q_BHKD, new = self.queries_keys_values(x_BKM, rotation)
        slot_BK = length_B[:, None] + jnp.arange(x_BKM.shape[1])[None]
        keys, values = (
            _written(old, slot_BK, fresh.astype(old.dtype)) for old, fresh in zip(cache, new, strict=True)
        )
        return self.attend(q_BHKD, (keys, values), bias_BHKS), (keys, values)


def _written(cache_BHTD: Array, slot_BK: Array, fresh_BHKD: Array) -> Array:
    """The cache with new entries, each row's at slots of its own.

    Rows and heads are batch dimensions of the scatter: devices that hold some of them write these alone.
    """

    def write(cache_TD: Array, slot_K: Array, fresh_KD: Array) -> Array:
        return cache_TD.at[slot_K].set(fresh_KD, mode="drop")

    return jax.vmap(jax.vmap(write, in_axes=(0, None, 0)))(cache_BHTD, slot_BK, fresh_BHKD)
