"""Pretrained models of a few thousand parameters over the embedded vocabulary."""

from __future__ import annotations

import dataclasses
import functools

import jax

from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import registry
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.shapes import Array, Params
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer


def model(name: str, seed: int) -> Pretrained:
    """All of one shape, so that a loop over any pair of them compiles once."""
    tokenizer = embedded_tokenizer()
    network = EncoderDecoder(
        T5Config(
            vocab_size=tokenizer.vocab_size,
            emb_dim=8,
            num_heads=1,
            head_dim=8,
            num_encoder_layers=1,
            num_decoder_layers=1,
            mlp_dim=16,
            logits_via_embedding=True,
        )
    )
    family, config = registry.describe(network)
    card = ModelCard(
        family,
        config,
        tokenizer.fingerprint,
        prefix="say: ",
        feature_lengths={"inputs": 40, "targets": 12},
    )
    params = _init(network, jax.random.key(seed))
    return Pretrained(name, network, params, card, tokenizer.model_bytes)


@functools.partial(jax.jit, static_argnums=0)
def _init(network: EncoderDecoder, key: Array) -> Params:
    return registry.unboxed(network.init(key))


def retrained(pretrained: Pretrained, seed: int) -> Pretrained:
    """The same name with other parameters."""
    return dataclasses.replace(pretrained, params=model("", seed).params)
