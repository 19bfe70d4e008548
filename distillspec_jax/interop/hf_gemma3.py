"""Converts configurations of Gemma 3's language models from and to transformers' config.json."""

from __future__ import annotations

import dataclasses
from typing import Any

from distillspec_jax.errors import UsageError
from distillspec_jax.interop import hf_rope
from distillspec_jax.models.decoder_only_config import DecoderOnlyConfig
from distillspec_jax.schema import Number

KIND = "gemma3_text"
FULL, SLIDING = "full_attention", "sliding_attention"
"""Layer types: with full attention, and with a sliding window."""


@dataclasses.dataclass(frozen=True)
class Gemma3:
    """The values read from a config.json, with transformers' defaults.

    The older fields of rotary positions are read if `rope_parameters` lacks the values.
    """

    vocab_size: int = 262208
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 131072
    rms_norm_eps: Number = 1e-6
    tie_word_embeddings: bool = True
    query_pre_attn_scalar: Number = 256
    sliding_window: int = 4096
    sliding_window_pattern: int = 6
    layer_types: list[str] | None = None
    rope_parameters: dict[str, dict[str, Any] | None] | None = None
    rope_theta: Number = 1_000_000.0
    rope_local_base_freq: Number = 10_000.0
    rope_scaling: dict[str, Any] | None = None


ONLY = {
    "attention_bias": False,
    "use_bidirectional_attention": False,
    "final_logit_softcapping": None,
    "attn_logit_softcapping": None,
}
"""Fields for which this network supports only these values."""


def read(value: Gemma3, activation: str, where: str) -> DecoderOnlyConfig:
    """Reads a configuration.

    Args:
      activation: the feed-forward's, by our name.
      where: the file, for errors.

    Raises:
      UsageError: the layer types or positions are not supported.
    """
    ropes = value.rope_parameters or {}
    theta, scaling = hf_rope.read(KIND, value.rope_theta, ropes.get(FULL) or value.rope_scaling or {}, where)
    local, stretched = hf_rope.read(KIND, value.rope_local_base_freq, ropes.get(SLIDING) or {}, where)
    if stretched is not None:
        raise UsageError(f"Hugging Face {KIND}: positions of {SLIDING!r} are scaled, only 'default' is known")
    return DecoderOnlyConfig(
        vocab_size=value.vocab_size,
        emb_dim=value.hidden_size,
        num_heads=value.num_attention_heads,
        num_kv_heads=value.num_key_value_heads,
        head_dim=value.head_dim,
        num_layers=value.num_hidden_layers,
        mlp_dim=value.intermediate_size,
        mlp_activations=(activation, "linear"),
        logits_via_embedding=value.tie_word_embeddings,
        qk_norm=True,
        query_scalar=value.query_pre_attn_scalar,
        window=value.sliding_window,
        unwindowed_every=_every(value),
        norm_epsilon=value.rms_norm_eps,
        norms_around_zero=True,
        post_norms=True,
        scaled_embedding=True,
        max_positions=value.max_position_embeddings,
        rope_theta=theta,
        rope_scaling=scaling,
        window_rope_theta=local,
    )


def write(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Makes the fields that other decoders lack or write differently.

    Raises:
      UsageError: positions are scaled in layers with a window, too.
    """
    if config.rope_scaling is not None and not config.window_rope_theta:
        raise UsageError(
            "a Gemma 3 has no rope_scaling in layers with a window: here window_rope_theta is 0, so they "
            "have it, too"
        )
    return {
        "hidden_activation": hidden_activation(config.mlp_activations[0]),
        "query_pre_attn_scalar": query_scalar(config.query_scalar or config.head_dim),
        "sliding_window": config.window,
        "layer_types": layer_types(config.num_layers, config.unwindowed_every),
        "rope_parameters": {
            FULL: hf_rope.write(config.rope_theta, config.rope_scaling),
            SLIDING: hf_rope.write(config.window_rope_theta or config.rope_theta, None),
        },
    }


def is_one(config: DecoderOnlyConfig) -> bool:
    """Tells whether a network is a Gemma 3.

    Raises:
      UsageError: it has a feature that only a Gemma 3 has, but is not one.
    """
    own = config.norms_around_zero, config.post_norms, config.scaled_embedding
    if not any((*own, config.unwindowed_every, config.window_rope_theta, config.query_scalar)):
        return False
    biases = config.qkv_bias, config.out_bias, config.mlp_bias
    kind = config.norm, config.positions, config.mlp_activations[1:]
    told = all(own) and config.unwindowed_every and config.qk_norm and not any(biases)
    if told and kind == ("rms", "rotary", ("linear",)):
        return True
    raise UsageError(
        "transformers has no name for a network with some fields of a Gemma 3 (query_scalar, "
        "unwindowed_every, norms_around_zero, post_norms, scaled_embedding, window_rope_theta, qk_norm) and "
        "not all, or with biases"
    )


def _every(value: Gemma3) -> int:
    """Returns the period of layers with full attention."""
    if value.layer_types is None:
        return value.sliding_window_pattern
    full = [i for i, name in enumerate(value.layer_types, 1) if name == FULL]
    every = full[0] if full else len(value.layer_types) + 1
    if value.layer_types != layer_types(value.num_hidden_layers, every):
        raise UsageError(
            f"Hugging Face {KIND}: layer_types is not {FULL!r} in each so many-th of its "
            f"{value.num_hidden_layers} layers and {SLIDING!r} in the others, which is all that is known"
        )
    return every


def layer_types(layers: int, every: int) -> list[str]:
    """Lists a stack's layer types; every `every`-th layer has full attention; 0: none."""
    return [FULL if every and i % every == 0 else SLIDING for i in range(1, layers + 1)]


def query_scalar(scalar: float) -> float:
    """Returns a query scalar as an int where it is whole: transformers 5 rejects 256.0."""
    return int(scalar) if scalar == int(scalar) else scalar


def hidden_activation(activation: str) -> str:
    """Returns the name of an activation in Gemma's configurations."""
    return "gelu_pytorch_tanh" if activation == "gelu" else activation
