"""Converts decoder-only configurations from and to transformers' config.json."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distillspec_jax import schema
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.interop import hf_gemma3, hf_rope
from distillspec_jax.interop.hf_gemma3 import Gemma3
from distillspec_jax.models.decoder_only_config import DecoderOnlyConfig
from distillspec_jax.schema import Number

ARCHITECTURES = {
    hf_gemma3.KIND: "Gemma3ForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
"""transformers' class by `model_type`."""

# transformers' activation <-> ours; its "gelu" is the exact GELU, which none of these networks uses.
_ACTIVATIONS = {"silu": "silu", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
ACTIVATION_NAMES = {"silu": "silu", "gelu": "gelu_new", "relu": "relu"}
"""Ours <-> transformers', as in most of these networks."""


@dataclasses.dataclass(frozen=True)
class _GPT2:
    """The values read from a GPT-2's config.json, with transformers' defaults."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: Number = 0.1
    layer_norm_epsilon: Number = 1e-5
    tie_word_embeddings: bool = True


@dataclasses.dataclass(frozen=True)
class _Llama:
    """The values read from a Llama's config.json, with transformers' defaults."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 2048
    rms_norm_eps: Number = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    rope_theta: Number = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class _Qwen2(_Llama):
    vocab_size: int = 151936
    intermediate_size: int = 22016
    max_position_embeddings: int = 32768


@dataclasses.dataclass(frozen=True)
class _Qwen3(_Qwen2):
    head_dim: int | None = 128


@dataclasses.dataclass(frozen=True)
class _Mistral(_Llama):
    """The same for a Mistral; a null window means none, an absent one means the first release's."""

    intermediate_size: int = 14336
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 131072
    sliding_window: int = 4096


_CONFIGS: dict[str, type[_GPT2] | type[_Llama] | type[Gemma3]] = {
    hf_gemma3.KIND: Gemma3,
    "gpt2": _GPT2,
    "llama": _Llama,
    "mistral": _Mistral,
    "qwen2": _Qwen2,
    "qwen3": _Qwen3,
}


_BIASES = {"llama": ("attention_bias", "mlp_bias"), "qwen3": ("attention_bias",)}
"""Fields that indicate biases; attention biases are in all four projections."""

_ONLY: dict[str, dict[str, Any]] = {
    hf_gemma3.KIND: hf_gemma3.ONLY,
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    "llama": {},
    "mistral": {},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": False},
}
"""Fields for which this network supports only these values."""


def config_from_hf(config: Mapping[str, Any], where: str | None = None) -> DecoderOnlyConfig:
    """Reads the configuration from a config.json, which errors call `where`.

    Raises:
      UsageError: a field's value is not supported; names it and the supported values.
    """
    kind = config["model_type"]
    where = where or f"Hugging Face {kind}"
    given = {name: value for name, value in config.items() if value is not None}
    for field, only in _ONLY[kind].items():
        if (found := given.get(field, only)) != only:
            told = shown(found)
            raise UsageError(f"Hugging Face {kind}: {field} is {told}, only {only!r} is supported")
    value: _GPT2 | _Llama | Gemma3 = schema.read(_CONFIGS[kind], given, where)
    if isinstance(value, _GPT2):
        return DecoderOnlyConfig(
            vocab_size=value.vocab_size,
            emb_dim=value.n_embd,
            num_heads=value.n_head,
            head_dim=value.n_embd // max(value.n_head, 1),
            num_layers=value.n_layer,
            mlp_dim=4 * value.n_embd if value.n_inner is None else value.n_inner,
            mlp_activations=(activation_of(kind, "activation_function", value.activation_function),),
            dropout_rate=value.resid_pdrop,
            logits_via_embedding=value.tie_word_embeddings,
            qkv_bias=True,
            out_bias=True,
            mlp_bias=True,
            norm="layer",
            norm_epsilon=value.layer_norm_epsilon,
            positions="learned",
            max_positions=value.n_positions,
        )
    if isinstance(value, Gemma3):
        activation = activation_of(kind, "hidden_activation", value.hidden_activation)
        return hf_gemma3.read(value, activation, where)
    written = value.rope_parameters or value.rope_scaling or {}
    theta, scaling = hf_rope.read(kind, value.rope_theta, written, where)
    window = value.sliding_window if isinstance(value, _Mistral) else 0
    if "sliding_window" in config and config["sliding_window"] is None:
        window = 0
    head_dim = value.hidden_size // max(value.num_attention_heads, 1)
    return DecoderOnlyConfig(
        vocab_size=value.vocab_size,
        emb_dim=value.hidden_size,
        num_heads=value.num_attention_heads,
        num_kv_heads=value.num_key_value_heads or value.num_attention_heads,
        head_dim=head_dim if value.head_dim is None else value.head_dim,
        num_layers=value.num_hidden_layers,
        mlp_dim=value.intermediate_size,
        mlp_activations=(activation_of(kind, "hidden_act", value.hidden_act), "linear"),
        logits_via_embedding=value.tie_word_embeddings,
        qkv_bias=kind == "qwen2" or value.attention_bias,
        out_bias=kind in _BIASES and value.attention_bias,
        mlp_bias=kind == "llama" and value.mlp_bias,
        qk_norm=kind == "qwen3",
        window=window,
        norm_epsilon=value.rms_norm_eps,
        max_positions=value.max_position_embeddings,
        rope_theta=theta,
        rope_scaling=scaling,
    )


def config_to_hf(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Makes the values of config.json, in the fields that both old and new transformers read.

    Raises:
      UsageError: transformers has no architecture for the network.
    """
    kind = _kind(config)
    known = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.logits_via_embedding,
    }
    activation = ACTIVATION_NAMES[config.mlp_activations[0]]
    if kind == "gpt2":
        return known | {
            "n_positions": config.max_positions,
            "n_embd": config.emb_dim,
            "n_layer": config.num_layers,
            "n_head": config.num_heads,
            "n_inner": config.mlp_dim,
            "activation_function": activation,
            "layer_norm_epsilon": config.norm_epsilon,
            **{f"{where}_pdrop": config.dropout_rate for where in ("resid", "embd", "attn")},
        }
    rope = hf_rope.write(config.rope_theta, config.rope_scaling)
    given = {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}
    more: dict[str, Any] = {field: given[field] for field in _BIASES.get(kind, ())}
    if config.window:
        more["sliding_window"] = config.window
    known |= {
        "hidden_size": config.emb_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_epsilon,
    }
    if kind == hf_gemma3.KIND:
        return known | hf_gemma3.write(config)
    return known | {
        "hidden_act": activation,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "rope_parameters": rope,
        **more,
    }


def _kind(config: DecoderOnlyConfig) -> str:
    """Returns the `model_type` of a network."""
    activation, *gate = config.mlp_activations
    biases = config.qkv_bias, config.out_bias, config.mlp_bias
    kind = config.norm, config.positions, gate
    if hf_gemma3.is_one(config) and activation in ACTIVATION_NAMES:
        return hf_gemma3.KIND
    llama = activation in ACTIVATION_NAMES and kind == ("rms", "rotary", ["linear"])
    if llama and config.window and not any(biases) and not config.qk_norm:
        return "mistral"
    if llama and not config.window:
        if config.qk_norm and config.qkv_bias == config.out_bias and not config.mlp_bias:
            return "qwen3"
        if biases == (True, False, False) and not config.qk_norm:
            return "qwen2"
        if config.qkv_bias == config.out_bias and not config.qk_norm:
            return "llama"
    square = config.num_heads * config.head_dim == config.emb_dim and config.num_kv_heads == config.num_heads
    plain = square and all(biases) and not config.window and not config.qk_norm
    if activation in ACTIVATION_NAMES and kind == ("layer", "learned", []) and plain:
        return "gpt2"
    raise UsageError(
        f"transformers has no name for a decoder-only network of norm {config.norm!r}, positions "
        f"{config.positions!r}, mlp_activations {config.mlp_activations}, qk_norm {config.qk_norm}, window "
        f"{config.window} and biases {biases} of qkv, out and mlp: it knows those of "
        f"{', '.join(sorted(ARCHITECTURES))}"
    )


def activation_of(kind: str, field: str, name: str) -> str:
    """Returns our name of an activation.

    Raises:
      UsageError: transformers' name is unknown.
    """
    if name not in _ACTIVATIONS:
        raise UsageError(f"Hugging Face {kind}: unknown {field} {shown(name)}: {nearest(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]
