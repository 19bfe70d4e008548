"""Converts T5Gemma configurations from and to transformers' config.json.

config.json has an object for each stack. Here the stacks share everything except their sizes; a model whose
stacks differ in more is rejected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from distillspec_jax import schema
from distillspec_jax.errors import UsageError, shown
from distillspec_jax.interop import hf_decoder_config, hf_gemma3, hf_rope
from distillspec_jax.models.t5gemma_config import Stack, T5GemmaConfig
from distillspec_jax.schema import Number

_KIND = "t5gemma"
WHAT = "Hugging Face T5Gemma"


@dataclasses.dataclass(frozen=True)
class _Stack:
    """The values read for a stack, with transformers' defaults.

    A null soft cap means none. The older field of rotary positions is read if `rope_parameters` lacks the
    value.
    """

    vocab_size: int = 256000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    rms_norm_eps: Number = 1e-6
    pad_token_id: int | None = 0
    bos_token_id: int = 2
    rope_parameters: dict[str, Any] | None = None
    rope_theta: Number = 10_000.0
    attention_bias: bool = False
    query_pre_attn_scalar: Number = 256
    sliding_window: int = 4096
    layer_types: list[str] | None = None
    final_logit_softcapping: Number | None = 30.0
    attn_logit_softcapping: Number | None = 50.0

    @property
    def types(self) -> list[str]:
        """The type of every layer."""
        return self.layer_types or hf_gemma3.layer_types(self.num_hidden_layers, 2)


@dataclasses.dataclass(frozen=True)
class _Values:
    """The values read for the whole model, with transformers' defaults."""

    encoder: _Stack = _Stack()
    decoder: _Stack = _Stack()
    dropout_rate: Number = 0.0
    tie_word_embeddings: bool = True


_ONLY = {"attention_bias": False, "pad_token_id": 0}
"""Fields of a stack for which this network supports only these values."""

_SHARED = (
    *("vocab_size", "hidden_activation", "max_position_embeddings", "rms_norm_eps", "rope_parameters"),
    *("rope_theta", "query_pre_attn_scalar", "sliding_window", "attn_logit_softcapping"),
)
"""Fields that must be equal in both stacks."""


def config_from_hf(config: Mapping[str, Any], where: str = WHAT) -> T5GemmaConfig:
    """Reads the configuration from a config.json, which errors call `where`.

    Raises:
      UsageError: a field's value is not supported; names it and the supported values.
    """
    value = schema.read(_Values, config, where)
    encoder, decoder = value.encoder, value.decoder
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        for field, only in _ONLY.items():
            if (found := getattr(stack, field)) != only:
                raise UsageError(f"{WHAT}: {name}.{field} is {shown(found)}, only {only!r} is supported")
    for field in _SHARED:
        below, above = getattr(encoder, field), getattr(decoder, field)
        if below != above:
            raise UsageError(
                f"{WHAT}: {field} is {shown(below)} in the encoder and {shown(above)} in the decoder, only "
                "stacks of one and the same are supported"
            )
    theta, scaling = hf_rope.read(_KIND, decoder.rope_theta, decoder.rope_parameters or {}, where)
    if scaling is not None:
        raise UsageError(f"{WHAT}: positions are scaled, only 'default' is known")
    every = _every(encoder, decoder)
    activation = hf_decoder_config.activation_of(_KIND, "hidden_activation", decoder.hidden_activation)
    return T5GemmaConfig(
        vocab_size=decoder.vocab_size,
        emb_dim=decoder.hidden_size,
        num_heads=decoder.num_attention_heads,
        num_kv_heads=decoder.num_key_value_heads,
        head_dim=decoder.head_dim,
        num_encoder_layers=encoder.num_hidden_layers,
        num_decoder_layers=decoder.num_hidden_layers,
        mlp_dim=decoder.intermediate_size,
        encoder_emb_dim=encoder.hidden_size,
        encoder_num_heads=encoder.num_attention_heads,
        encoder_num_kv_heads=encoder.num_key_value_heads,
        encoder_head_dim=encoder.head_dim,
        encoder_mlp_dim=encoder.intermediate_size,
        mlp_activations=(activation, "linear"),
        dropout_rate=value.dropout_rate,
        logits_via_embedding=value.tie_word_embeddings,
        query_scalar=decoder.query_pre_attn_scalar,
        window=0 if every == 1 else decoder.sliding_window,
        unwindowed_every=0 if every == 1 else every,
        attention_cap=decoder.attn_logit_softcapping or 0.0,
        logits_cap=decoder.final_logit_softcapping or 0.0,
        norm_epsilon=decoder.rms_norm_eps,
        max_positions=decoder.max_position_embeddings,
        rope_theta=theta,
        decoder_start_id=decoder.bos_token_id,
    )


def config_to_hf(config: T5GemmaConfig) -> dict[str, Any]:
    """Makes the values of config.json, in the fields that both old and new transformers read.

    Raises:
      UsageError: transformers has no name for the activation.
    """
    activation, *gate = config.mlp_activations
    if gate != ["linear"] or activation not in hf_decoder_config.ACTIVATION_NAMES:
        raise UsageError(
            f"mlp_activations {config.mlp_activations} have no name in transformers' T5Gemma: use one of "
            f"{sorted(hf_decoder_config.ACTIVATION_NAMES)}, followed by 'linear'"
        )
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": config.decoder_start_id}
    shared = {
        "model_type": "t5_gemma_module",
        "vocab_size": config.vocab_size,
        "hidden_activation": hf_gemma3.hidden_activation(activation),
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_epsilon,
        "attention_bias": False,
        "query_pre_attn_scalar": hf_gemma3.query_scalar(config.query_scalar),
        "sliding_window": config.window or config.max_positions,
        "attn_logit_softcapping": config.attention_cap or None,
        "final_logit_softcapping": config.logits_cap or None,
        "rope_theta": config.rope_theta,
        "rope_parameters": hf_rope.write(config.rope_theta, None),
        "dropout_rate": config.dropout_rate,
        "attention_dropout": config.dropout_rate,
        "tie_word_embeddings": config.logits_via_embedding,
        **special,
    }
    every = config.unwindowed_every if config.window else 1
    stacks = {
        "encoder": {**shared, **_sizes(config.encoder, every), "is_decoder": False},
        "decoder": {
            **shared,
            **_sizes(config.decoder, every),
            "is_decoder": True,
            "cross_attention_hidden_size": config.encoder_emb_dim,
        },
    }
    return {
        "architectures": ["T5GemmaForConditionalGeneration"],
        "model_type": _KIND,
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "dropout_rate": config.dropout_rate,
        "attention_dropout": config.dropout_rate,
        "tie_word_embeddings": config.logits_via_embedding,
        **special,
        **stacks,
    }


def _sizes(stack: Stack, every: int) -> dict[str, Any]:
    return {
        "hidden_size": stack.emb_dim,
        "intermediate_size": stack.mlp_dim,
        "num_hidden_layers": stack.num_layers,
        "num_attention_heads": stack.num_heads,
        "num_key_value_heads": stack.num_kv_heads,
        "head_dim": stack.head_dim,
        "layer_types": hf_gemma3.layer_types(stack.num_layers, every),
    }


def _every(*stacks: _Stack) -> int:
    """Returns the period of layers with full attention, equal in both stacks; 0: there are none."""
    every = min(
        (stack.types.index(hf_gemma3.FULL) + 1 for stack in stacks if hf_gemma3.FULL in stack.types),
        default=0,
    )
    for stack in stacks:
        if stack.types != hf_gemma3.layer_types(stack.num_hidden_layers, every):
            raise UsageError(
                f"{WHAT}: layer_types is not {hf_gemma3.FULL!r} in each so many-th layer of both stacks and "
                f"{hf_gemma3.SLIDING!r} in the others, which is all that is known"
            )
    return every
