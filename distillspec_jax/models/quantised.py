"""A decoder's kernels in eight bits: whole multiples, from -127 to 127, of a scale that each output has.

A token costs one reading of the decoder's weights, which in eight bits is a quarter of one in float32;
activations and sums stay what they are. A draft may be rounded at will: verification is exact for whatever
distribution its tokens were drawn from, and only acceptance can change. A target so rounded is another
target, near the first; `distillspec evaluate` says how near.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.shapes import Array, Params

_LARGEST = 127


def quantise(kernel: Array, axis: int = -1) -> tuple[Array, Array]:
    """int8 multiples and float32 scales, whose product is nearest.

    Args:
      axis: of a kernel's inputs, which share a scale; of size 1 in the scales.
    """
    scale = jnp.max(jnp.abs(kernel), axis, keepdims=True) / _LARGEST
    scale = jnp.where(scale > 0, scale, 1.0).astype(jnp.float32)
    return jnp.rint(kernel / scale).astype(jnp.int8), scale


def rounded(params: Params) -> Params:
    """Canonical parameters whose kernels can be read in eight bits without another rounding."""

    def nearest(path: Any, leaf: Array) -> Array:
        axis = _inputs_axis(path, params)
        if axis is None:
            return leaf
        whole, scale = quantise(leaf, axis)
        return (whole * scale).astype(leaf.dtype)

    found: Params = jax.jit(lambda params: jax.tree_util.tree_map_with_path(nearest, params))(params)
    return found


def num_weights(params: Params) -> int:
    """How many weights of canonical parameters are read in eight bits."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return sum(leaf.size for path, leaf in leaves if _inputs_axis(path, params) is not None)


def _inputs_axis(path: Any, params: Params) -> int | None:
    """The input axis of a quantised kernel, else None.

    Kernels that every token reads are quantised; an embedding is one if it also makes logits.
    """
    *above, name = (key.key for key in path)
    if name == "embedding" and above == ["token_embedder"]:
        return None if "logits_dense" in params["decoder"] else -1
    once_a_prompt = above[-2:-1] == ["encoder_decoder_attention"] and above[-1] in ("key", "value")
    return 0 if name == "kernel" and above[0] == "decoder" and not once_a_prompt else None
