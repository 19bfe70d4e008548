"""Model families under test: tiny pairs, and how to score a continuation without their caches.

The next family joins by one entry in `FAMILIES`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import ModelDrafter, PairParams
from distillspec_jax.models.decoder_only import DecoderOnly, DecoderOnlyConfig
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.models.shortlist import Shortlisted
from distillspec_jax.models.t5 import EncoderDecoder, T5Config
from distillspec_jax.models.t5gemma import T5Gemma, T5GemmaConfig
from distillspec_jax.shapes import Array, Params
from tests import tiny
from tests.decoding.prefix_model import PrefixModel

VOCAB = 6
"""Real ids: padding 0, EOS 1, and four more. The models' tables are wider, and not equally wide."""

PROMPTS = ((3, 1), (5, 2, 4, 4, 2), (2, 3, 5))
"""Of unequal length."""

Score = Callable[[LanguageModel, Params, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Family:
    """A pair, of one architecture unless its name says otherwise.

    Attributes:
      target, draft: networks; `params` are theirs.
      score: `(model, params, prompt [S], continuations [N, T]) -> logits [N, T + 1, V]` by `logits`
        alone: entry t is the distribution of token t.
    """

    name: str
    target: LanguageModel
    draft: LanguageModel
    params: PairParams
    score: Score

    @property
    def drafter(self) -> ModelDrafter:
        return ModelDrafter(self.draft)

    def target_logits(self, prompt: tuple[int, ...], continuations_NT: np.ndarray) -> np.ndarray:
        return _scored(self.score, self.target, self.params.target, prompt, continuations_NT)

    def draft_logits(self, prompt: tuple[int, ...], continuations_NT: np.ndarray) -> np.ndarray:
        return _scored(self.score, self.draft, self.params.draft, prompt, continuations_NT)


def _scored(
    score: Score, model: LanguageModel, params: Params, prompt: tuple[int, ...], continuations_NT: np.ndarray
) -> np.ndarray:
    prompt_S = jnp.asarray(prompt, jnp.int32)
    return np.asarray(_score_jit(score, model, params, prompt_S, jnp.asarray(continuations_NT, jnp.int32)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _score_jit(score: Score, model: LanguageModel, params: Any, prompt_S: Array, tokens_NT: Array) -> Array:
    return score(model, params, prompt_S, tokens_NT)


def _by_tokens(model: LanguageModel, params: Params, prompt_S: Array, tokens_NT: Array) -> Array:
    prompt_NS = jnp.broadcast_to(prompt_S, (len(tokens_NT), prompt_S.size))
    logits = model.logits(params, {"tokens": jnp.concatenate([prompt_NS, tokens_NT], axis=1)})
    return logits[:, prompt_S.size - 1 :]


def _by_features(model: LanguageModel, params: Params, prompt_S: Array, tokens_NT: Array) -> Array:
    batch = {
        "encoder_input_tokens": jnp.broadcast_to(prompt_S, (len(tokens_NT), prompt_S.size)),
        "decoder_input_tokens": jnp.pad(tokens_NT, ((0, 0), (1, 0))),
    }
    return model.logits(params, batch)


def prefix_family() -> Family:
    target, draft = PrefixModel(8), PrefixModel(7)
    # Near enough for drafts to be accepted, far enough for a wrong rule to show.
    params, other = target.init_params(1), draft.init_params(2)
    near = {
        **other,
        "embed_VD": 0.8 * params["embed_VD"][:7] + 0.5 * other["embed_VD"],
        "out_DV": 0.8 * params["out_DV"][:, :7] + 0.5 * other["out_DV"],
    }
    return Family("prefix", target, draft, PairParams(params, near), _by_tokens)


def t5_family() -> Family:
    def config(vocab_size: int, layers: int) -> T5Config:
        return T5Config(
            vocab_size=vocab_size,
            emb_dim=6,
            num_heads=2,
            head_dim=3,
            num_encoder_layers=1,
            num_decoder_layers=layers,
            mlp_dim=6,
            relpos_buckets=4,
            relpos_max_distance=8,
        )

    target, draft = EncoderDecoder(config(8, 2)), EncoderDecoder(config(7, 1))

    def sharpened(model: EncoderDecoder, seed: int) -> Params:
        """Sharp enough for the prefix to matter, flat enough for every cell to have many outputs."""
        params = tiny.params(model, seed)
        kernel = 1.5 * params["decoder"]["logits_dense"]["kernel"]
        return {**params, "decoder": {**params["decoder"], "logits_dense": {"kernel": kernel}}}

    return Family("t5", target, draft, PairParams(sharpened(target, 1), sharpened(draft, 2)), _by_features)


def t5gemma_family() -> Family:
    def model(vocab_size: int, layers: int) -> T5Gemma:
        return T5Gemma(
            T5GemmaConfig(
                vocab_size=vocab_size,
                emb_dim=6,
                num_heads=2,
                num_kv_heads=1,
                head_dim=4,
                num_encoder_layers=1,
                num_decoder_layers=layers,
                mlp_dim=6,
                encoder_emb_dim=4,
                window=2,
                attention_cap=2.0,
                logits_cap=4.0,
                rope_theta=10.0,
            )
        )

    target, draft = model(8, 2), model(7, 1)
    return Family(
        "t5gemma", target, draft, PairParams(tiny.params(target, 1), tiny.params(draft, 2)), _by_features
    )


def decoder_only_family(name: str = "decoder_only", **more: Any) -> Family:
    """A pair of Llamas; `more`: other fields of both."""

    def model(vocab_size: int, layers: int) -> DecoderOnly:
        return DecoderOnly(
            DecoderOnlyConfig(
                vocab_size=vocab_size,
                emb_dim=6,
                num_heads=2,
                num_kv_heads=1,
                head_dim=4,
                num_layers=layers,
                mlp_dim=6,
                rope_theta=10.0,
                **more,
            )
        )

    target, draft = model(8, 2), model(7, 1)
    params = PairParams(tiny.params(target, 1), tiny.params(draft, 2))
    return Family(name, target, draft, params, _by_features)


def shortlisted_family() -> Family:
    """The draft never offers two ids of the target's, EOS among them."""
    pair = decoder_only_family()
    assert isinstance(pair.draft, DecoderOnly)
    return dataclasses.replace(pair, name="shortlisted", draft=Shortlisted(pair.draft, (0, 2, 3, 5)))


def mixed_family(target: str, draft: str) -> Family:
    """The target of one family and the draft of another, which begins an output with a token of its own."""
    ours, theirs = family(target), family(draft)

    def flattened(params: Params) -> Params:
        """Of two networks that have nothing in common few drafts would be accepted."""
        kernel = 0.3 * params["decoder"]["logits_dense"]["kernel"]
        return {**params, "decoder": {**params["decoder"], "logits_dense": {"kernel": kernel}}}

    params = PairParams(flattened(ours.params.target), flattened(theirs.params.draft))
    return Family(f"{target} by {draft}", ours.target, theirs.draft, params, _by_features)


FAMILIES: dict[str, Callable[[], Family]] = {
    "prefix": prefix_family,
    "t5": t5_family,
    "decoder_only": decoder_only_family,
}

GEMMA3: dict[str, Any] = {
    "window": 3,
    "unwindowed_every": 2,
    "qk_norm": True,
    "norms_around_zero": True,
    "post_norms": True,
    "scaled_embedding": True,
    "window_rope_theta": 5.0,
}
VARIANTS: dict[str, Callable[[], Family]] = {
    "shortlisted": shortlisted_family,
    "gemma3": lambda: decoder_only_family("gemma3", **GEMMA3),
    "t5gemma": t5gemma_family,
}
"""Other drafts and networks of a family; one point of the grid each."""

MIXED: dict[str, Callable[[], Family]] = {
    "t5 by decoder_only": lambda: mixed_family("t5", "decoder_only"),
    "decoder_only by t5": lambda: mixed_family("decoder_only", "t5"),
}
"""One family drafts for another."""


@functools.cache
def family(name: str) -> Family:
    """One instance a process, so that compiled functions are shared."""
    return (FAMILIES | VARIANTS | MIXED)[name]()
