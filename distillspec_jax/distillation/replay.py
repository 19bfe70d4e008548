"""On-policy samples that begin in the middle of another text, for example one that the target wrote.

A deployed draft continues the target's text, and its own for at most a block (`max_tokens`). A full sample of
its own leads to prefixes that decoding never sees.

References:
  Draft-OPD, arXiv 2605.29343, which replays drafting from the positions where verification failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from distillspec_jax.decoding import randomness
from distillspec_jax.decoding.autoregressive import resume
from distillspec_jax.decoding.randomness import Purpose
from distillspec_jax.decoding.sampling import SamplingDistribution
from distillspec_jax.decoding.stopping import StopOnEos
from distillspec_jax.distillation import chunks
from distillspec_jax.distillation.sources import DataSource, Networks, Sampled, TargetGenerated, check_shares
from distillspec_jax.errors import find
from distillspec_jax.models.interface import Batch, shift_right
from distillspec_jax.shapes import Array

Cut = Callable[[Networks, SamplingDistribution, Batch, Array], Array]
"""Maps networks, the draft's distribution, texts and row keys to the number of tokens to keep, `[B]`."""
_TARGETS = TargetGenerated()


@dataclasses.dataclass(frozen=True)
class Replayed(Sampled):
    """The draft's continuations of truncated texts; only the continuations are trained on.

    Attributes:
      temperature: of the draft's distribution.
      max_tokens: maximum length of a continuation: gamma, as decoding has it; None: up to the width of the
        targets, of which most is text that no decoding continues.
      texts: the source to truncate: the target's samples, or `Fixed()` for those of a data or stored set.
      cut: key of `CUTS`. `random`: the continuation replaces the text from a random token on; `error`: from
        one of the tokens at which a draft would have been rejected, all equally likely.
    """

    texts: DataSource = _TARGETS
    cut: str = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        find("cut", self.cut, CUTS)

    def check(self, rows: int, microbatches: int) -> None:
        """See `sources.check_shares`."""
        check_shares(self.texts, rows, microbatches)

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        """See `DataSource`."""
        texts_key, cut_key, own_key = jax.random.split(key, 3)
        texts = self.texts(networks, batch, texts_key)
        text_BT = texts["decoder_target_tokens"]
        rows, width = text_BT.shape
        distribution = self.sampling.distribution(networks.vocabulary)
        keys_B = randomness.row_keys(cut_key, jnp.arange(rows))
        kept_B = CUTS[self.cut](networks, distribution, texts, keys_B)
        longest_B = jnp.minimum(width - kept_B, self.max_tokens or width)
        own_BT, own_B = resume(
            networks.draft,
            networks.draft_params,
            distribution,
            batch["encoder_input_tokens"],
            text_BT,
            kept_B,
            randomness.row_keys(own_key, jnp.arange(rows)),
            jnp.where(_lengths(texts) > 0, longest_B, 0),
            StopOnEos(networks.vocabulary.eos_ids),
        )
        offset_BT = jnp.arange(width)[None] - kept_B[:, None]  # in the continuation
        moved_BT = jnp.take_along_axis(own_BT, jnp.maximum(offset_BT, 0), axis=1)
        tokens_BT = jnp.where(offset_BT < 0, text_BT, moved_BT)  # 0 after the end, like `own_BT`
        learnt_BT = (offset_BT >= 0) & (offset_BT < own_B[:, None])
        return {
            **texts,
            "decoder_target_tokens": jax.lax.stop_gradient(tokens_BT),
            "decoder_input_tokens": shift_right(tokens_BT),
            "decoder_loss_weights": learnt_BT.astype(jnp.float32),
        }


def _lengths(texts: Batch) -> Array:
    return jnp.sum(texts["decoder_loss_weights"] > 0, axis=1).astype(jnp.int32)


def _among(marked_BT: Array, keys_B: Array) -> Array:
    """Draws one of each row's marked positions uniformly; 0 where there is none."""
    count_B = jnp.sum(marked_BT, axis=1).astype(jnp.int32)
    drawn_B = randomness.uniform(randomness.draw_keys(keys_B, 0, Purpose.DRAFT))
    before_B = jnp.minimum((drawn_B * count_B).astype(jnp.int32), count_B - 1)
    return jnp.argmax(jnp.cumsum(marked_BT, axis=1) > before_B[:, None], axis=1).astype(jnp.int32)


def _random(networks: Networks, distribution: SamplingDistribution, texts: Batch, keys_B: Array) -> Array:
    """Draws a position uniformly from each text's tokens; 0 for an empty text."""
    return _among(texts["decoder_loss_weights"] > 0, keys_B)


def _error(networks: Networks, distribution: SamplingDistribution, texts: Batch, keys_B: Array) -> Array:
    """Draws one of each text's rejections uniformly; any of its tokens if there is none.

    If speculative decoding emitted this text, a token y was an accepted draft with probability
    min(1, q(y) / p(y)), and otherwise the target's own after a rejection.
    """
    text_BT = texts["decoder_target_tokens"]

    def log_ratio(part: dict[str, Array]) -> Array:
        log_p, log_q = (
            jnp.take_along_axis(
                distribution.log_probs(model.readout(params, part[role])), part["tokens"][..., None], axis=-1
            )[..., 0]
            for role, model, params in (
                ("target", networks.target, networks.target_params),
                ("draft", networks.draft, networks.draft_params),
            )
        )
        # A token that the target cannot emit at this temperature has no ratio, so count it as rejected.
        return jnp.where(log_p > -jnp.inf, log_q - log_p, -jnp.inf)

    hidden = {
        "target": networks.target.hidden(networks.target_params, texts),
        "draft": networks.draft.hidden(networks.draft_params, texts),
        "tokens": text_BT,
    }
    count = chunks.parts(text_BT.shape[0], text_BT.shape[1], networks.draft.vocab_size)
    accepted_BT = jnp.exp(jnp.minimum(chunks.of_tokens(log_ratio, hidden, count), 0.0))
    token_1T = jnp.arange(text_BT.shape[1])[None]
    drawn_BT = randomness.uniform(randomness.draw_keys(keys_B[:, None], token_1T, Purpose.ACCEPT))
    real_BT = texts["decoder_loss_weights"] > 0
    rejected_BT = real_BT & (drawn_BT >= accepted_BT)
    return _among(jnp.where(jnp.any(rejected_BT, axis=1, keepdims=True), rejected_BT, real_BT), keys_B)


CUTS: Mapping[str, Cut] = {"random": _random, "error": _error}
"""Rules for cutting a text, by name."""
