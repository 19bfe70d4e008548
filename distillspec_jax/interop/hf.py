"""T5 weights in Hugging Face's names and shapes, in both directions; NumPy arrays in, NumPy arrays out.

It covers T5 1.0 (ReLU, tied embeddings, scaled logits) and T5 1.1 (gated activation, separate output
projection, raw logits). The tensors hold the same numbers, transposed where PyTorch stores `[out, in]`, so a
round trip is bit-equal. Neither torch nor transformers is imported: the caller turns files into arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from distillspec_jax import schema
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.interop.tensors import Source, Tensors, check_ties, collect, spread
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.schema import Number
from distillspec_jax.shapes import Params

_T5 = "Hugging Face T5"

_ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
"""Other names of `shared.weight`; a state dict may repeat the tensor under them."""

_HEAD = "lm_head.weight"

_NEVER_USED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
"""Tensors that are in the original T5's files by mistake; transformers ignores them as well."""

# transformers' activation (`dense_act_fn`) <-> ours. Its "gelu" is the exact GELU, which no T5 uses;
# "gated-gelu" has always meant the tanh approximation ("gelu_new"), which T5 1.1 was trained with.
_ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu", "silu": "silu"}


@dataclasses.dataclass(frozen=True)
class _Values:
    """The values read from a config.json, with transformers' defaults."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: Number = 0.1
    decoder_start_token_id: int = 0
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = None


def from_hf(state_dict: Tensors, config: Mapping[str, Any], where: str = _T5) -> tuple[T5Config, Params]:
    """Converts the weights of a `T5ForConditionalGeneration`.

    Args:
      state_dict: tensors by transformers' names; read one at a time, so it may load them lazily.
      config: the values of its config.json.
      where: its name in type errors.

    Returns:
      The configuration and the canonical tree of float32 NumPy arrays.

    Raises:
      UsageError: the configuration is not supported, or tensors contradict it; names every missing, unused or
        misshaped tensor.
    """
    ours = config_from_hf(config, where)
    sources = _sources(ours)
    if _HEAD not in state_dict and config.get("tie_word_embeddings") and not ours.logits_via_embedding:
        # transformers 5 saves a T5 1.1 with tied embeddings this way: one table, raw logits.
        sources["decoder/logits_dense/kernel"] = Source("shared.weight", True)
    aliases = [*_ALIASES, _HEAD] if ours.logits_via_embedding else [*_ALIASES]
    aliases = [name for name in aliases if name in state_dict]
    params = collect(_T5, EncoderDecoder(ours), sources, state_dict, {*aliases, *_NEVER_USED})
    check_ties(_T5, state_dict, aliases, "shared.weight")
    return ours, params


def to_hf(config: T5Config, params: Params) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Inverse of `from_hf`: float32 tensors by transformers' names, and the values of config.json.

    Tensors that transformers ties to `shared.weight` are not repeated, as in the files it writes.

    Raises:
      UsageError: parameters have other shapes than the configuration's, or transformers' T5 does not support
        the activation.
    """
    return spread(_T5, EncoderDecoder(config), _sources(config), params), config_to_hf(config)


def config_from_hf(config: Mapping[str, Any], where: str = _T5) -> T5Config:
    """Reads the configuration from a config.json, which errors call `where`.

    Raises:
      UsageError: a field's value is not supported; names it and the supported values.
    """
    given = {name: value for name, value in config.items() if value is not None}
    for field, only in (("model_type", "t5"), ("layer_norm_epsilon", 1e-6), ("pad_token_id", 0)):
        if (found := given.get(field, only)) != only:
            told = shown(found)
            raise UsageError(f"Hugging Face T5: {field} is {told}, only {only!r} is supported")
    value = schema.read(_Values, given, where)
    scaled = value.scale_decoder_outputs
    return T5Config(
        vocab_size=value.vocab_size,
        emb_dim=value.d_model,
        num_heads=value.num_heads,
        head_dim=value.d_kv,
        num_encoder_layers=value.num_layers,
        num_decoder_layers=value.num_layers if value.num_decoder_layers is None else value.num_decoder_layers,
        mlp_dim=value.d_ff,
        mlp_activations=_activations(value.feed_forward_proj),
        dropout_rate=value.dropout_rate,
        # transformers 5 moved this meaning of `tie_word_embeddings` to a separate field.
        logits_via_embedding=value.tie_word_embeddings if scaled is None else scaled,
        relpos_buckets=value.relative_attention_num_buckets,
        relpos_max_distance=value.relative_attention_max_distance,
        decoder_start_id=value.decoder_start_token_id,
    )


def config_to_hf(config: T5Config) -> dict[str, Any]:
    """Makes the values of config.json, in the fields that both old and new transformers read."""
    theirs = {ours: name for name, ours in _ACTIVATIONS.items()}
    activation, *gate = config.mlp_activations
    if activation not in theirs or gate not in ([], ["linear"]):
        raise UsageError(
            f"mlp_activations {config.mlp_activations} have no name in transformers' T5: "
            f"use one of {sorted(theirs)}, alone or followed by 'linear'"
        )
    plain = theirs[activation]
    gated = "gated-gelu" if plain == "gelu_new" else f"gated-{plain}"
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.relpos_buckets,
        "relative_attention_max_distance": config.relpos_max_distance,
        "dropout_rate": config.dropout_rate,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": gated if gate else plain,
        "tie_word_embeddings": config.logits_via_embedding,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": config.decoder_start_id,
    }


def _activations(written: str) -> tuple[str, ...]:
    name = "gated-gelu_new" if written == "gated-gelu" else written
    gated = name.startswith("gated-")
    plain = name.removeprefix("gated-")
    if plain not in _ACTIVATIONS:
        valid = [*_ACTIVATIONS, "gated-gelu", "gated-relu", "gated-silu"]
        raise UsageError(
            f"Hugging Face T5: unknown feed_forward_proj {shown(written)}: {nearest(written, valid)}"
        )
    return (_ACTIVATIONS[plain], "linear") if gated else (_ACTIVATIONS[plain],)


def _sources(config: T5Config) -> dict[str, Source]:
    """Maps every parameter of the canonical tree to its tensor."""
    table = {
        "token_embedder/embedding": Source("shared.weight"),
        "encoder/encoder_norm/scale": Source("encoder.final_layer_norm.weight"),
        "decoder/decoder_norm/scale": Source("decoder.final_layer_norm.weight"),
    }
    if not config.logits_via_embedding:
        table["decoder/logits_dense/kernel"] = Source(_HEAD, True)
    stacks = {
        "encoder": (config.num_encoder_layers, {"attention": "SelfAttention"}),
        "decoder": (
            config.num_decoder_layers,
            {"self_attention": "SelfAttention", "encoder_decoder_attention": "EncDecAttention"},
        ),
    }
    for stack, (layers, attentions) in stacks.items():
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        table[f"{stack}/relpos_bias/rel_embedding"] = Source(bias, True)
        for i in range(layers):
            ours, theirs = f"{stack}/layers_{i}", f"{stack}.block.{i}.layer"
            table |= _layer_sources(ours, theirs, attentions, gated=len(config.mlp_activations) > 1)
    return table


def _layer_sources(ours: str, theirs: str, attentions: dict[str, str], gated: bool) -> dict[str, Source]:
    """Maps the parameters of a block's sublayers: attention or feed-forward, and the norm before each."""
    norms = {
        "attention": "pre_attention_layer_norm",
        "self_attention": "pre_self_attention_layer_norm",
        "encoder_decoder_attention": "pre_cross_attention_layer_norm",
    }
    table = {}
    for k, (attention, module) in enumerate(attentions.items()):
        table[f"{ours}/{norms[attention]}/scale"] = Source(f"{theirs}.{k}.layer_norm.weight")
        for kernel in ("query", "key", "value", "out"):
            tensor = f"{theirs}.{k}.{module}.{kernel[0]}.weight"
            table[f"{ours}/{attention}/{kernel}/kernel"] = Source(tensor, True)
    k = len(attentions)
    table[f"{ours}/pre_mlp_layer_norm/scale"] = Source(f"{theirs}.{k}.layer_norm.weight")
    for kernel in ("wi_0", "wi_1", "wo") if gated else ("wi", "wo"):
        table[f"{ours}/mlp/{kernel}/kernel"] = Source(f"{theirs}.{k}.DenseReluDense.{kernel}.weight", True)
    return table
