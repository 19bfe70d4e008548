"""The forms of a decoder's parameters that decode fastest, for every family of this package.

At batch 1, each token reads all decoder weights once. The query, key and value kernels of self-attention
become one array, as do both input kernels of a gated feed-forward, so that each is one long read; a tied
embedding gets a separate kernel for the logits. Calls of few rows on a CPU use transposed kernels
(`cpu_forms.py`), in 8 bits if the model was loaded as int8 (`quantised.py`). Storage, training and display
use the canonical tree; these forms exist only inside decoding and give the same logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.models import cpu_forms, quantised
from distillspec_jax.models.dense import Form
from distillspec_jax.shapes import Array, Params


def prepared(
    params: Params, rows: int | None = None, *, head_dim: int, logits_scale: float = 1.0, int8: bool = False
) -> Params:
    """Converts a canonical tree's decoder to the form for calls of `rows` rows; returns other forms as is.

    Args:
      rows: batch times tokens of a call; None for calls of any size.
      head_dim: width of a head.
      logits_scale: factor of a tied embedding in the projection to logits.
      int8: whether kernels for few rows have 8 bits.
    """
    if form_of(params) != "canonical":
        return params
    form: Form = "stacked"
    # Kernels of eight bits take a quarter of the bytes.
    if cpu_forms.pays(rows, _bytes(params) // (4 if int8 else 1)):
        form = "int8" if int8 else "few_rows"
    decoder = {
        name: _layer(node, form, head_dim) if name.startswith("layers_") else node
        for name, node in params["decoder"].items()
    }
    if "logits_dense" not in decoder:
        embedding_VM = params["token_embedder"]["embedding"]
        decoder["logits_dense"] = {"kernel": embedding_VM.T * logits_scale}
    for name in {"narrow", "logits_dense"} & decoder.keys():
        decoder[name] = _formed(decoder[name], form)
    return {**params, "decoder": decoder}


def _bytes(params: Params) -> int:
    """Bytes that a call of a canonical decoder reads of its weights."""
    read: list[Any] = [params["decoder"]]
    if "logits_dense" not in params["decoder"]:
        read.append(params["token_embedder"])
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(read))


def form_of(params: Params) -> Form:
    """Returns the form of the parameters."""
    qkv = params["decoder"]["layers_0"]["self_attention"].get("qkv_stack")
    if qkv is None:
        return "canonical"
    if "kernel" in qkv:
        return "stacked"
    return "int8" if "kernel_int8" in qkv else "few_rows"


def _layer(layer: Mapping[str, Any], form: Form, head_dim: int) -> dict[str, Any]:
    attention, mlp = layer["self_attention"], layer["mlp"]
    gated = sorted(name for name in mlp if name.startswith("wi_"))
    inner = {"wi_stack": _stack([mlp[name] for name in gated])} if gated else {"wi": mlp["wi"]}
    key, value = attention["key"], attention["value"]
    qkv = _stack([*_grouped(attention["query"], key, head_dim), key, value])
    found = {
        **layer,
        "self_attention": {
            "qkv_stack": _formed(qkv, form),
            "out": _formed(attention["out"], form),
            **{name: node for name, node in attention.items() if name.endswith("_norm")},
        },
        "mlp": {name: _formed(node, form) for name, node in {**inner, "wo": mlp["wo"]}.items()},
    }
    if "encoder_decoder_attention" in layer:
        cross = layer["encoder_decoder_attention"]
        # Keys and values are computed from whole prompts, i.e. many rows, so they stay canonical.
        formed = {name: _formed(cross[name], form) for name in ("query", "out")}
        found["encoder_decoder_attention"] = {**cross, **formed}
    return found


def _grouped(query: Mapping[str, Array], key: Mapping[str, Array], head_dim: int) -> list[dict[str, Array]]:
    """Splits a query projection into members as wide as the key's: each group's first heads, its second, ...

    This split keeps the query heads on the same device as the keys they share.
    """
    kv_width = key["kernel"].shape[1]
    group = query["kernel"].shape[1] // kv_width

    def member(array: Array, g: int) -> Array:
        heads = array.reshape(*array.shape[:-1], kv_width // head_dim, group, head_dim)
        return heads[..., g, :].reshape(*array.shape[:-1], kv_width)

    return [{name: member(array, g) for name, array in query.items()} for g in range(group)]


def _stack(nodes: list[Mapping[str, Array]]) -> dict[str, Array]:
    """Stacks kernels `[in, out]` to `[in, members, out]`, and biases `[out]` to `[members, out]`."""
    return {name: jnp.stack([node[name] for node in nodes], axis=-2) for name in nodes[0]}


def _formed(node: Mapping[str, Array], form: Form) -> dict[str, Array]:
    """Transposes a kernel `[in, ...]` to `[..., in]`, and rounds it to 8 bits for the form `int8`."""
    if form == "stacked":
        return dict(node)
    rest = {name: array for name, array in node.items() if name != "kernel"}
    kernel = jnp.moveaxis(node["kernel"], 0, -1)
    if form == "few_rows":
        return {"kernel_transposed": kernel, **rest}
    whole, scale = quantised.quantise(kernel)
    return {"kernel_int8": whole, "scale": scale[..., 0], **rest}
