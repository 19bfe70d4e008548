"""The form of a T5's parameters that decodes fastest.

At batch 1 a token costs one reading of the decoder's weights. Queries, keys and values of self-attention,
and both inputs of a gated feed-forward, become one array each, read in one go, and an embedding that is also
the projection to logits is transposed: for a few rows at once XLA's CPU kernels are ten times slower on its
transpose. The canonical tree stays what is stored, trained and shown; this form lives inside decoding and
gives the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from distillspec_jax.shapes import Array, Params


def stacked(params: Params) -> Params:
    """The canonical tree with its decoder's projections stacked; already stacked ones stay as they are.

    A new axis holds the members of a stack, so that the sharded axis of each stays an axis of its own.
    """
    if is_stacked(params):
        return params
    decoder = {
        name: _stacked_layer(node) if name.startswith("layers_") else node
        for name, node in params["decoder"].items()
    }
    if "logits_dense" not in decoder:
        embedding_VM = params["token_embedder"]["embedding"]
        decoder["logits_dense"] = {"kernel": embedding_VM.T / jnp.sqrt(embedding_VM.shape[1])}
    return {**params, "decoder": decoder}


def is_stacked(params: Params) -> bool:
    """Whether the parameters went through `stacked`."""
    return "qkv_stack" in params["decoder"]["layers_0"]["self_attention"]


def _stacked_layer(layer: Mapping[str, Any]) -> dict[str, Any]:
    attention, mlp = layer["self_attention"], layer["mlp"]
    attention = {"qkv_stack": _stack(attention, ["query", "key", "value"]), "out": attention["out"]}
    gated = sorted(name for name in mlp if name.startswith("wi_"))
    if gated:
        mlp = {"wi_stack": _stack(mlp, gated), "wo": mlp["wo"]}
    return {**layer, "self_attention": attention, "mlp": mlp}


def _stack(node: Mapping[str, Any], names: list[str]) -> dict[str, Array]:
    """Kernels `[in, out]` to one of `[in, members, out]`."""
    return {"kernel": jnp.stack([node[name]["kernel"] for name in names], axis=1)}
