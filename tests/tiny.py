"""The smallest honest networks, and jitted calls that tests share so that each shape compiles once.

Two kinds of T5 (1.0 and 1.1), a T5Gemma and three that are decoder-only, with everything that the family
knows between them, and two with a factorised embedding, of which the T5 starts with a token other than 0.
Sizes differ from one another wherever the network allows it, a relative distance is short enough for every
bucket to be met, and in the parameters nothing is left at one or zero.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.models import factorised, registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.interface import DecodeState
from distillspec_jax.models.network import Network
from distillspec_jax.models.rotary import RopeScaling
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.models.t5gemma import T5Gemma, T5GemmaConfig
from distillspec_jax.shapes import Array, Params

VOCAB = 29

OPTIMISED = {"xla_backend_optimization_level": 3}
"""Compiler options for programs that run long; `conftest.py` asks for no optimisation."""

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "emb_dim": 16,
    "num_heads": 3,
    "head_dim": 4,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "mlp_dim": 20,
}
_RELPOS = {"relpos_buckets": 8, "relpos_max_distance": 10}

T5_1_1 = EncoderDecoder(T5Config(**_SIZES, **_RELPOS))
T5_1_0 = EncoderDecoder(T5Config(**_SIZES, **_RELPOS, mlp_activations=("relu",), logits_via_embedding=True))
_LINE: dict[str, Any] = {
    **{name: _SIZES[name] for name in ("vocab_size", "emb_dim", "head_dim", "mlp_dim")},
    "num_layers": 2,
    "max_positions": 40,
}
GPT = DecoderOnly(
    DecoderOnlyConfig(
        **_LINE,
        num_heads=4,  # GPT-2's heads are together as wide as the network
        mlp_activations=("gelu",),
        logits_via_embedding=True,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        norm="layer",
        positions="learned",
    )
)
# Two groups of three heads, normed; the three pairs of frequencies are kept, blended and stretched.
LLAMA = DecoderOnly(
    DecoderOnlyConfig(
        **{**_LINE, "head_dim": 6},
        num_heads=6,
        num_kv_heads=2,
        qkv_bias=True,
        out_bias=True,
        qk_norm=True,
        rope_theta=100.0,
        rope_scaling=RopeScaling(4.0, 1.0, 4.0, 40),
    )
)
GEMMA = DecoderOnly(
    DecoderOnlyConfig(
        **{**_LINE, "head_dim": 6, "num_layers": 3},
        num_heads=2,
        num_kv_heads=1,
        mlp_activations=("gelu", "linear"),
        logits_via_embedding=True,
        qk_norm=True,
        query_scalar=5.0,
        window=4,
        unwindowed_every=2,
        norms_around_zero=True,
        post_norms=True,
        scaled_embedding=True,
        rope_theta=100.0,
        window_rope_theta=10.0,
    )
)
# Stacks of other sizes, two groups of two heads, caps that are felt.
T5GEMMA = T5Gemma(
    T5GemmaConfig(
        **{**_SIZES, "num_heads": 4},
        num_kv_heads=2,
        encoder_emb_dim=12,
        encoder_num_heads=2,
        encoder_num_kv_heads=1,
        encoder_head_dim=6,
        encoder_mlp_dim=14,
        query_scalar=12.0,
        window=2,
        attention_cap=2.0,
        logits_cap=10.0,
        max_positions=40,
        rope_theta=100.0,
    )
)
T5S = {"t5_1_0": T5_1_0, "t5_1_1": T5_1_1}
WHOLE: dict[str, Network] = {**T5S, "gpt": GPT, "llama": LLAMA}
_STARTED = dataclasses.replace(T5_1_0, config=dataclasses.replace(T5_1_0.config, decoder_start_id=3))
FACTORISED: dict[str, Network] = {
    "t5_1_0_factorised": factorised.narrowed(_STARTED, 5),
    "llama_factorised": factorised.narrowed(LLAMA, 5),
}
MODELS: dict[str, Network] = {**WHOLE, **FACTORISED, "gemma3": GEMMA, "t5gemma": T5GEMMA}


@functools.cache
def params(model: Network, seed: int = 0) -> Params:
    """Random parameters; norm scales lie around one, everything else around zero."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, shape: jax.ShapeDtypeStruct) -> Array:
        name = jax.tree_util.keystr(path)
        spread = 1.0 if "embedding" in name else 0.3
        values = rng.normal(1.0 if "scale" in name else 0.0, spread, shape.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, registry.shapes(model))


def tokens(seed: int, *shape: int, vocab: int = VOCAB) -> np.ndarray:
    """Random ids without padding."""
    return np.random.default_rng(seed).integers(1, vocab, shape).astype(np.int32)


def ragged(seed: int, lengths: tuple[int, ...], width: int, vocab: int = VOCAB) -> np.ndarray:
    """Random ids, row b 0-padded from `lengths[b]` on."""
    keep = np.arange(width)[None] < np.asarray(lengths)[:, None]
    return np.where(keep, tokens(seed, len(lengths), width, vocab=vocab), 0).astype(np.int32)


def teacher_batch(inputs: np.ndarray, targets: np.ndarray, start: int = 0) -> dict[str, np.ndarray]:
    """What `logits` reads: entry t of the result is the distribution of `targets[:, t]`."""
    shifted = np.pad(targets, ((0, 0), (1, 0)), constant_values=start)[:, :-1]
    return {"encoder_input_tokens": inputs, "decoder_input_tokens": shifted}


@functools.partial(jax.jit, static_argnums=0)
def logits(model: Network, params: Params, batch: dict[str, Any]) -> Array:
    return model.logits(params, batch)


@functools.partial(jax.jit, static_argnums=(0, 3))
def prefill(model: Network, params: Params, prompt_BT: Any, room: int) -> tuple[DecodeState, Array]:
    return model.prefill(params, prompt_BT, room)


@functools.partial(jax.jit, static_argnums=0)
def extend(model: Network, params: Params, state: DecodeState, tokens_BK: Any) -> tuple[Array, DecodeState]:
    return model.extend(params, state, tokens_BK)
