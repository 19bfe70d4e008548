"""A decoder's kernels in 8 bits: integers from -127 to 127 times one scale per output.

Each token reads all decoder weights once, and 8-bit weights are a quarter of the bytes of float32;
activations and sums keep their dtype. Rounding a draft is always safe: verification is exact for any
distribution its tokens were drawn from, so only the acceptance rate can change. A rounded target is a
different target close to the original; `distillspec evaluate` measures how close.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.shapes import Array, Params

_LARGEST = 127


def quantise(kernel: Array, axis: int = -1) -> tuple[Array, Array]:
    """Rounds a kernel to int8 values and float32 scales; their product approximates it.

    Args:
      axis: the kernel's input axis, along which entries share a scale; it has size 1 in the scales.
    """
    scale = jnp.max(jnp.abs(kernel), axis, keepdims=True) / _LARGEST
    scale = jnp.where(scale > 0, scale, 1.0).astype(jnp.float32)
    return jnp.rint(kernel / scale).astype(jnp.int8), scale


def rounded(params: Params) -> Params:
    """Rounds canonical parameters so that their kernels convert to 8 bits without further rounding."""

    def nearest(path: Any, leaf: Array) -> Array:
        axis = _inputs_axis(path, params)
        if axis is None:
            return leaf
        whole, scale = quantise(leaf, axis)
        return (whole * scale).astype(leaf.dtype)

    found: Params = jax.jit(lambda params: jax.tree_util.tree_map_with_path(nearest, params))(params)
    return found


def num_weights(params: Params) -> int:
    """Counts the weights of canonical parameters that are read in 8 bits."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return sum(leaf.size for path, leaf in leaves if _inputs_axis(path, params) is not None)


def _inputs_axis(path: Any, params: Params) -> int | None:
    """Returns the input axis of a kernel to quantise, else None.

    Kernels that every token reads are quantised; these include an embedding that also makes the logits.
    """
    *above, name = (key.key for key in path)
    if name == "embedding" and above == ["token_embedder"]:
        return None if "logits_dense" in params["decoder"] else -1
    once_a_prompt = above[-2:-1] == ["encoder_decoder_attention"] and above[-1] in ("key", "value")
    return 0 if name == "kernel" and above[0] == "decoder" and not once_a_prompt else None
