"""Decoder-only weights in Hugging Face's names and shapes, both ways: Llama, Qwen2, GPT-2.

SmolLM, TinyLlama and most others of this shape are Llamas to transformers. Neither torch nor transformers is
imported: the caller turns files into arrays.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from distillspec_jax import schema
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.interop.tensors import Source, Tensors, check_ties, collect, spread
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.rotary import RopeScaling
from distillspec_jax.schema import Number
from distillspec_jax.shapes import Params

ARCHITECTURES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
"""transformers' class by `model_type`."""

# transformers' activation <-> ours; its "gelu" is the exact one, which no network of these kinds uses.
_ACTIVATIONS = {"silu": "silu", "gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "relu": "relu"}
_NAMES = {"silu": "silu", "gelu": "gelu_new", "relu": "relu"}


@dataclasses.dataclass(frozen=True)
class _GPT2:
    """The values of a config.json that are read, and what transformers assumes where it leaves one out."""

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
    """Likewise."""

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


_CONFIGS: dict[str, type[_GPT2] | type[_Llama]] = {"gpt2": _GPT2, "llama": _Llama, "qwen2": _Qwen2}


@dataclasses.dataclass(frozen=True)
class _Rope:
    """The kind of rotary positions."""

    rope_theta: Number | None = None
    rope_type: str | None = None
    type: str = "default"  # the older name


@dataclasses.dataclass(frozen=True)
class _Stretched:
    """The stretching of Llama 3."""

    factor: Number
    low_freq_factor: Number
    high_freq_factor: Number
    original_max_position_embeddings: int


_ONLY = {
    "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
    "llama": {},
    "qwen2": {"use_sliding_window": False},
}
"""Fields whose other values this network cannot follow."""


def from_hf(
    tensors: Tensors, config: Mapping[str, Any], where: str | None = None
) -> tuple[DecoderOnlyConfig, Params]:
    """Converts the weights of a causal language model.

    Args:
      tensors: by transformers' names; read one at a time.
      config: the values of its config.json.
      where: calls it in errors of types.

    Returns:
      The configuration and the canonical tree of float32 NumPy arrays.

    Raises:
      UsageError: a configuration that this network cannot follow, or tensors that contradict it; every
        missing, unused or misshaped tensor is named.
    """
    kind = config["model_type"]
    ours, what = config_from_hf(config, where), f"Hugging Face {kind}"
    # The first GPT-2 was saved without its head, and so without the prefix.
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
      UsageError: parameters of another shape than the configuration's, or a network that transformers has
        no name for.
    """
    theirs = config_to_hf(config)
    sources = sources_of(theirs["model_type"], config)
    return spread(f"Hugging Face {theirs['model_type']}", DecoderOnly(config), sources, params), theirs


def config_from_hf(config: Mapping[str, Any], where: str | None = None) -> DecoderOnlyConfig:
    """The configuration behind a config.json, which errors call `where`.

    Raises:
      UsageError: a field whose value this network cannot follow; named with the values it can.
    """
    kind = config["model_type"]
    where = where or f"Hugging Face {kind}"
    given = {name: value for name, value in config.items() if value is not None}
    for field, only in _ONLY[kind].items():
        if (found := given.get(field, only)) != only:
            told = shown(found)
            raise UsageError(f"Hugging Face {kind}: {field} is {told}, only {only!r} is supported")
    value: _GPT2 | _Llama = schema.read(_CONFIGS[kind], given, where)
    if isinstance(value, _GPT2):
        return DecoderOnlyConfig(
            vocab_size=value.vocab_size,
            emb_dim=value.n_embd,
            num_heads=value.n_head,
            head_dim=value.n_embd // max(value.n_head, 1),
            num_layers=value.n_layer,
            mlp_dim=4 * value.n_embd if value.n_inner is None else value.n_inner,
            mlp_activations=(_activation(kind, "activation_function", value.activation_function),),
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
    theta, scaling = _rope(kind, value, where)
    head_dim = value.hidden_size // max(value.num_attention_heads, 1)
    return DecoderOnlyConfig(
        vocab_size=value.vocab_size,
        emb_dim=value.hidden_size,
        num_heads=value.num_attention_heads,
        num_kv_heads=value.num_key_value_heads or value.num_attention_heads,
        head_dim=head_dim if value.head_dim is None else value.head_dim,
        num_layers=value.num_hidden_layers,
        mlp_dim=value.intermediate_size,
        mlp_activations=(_activation(kind, "hidden_act", value.hidden_act), "linear"),
        logits_via_embedding=value.tie_word_embeddings,
        qkv_bias=kind == "qwen2" or value.attention_bias,
        out_bias=kind == "llama" and value.attention_bias,
        mlp_bias=kind == "llama" and value.mlp_bias,
        norm_epsilon=value.rms_norm_eps,
        max_positions=value.max_position_embeddings,
        rope_theta=theta,
        rope_scaling=scaling,
    )


def config_to_hf(config: DecoderOnlyConfig) -> dict[str, Any]:
    """The values of config.json, in the fields that both old and new transformers read.

    Raises:
      UsageError: a network that transformers has no name for.
    """
    kind = _kind(config)
    known = {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.logits_via_embedding,
    }
    activation = _NAMES[config.mlp_activations[0]]
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
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": config.rope_scaling.original_positions,
        }
    biases = {"attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias} if kind == "llama" else {}
    return known | {
        "hidden_size": config.emb_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": activation,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "rope_parameters": rope,
        **biases,
    }


def _kind(config: DecoderOnlyConfig) -> str:
    """The `model_type` of a network."""
    activation, *gate = config.mlp_activations
    biases = config.qkv_bias, config.out_bias, config.mlp_bias
    kind = config.norm, config.positions, gate
    if activation in _NAMES and kind == ("rms", "rotary", ["linear"]):
        if biases == (True, False, False):
            return "qwen2"
        if config.qkv_bias == config.out_bias:
            return "llama"
    square = config.num_heads * config.head_dim == config.emb_dim and config.num_kv_heads == config.num_heads
    if activation in _NAMES and kind == ("layer", "learned", []) and all(biases) and square:
        return "gpt2"
    raise UsageError(
        f"transformers has no name for a decoder-only network of norm {config.norm!r}, positions "
        f"{config.positions!r}, mlp_activations {config.mlp_activations} and biases {biases} of qkv, out and "
        f"mlp: it knows those of {', '.join(sorted(ARCHITECTURES))}"
    )


def _activation(kind: str, field: str, name: str) -> str:
    if name not in _ACTIVATIONS:
        raise UsageError(f"Hugging Face {kind}: unknown {field} {shown(name)}: {nearest(name, _ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _rope(kind: str, value: _Llama, where: str) -> tuple[float, RopeScaling | None]:
    """theta and scaling; transformers 5 keeps both in `rope_parameters`."""
    written = value.rope_parameters or value.rope_scaling or {}
    rope = schema.read(_Rope, {k: v for k, v in written.items() if v is not None}, where)
    theta = value.rope_theta if rope.rope_theta is None else rope.rope_theta
    name = rope.rope_type or rope.type
    if name == "default":
        return theta, None
    if name != "llama3":
        raise UsageError(
            f"Hugging Face {kind}: rope_scaling is of type {shown(name)}, "
            "only 'default' and 'llama3' are known"
        )
    stretched = schema.read(_Stretched, written, where)
    return theta, RopeScaling(
        factor=stretched.factor,
        low_freq_factor=stretched.low_freq_factor,
        high_freq_factor=stretched.high_freq_factor,
        original_positions=stretched.original_max_position_embeddings,
    )


_HEAD = "lm_head.weight"

_BUFFERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
"""Ends of the names of constants that older files hold among the weights."""


def sources_of(kind: str, config: DecoderOnlyConfig, prefix: str | None = None) -> dict[str, Source]:
    """The tensor behind every parameter; `prefix` goes before all names but the head's."""
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
        table[f"{ours}/pre_mlp_layer_norm/scale"] = Source(f"{theirs}.post_attention_layernorm.weight")
        for path, (name, bias) in projections.items():
            table[f"{ours}/{path}/kernel"] = Source(f"{theirs}.{name}.weight", True)
            if bias:
                table[f"{ours}/{path}/bias"] = Source(f"{theirs}.{name}.bias")
    return table


def _gpt2_sources(config: DecoderOnlyConfig) -> dict[str, Source]:
    """GPT-2 keeps kernels as `[in, out]`, and those of queries, keys and values side by side."""
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
