"""A target and a draft of a few thousand parameters that speak the embedded vocabulary, as checkpoints.

Only a few tokens have logits that are not zero, EOS among them, so that greedy texts wander and end; the
draft is the target, disturbed, so that some of its tokens are accepted.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax import checkpoint, model_card
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import registry
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.tokenization.tokenizer import embedded_tokenizer
from tests import tiny
from tests.data.hub import EOS, byte_level

PREFIX, INPUTS, TARGETS = "say: ", 32, 8
"""The models' own prefix and lengths."""

MODEL = EncoderDecoder(T5Config(embedded_tokenizer().vocab_size, 8, 1, 8, 1, 1, 16))
SPOKEN = (1, 300, 400, 500)
"""EOS and three pieces of text."""


@functools.cache
def target() -> Pretrained:
    params = jax.tree.map(jnp.copy, tiny.params(MODEL, seed=3))
    kernel = np.zeros((8, MODEL.vocab_size), np.float32)
    kernel[:, SPOKEN] = np.random.default_rng(5).normal(0.0, 6.0, (8, len(SPOKEN)))
    params["decoder"]["logits_dense"]["kernel"] = jnp.asarray(kernel)
    family, config = registry.describe(MODEL)
    tokenizer = embedded_tokenizer()
    card = ModelCard(
        family,
        config,
        tokenizer.fingerprint,
        prefix=PREFIX,
        feature_lengths={"inputs": INPUTS, "targets": TARGETS},
    )
    return Pretrained("target", MODEL, params, card, tokenizer.model_bytes)


@functools.cache
def draft() -> Pretrained:
    rng = np.random.default_rng(7)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), target().params)
    params["decoder"]["logits_dense"] = target().params["decoder"]["logits_dense"]
    return dataclasses.replace(target(), name="draft", params=params)


def write(directory: Path, pretrained: Pretrained) -> str:
    """Saves a model, as it is, as a checkpoint directory."""
    model_card.write_card(directory, pretrained.card, pretrained.tokenizer_bytes)
    checkpoint.save_params(directory, 1, pretrained.params)
    return str(directory)


def without_padding() -> Pretrained:
    """A decoder-only model of a vocabulary in which the id 0 is a word, the exclamation mark."""
    model = DecoderOnly(DecoderOnlyConfig(EOS + 1, 8, 1, 1, 8, 1, 16))
    family, config = registry.describe(model)
    fingerprint = model_card.fingerprint(byte_level())
    card = ModelCard(family, config, fingerprint, eos_ids=[EOS], prompts_end_with_eos=False)
    return Pretrained("words", model, tiny.params(model, seed=3), card, byte_level())
