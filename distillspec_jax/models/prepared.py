"""The forms of a T5's parameters that decode fastest.

At batch 1 a token costs one reading of the decoder's weights. Queries, keys and values of self-attention,
and both inputs of a gated feed-forward, become one array each, read in one go, and an embedding that is also
the projection to logits gets a kernel of its own. Calls of few rows on a CPU want every kernel turned round
(`dense.few_rows`). The canonical tree stays what is stored, trained and shown; these forms live inside
decoding and give the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.models.dense import FEW_ROWS, Form
from distillspec_jax.shapes import Array, Params


def prepared(params: Params, rows: int | None = None) -> Params:
    """The canonical tree with its decoder in the form for calls of so many rows; a prepared one as it is.

    Args:
      rows: batch times tokens of a call; None for calls of any size.
    """
    if form_of(params) != "canonical":
        return params
    turned = rows is not None and rows <= FEW_ROWS and jax.default_backend() == "cpu"
    decoder = {
        name: _layer(node, turned) if name.startswith("layers_") else node
        for name, node in params["decoder"].items()
    }
    if "logits_dense" not in decoder:
        embedding_VM = params["token_embedder"]["embedding"]
        decoder["logits_dense"] = {"kernel": embedding_VM.T / jnp.sqrt(embedding_VM.shape[1])}
    decoder["logits_dense"] = _turned(decoder["logits_dense"], turned)
    return {**params, "decoder": decoder}


def form_of(params: Params) -> Form:
    """The form that parameters are in."""
    qkv = params["decoder"]["layers_0"]["self_attention"].get("qkv_stack")
    if qkv is None:
        return "canonical"
    return "stacked" if "kernel" in qkv else "few_rows"


def _layer(layer: Mapping[str, Any], turned: bool) -> dict[str, Any]:
    attention, cross, mlp = layer["self_attention"], layer["encoder_decoder_attention"], layer["mlp"]
    gated = sorted(name for name in mlp if name.startswith("wi_"))
    inner = {"wi_stack": _stack(mlp, gated)} if gated else {"wi": mlp["wi"]}
    return {
        **layer,
        "self_attention": {
            "qkv_stack": _turned(_stack(attention, ["query", "key", "value"]), turned),
            "out": _turned(attention["out"], turned),
        },
        # Keys and values are made of whole prompts.
        "encoder_decoder_attention": {
            **cross,
            **{name: _turned(cross[name], turned) for name in ("query", "out")},
        },
        "mlp": {name: _turned(node, turned) for name, node in {**inner, "wo": mlp["wo"]}.items()},
    }


def _stack(node: Mapping[str, Any], names: list[str]) -> dict[str, Array]:
    """Kernels `[in, out]` to one of `[in, members, out]`."""
    return {"kernel": jnp.stack([node[name]["kernel"] for name in names], axis=1)}


def _turned(node: Mapping[str, Array], turned: bool) -> dict[str, Array]:
    """`[in, ...]` to `[..., in]`, if so wanted."""
    if not turned:
        return dict(node)
    return {"kernel_transposed": jnp.moveaxis(node["kernel"], 0, -1)}
