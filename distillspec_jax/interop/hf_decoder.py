"""Decoder-only weights in Hugging Face's names and shapes, in both directions: Llama, Mistral, Qwen2,
Qwen3, Gemma 3, GPT-2.

transformers treats SmolLM, TinyLlama and most other models of this shape as Llamas. Neither torch nor
transformers is imported: the caller turns files into arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distillspec_jax.interop.hf_decoder_config import config_from_hf, config_to_hf
from distillspec_jax.interop.tensors import Source, Tensors, check_ties, collect, spread
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.shapes import Params


def from_hf(
    tensors: Tensors, config: Mapping[str, Any], where: str | None = None
) -> tuple[DecoderOnlyConfig, Params]:
    """Converts the weights of a causal language model.

    Args:
      tensors: by transformers' names; read one at a time.
      config: the values of its config.json.
      where: its name in type errors.

    Returns:
      The configuration and the canonical tree of float32 NumPy arrays.

    Raises:
      UsageError: the configuration is not supported, or tensors contradict it; names every missing, unused or
        misshaped tensor.
    """
    kind = config["model_type"]
    ours, what = config_from_hf(config, where), f"Hugging Face {kind}"
    # The first GPT-2 was saved without its head and therefore without the prefix.
    bare = kind == "gpt2" and not any(name.startswith("transformer.") for name in tensors)
    sources = sources_of(kind, ours, "" if bare else None)
    table = sources["token_embedder/embedding"].name
    aliases = [_HEAD] if ours.logits_via_embedding and _HEAD in tensors else []
    buffers = {name for name in tensors if name.endswith(_BUFFERS)}
    params = collect(what, DecoderOnly(ours), sources, tensors, {*aliases, *buffers})
    check_ties(what, tensors, aliases, table)
    return ours, params


def to_hf(config: DecoderOnlyConfig, params: Params) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inverse of `from_hf`: float32 tensors by transformers' names, and the values of config.json.

    Raises:
      UsageError: parameters have other shapes than the configuration's, or transformers has no architecture
        for the network.
    """
    theirs = config_to_hf(config)
    sources = sources_of(theirs["model_type"], config)
    return spread(f"Hugging Face {theirs['model_type']}", DecoderOnly(config), sources, params), theirs


_HEAD = "lm_head.weight"

_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Name suffixes of constants that older files store with the weights."""


def sources_of(kind: str, config: DecoderOnlyConfig, prefix: str | None = None) -> dict[str, Source]:
    """Maps every parameter to its tensor; `prefix` is prepended to all names except the head's."""
    table = _gpt2_sources(config) if kind == "gpt2" else _llama_sources(config)
    prefix = ("transformer." if kind == "gpt2" else "model.") if prefix is None else prefix
    found = {path: source._replace(name=prefix + source.name) for path, source in table.items()}
    if not config.logits_via_embedding:
        found["decoder/logits_dense/kernel"] = Source(_HEAD, True)
    return found


def _llama_sources(config: DecoderOnlyConfig) -> dict[str, Source]:
    table = {
        "token_embedder/embedding": Source("embed_tokens.weight"),
        "decoder/decoder_norm/scale": Source("norm.weight"),
    }
    projections = {
        "self_attention/query": ("self_attn.q_proj", config.qkv_bias),
        "self_attention/key": ("self_attn.k_proj", config.qkv_bias),
        "self_attention/value": ("self_attn.v_proj", config.qkv_bias),
        "self_attention/out": ("self_attn.o_proj", config.out_bias),
        "mlp/wi_0": ("mlp.gate_proj", config.mlp_bias),
        "mlp/wi_1": ("mlp.up_proj", config.mlp_bias),
        "mlp/wo": ("mlp.down_proj", config.mlp_bias),
    }
    for i in range(config.num_layers):
        ours, theirs = f"decoder/layers_{i}", f"layers.{i}"
        table[f"{ours}/pre_self_attention_layer_norm/scale"] = Source(f"{theirs}.input_layernorm.weight")
        norms = {"pre_mlp_layer_norm": "post_attention_layernorm"}
        if config.post_norms:
            norms = {
                "post_self_attention_layer_norm": "post_attention_layernorm",
                "pre_mlp_layer_norm": "pre_feedforward_layernorm",
                "post_mlp_layer_norm": "post_feedforward_layernorm",
            }
        table |= {f"{ours}/{part}/scale": Source(f"{theirs}.{name}.weight") for part, name in norms.items()}
        for part, name in {"query_norm": "q_norm", "key_norm": "k_norm"}.items() if config.qk_norm else ():
            table[f"{ours}/self_attention/{part}/scale"] = Source(f"{theirs}.self_attn.{name}.weight")
        for path, (name, bias) in projections.items():
            table[f"{ours}/{path}/kernel"] = Source(f"{theirs}.{name}.weight", True)
            if bias:
                table[f"{ours}/{path}/bias"] = Source(f"{theirs}.{name}.bias")
    return table


def _gpt2_sources(config: DecoderOnlyConfig) -> dict[str, Source]:
    """Like `_llama_sources`; GPT-2 stores kernels as `[in, out]`, with query, key and value concatenated."""
    table = {
        "token_embedder/embedding": Source("wte.weight"),
        "position_embedder/embedding": Source("wpe.weight"),
        "decoder/decoder_norm/scale": Source("ln_f.weight"),
        "decoder/decoder_norm/bias": Source("ln_f.bias"),
    }
    projections = {
        "self_attention/query": ("attn.c_attn", (0, 3)),
        "self_attention/key": ("attn.c_attn", (1, 3)),
        "self_attention/value": ("attn.c_attn", (2, 3)),
        "self_attention/out": ("attn.c_proj", (0, 1)),
        "mlp/wi": ("mlp.c_fc", (0, 1)),
        "mlp/wo": ("mlp.c_proj", (0, 1)),
    }
    norms = {"pre_self_attention_layer_norm": "ln_1", "pre_mlp_layer_norm": "ln_2"}
    for i in range(config.num_layers):
        ours, theirs = f"decoder/layers_{i}", f"h.{i}"
        for path, name in norms.items():
            table[f"{ours}/{path}/scale"] = Source(f"{theirs}.{name}.weight")
            table[f"{ours}/{path}/bias"] = Source(f"{theirs}.{name}.bias")
        for path, (name, part) in projections.items():
            table[f"{ours}/{path}/kernel"] = Source(f"{theirs}.{name}.weight", part=part)
            table[f"{ours}/{path}/bias"] = Source(f"{theirs}.{name}.bias", part=part)
    return table
