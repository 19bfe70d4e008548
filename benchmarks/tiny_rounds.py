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
from distillspec_jax.models import registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.registry import Network
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.vocabulary import Vocabulary

_SIZES: dict[str, Any] = {"vocab_size": 128, "emb_dim": 32, "num_heads": 2, "head_dim": 16, "mlp_dim": 64}
_PROMPT, _TEXT, _BLOCK_SIZE = 16, 16, 3


def _network(kind: str, layers: int) -> Network:
    if kind == "t5":
        return EncoderDecoder(T5Config(**_SIZES, num_encoder_layers=1, num_decoder_layers=layers))
    return DecoderOnly(DecoderOnlyConfig(**_SIZES, num_layers=layers))


def tiny_rounds(kind: str, rows: int) -> list[Probe]:
    """A round without a draft and a round with one, of a family, `t5` or `llama`, of so many rows."""
    target, draft = _network(kind, 6), _network(kind, 2)
    params, draft_params = (
        jax.jit(lambda key, model=model: registry.unboxed(model.init(key)))(jax.random.key(0))
        for model in (target, draft)
    )
    distribution = SamplingParams(1.0).distribution(Vocabulary(None, (1,), (0,))).for_rows(rows)
    keys_B = randomness.row_keys(randomness.seed_key(0), jnp.arange(rows))
    settings = RowSettings(keys_B, jnp.full(rows, 10_000), distribution)
    prompt_BT = jnp.full((rows, _PROMPT), 2, jnp.int32)
    found = []
    for loop, tokens in (
        (AutoregressiveLoop(target), 1),
        (SpeculativeLoop(target, ModelDrafter(draft), block_size=_BLOCK_SIZE), _BLOCK_SIZE + 1),
    ):
        pair = PairParams(target.prepare(params, rows * tokens), draft.prepare(draft_params, rows))
        state = jax.jit(loop.init, static_argnums=3)(pair, prompt_BT, settings, _TEXT)

        def step(pair: PairParams, state: State, loop: Any = loop) -> State:
            after: State = loop.round(pair, state)
            # Every round stands at the same place of the text.
            rows = dataclasses.replace(state.rows, pending_B=after.rows.pending_B)
            target = after.target.rewind(state.target.length_B)
            return dataclasses.replace(after, rows=rows, target=target, counts=state.counts)

        found.append(Probe(step, pair, state, 3e-4))
    return found
