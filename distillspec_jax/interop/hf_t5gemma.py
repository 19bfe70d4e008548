"""T5Gemma's weights in Hugging Face's names and shapes, in both directions; NumPy arrays in and out.

Neither torch nor transformers is imported: the caller turns files into arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distillspec_jax.interop.hf_t5gemma_config import WHAT, config_from_hf, config_to_hf
from distillspec_jax.interop.tensors import Source, Tensors, check_ties, collect, spread
from distillspec_jax.models.t5gemma import T5Gemma
from distillspec_jax.models.t5gemma_config import T5GemmaConfig
from distillspec_jax.shapes import Params

_HEAD, _TABLE = "lm_head.out_proj.weight", "model.decoder.embed_tokens.weight"


def from_hf(tensors: Tensors, config: Mapping[str, Any], where: str = WHAT) -> tuple[T5GemmaConfig, Params]:
    """Converts the weights of a `T5GemmaForConditionalGeneration`.

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
    ours = config_from_hf(config, where)
    aliases = [_HEAD] if ours.logits_via_embedding and _HEAD in tensors else []
    params = collect(WHAT, T5Gemma(ours), _sources(ours), tensors, aliases)
    check_ties(WHAT, tensors, aliases, _TABLE)
    return ours, params


def to_hf(config: T5GemmaConfig, params: Params) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inverse of `from_hf`: float32 tensors by transformers' names, and the values of config.json.

    Raises:
      UsageError: parameters have other shapes than the configuration's, or transformers' T5Gemma does not
        support the activation.
    """
    return spread(WHAT, T5Gemma(config), _sources(config), params), config_to_hf(config)


def _sources(config: T5GemmaConfig) -> dict[str, Source]:
    """Maps every parameter of the canonical tree to its tensor."""
    table = {
        "token_embedder/embedding": Source(_TABLE),
        "encoder/token_embedder/embedding": Source("model.encoder.embed_tokens.weight"),
    }
    if not config.logits_via_embedding:
        table["decoder/logits_dense/kernel"] = Source(_HEAD, True)
    attentions = {
        "encoder": {"attention": "self"},
        "decoder": {"self_attention": "self", "encoder_decoder_attention": "cross"},
    }
    for stack, layers in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        table[f"{stack}/{stack}_norm/scale"] = Source(f"model.{stack}.norm.weight")
        for i in range(layers):
            ours, theirs = f"{stack}/layers_{i}", f"model.{stack}.layers.{i}"
            table |= _layer_sources(ours, theirs, attentions[stack])
    return table


def _layer_sources(ours: str, theirs: str, attentions: dict[str, str]) -> dict[str, Source]:
    norms = {"mlp": "feedforward"}
    kernels = {"mlp/wi_0": "mlp.gate_proj", "mlp/wi_1": "mlp.up_proj", "mlp/wo": "mlp.down_proj"}
    for part, name in attentions.items():
        norms["cross_attention" if name == "cross" else part] = f"{name}_attn"
        for kernel in ("query", "key", "value", "out"):
            kernels[f"{part}/{kernel}"] = f"{name}_attn.{kernel[0]}_proj"
    table = {
        f"{ours}/{side}_{part}_layer_norm/scale": Source(f"{theirs}.{side}_{name}_layernorm.weight")
        for part, name in norms.items()
        for side in ("pre", "post")
    }
    return table | {
        f"{ours}/{path}/kernel": Source(f"{theirs}.{name}.weight", True) for path, name in kernels.items()
    }
