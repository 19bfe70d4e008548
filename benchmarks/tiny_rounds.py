"""Rounds of networks so small that launching their operations is all that takes time."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.probe import Probe
from distillspec_jax.decoding import (
    AutoregressiveLoop,
    PairParams,
    RowSettings,
    SamplingParams,
    SpeculativeLoop,
    State,
    randomness,
)
from distillspec_jax.decoding.drafters import ModelDrafter
from distillspec_jax.models import layer_subset, registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.network import Network
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.vocabulary import Vocabulary

_SIZES: dict[str, Any] = {"vocab_size": 128, "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64}
_PROMPT, _TEXT = 16, 16


def tiny_rounds(rows: int, block_size: int) -> list[Probe]:
    """A round of a T5 and one of a Llama, in a batch of so many rows; block size 0: without a draft."""
    return [
        _round(
            EncoderDecoder(T5Config(**_SIZES, num_encoder_layers=1, num_decoder_layers=3)), rows, block_size
        ),
        _round(DecoderOnly(DecoderOnlyConfig(**_SIZES, num_layers=3)), rows, block_size),
    ]


def _round(target: Network, rows: int, block_size: int) -> Probe:
    draft = layer_subset.shrink(target, (0,))
    params = jax.jit(lambda key: registry.unboxed(target.init(key)))(jax.random.key(0))
    distribution = SamplingParams(1.0).distribution(Vocabulary(None, (1,), (0,))).for_rows(rows)
    keys_B = randomness.row_keys(randomness.seed_key(0), jnp.arange(rows))
    settings = RowSettings(keys_B, jnp.full(rows, 10_000), distribution)
    prompt_BT = jnp.full((rows, _PROMPT), 2, jnp.int32)
    loop: AutoregressiveLoop | SpeculativeLoop = AutoregressiveLoop(target)
    if block_size:
        loop = SpeculativeLoop(target, ModelDrafter(draft), block_size=block_size)
    drafting = draft.prepare(layer_subset.take(params, (0,)), rows)
    pair = PairParams(target.prepare(params, rows * (block_size + 1)), drafting)
    state = jax.jit(loop.init, static_argnums=3)(pair, prompt_BT, settings, _TEXT)

    def step(pair: PairParams, state: State) -> State:
        after = loop.round(pair, state)
        # Every round stands at the same place of the text.
        rows = dataclasses.replace(state.rows, pending_B=after.rows.pending_B)
        target = after.target.rewind(state.target.length_B)
        return dataclasses.replace(after, rows=rows, target=target, counts=state.counts)

    return Probe(step, pair, state, 3e-4)
