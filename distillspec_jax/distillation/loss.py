"""The distillation loss: a divergence on a source's sequences, each by its own length (paper, Eq. 2)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from distillspec_jax.distillation.divergences import Divergence, TotalVariation
from distillspec_jax.distillation.sources import DataSource, Networks
from distillspec_jax.metrics import Mean
from distillspec_jax.models.interface import Batch, LanguageModel
from distillspec_jax.shapes import Array, Params
from distillspec_jax.training.step import LossFn, row_tokens

_total_variation = TotalVariation()


def sequence_means(loss_BT: Array, weights_BT: Array) -> tuple[Array, Array]:
    """Sum over sequences of each one's mean loss, and the number of sequences that have any token.

    EOS counts, padding does not. A pooled token mean would be another loss: long sequences would
    weigh more.
    """
    length_B = jnp.sum(weights_BT, axis=1)
    mean_B = jnp.sum(loss_BT * weights_BT, axis=1) / jnp.maximum(length_B, 1.0)
    return jnp.sum(mean_B), jnp.sum((length_B > 0).astype(jnp.float32))


def make_distillation_loss(
    draft: LanguageModel,
    target: LanguageModel,
    target_params: Params,
    divergence: Divergence,
    source: DataSource,
    *,
    dropout: bool = False,
    vocab_size: int | None = None,
    eos_id: int = 1,
) -> LossFn:
    """A loss for `training.step`: the target's parameters travel with it as arguments, not constants.

    Args:
      draft, target: the pair; logits of one width.
      target_params: frozen.
      divergence: token by token.
      source: of the sequences that it is taken on.
      dropout: draw the draft's dropout masks from the step's key. Samples are drawn without.
      vocab_size, eos_id: see `sources.Networks`.

    The metric `acceptance_on_batch` is the pooled 1 - TVD on the training sequences: on the draft's own
    samples or on references, so not Eq. 3's alpha (see `held_out.py`) and not what a sampler measures.
    """

    def loss_fn(
        target_params: Params, params: Params, batch: Batch, key: Array
    ) -> tuple[Array, Array, dict[str, Mean]]:
        source_key, dropout_key = jax.random.split(key)
        frozen = jax.lax.stop_gradient(params)
        networks = Networks(draft, frozen, target, target_params, vocab_size, eos_id)
        batch = source(networks, batch, source_key)
        weights_BT = batch["decoder_loss_weights"]
        target_logits = jax.lax.stop_gradient(target.logits(target_params, batch))
        draft_logits = draft.logits(params, batch, dropout_key=dropout_key if dropout else None)
        loss_BT = divergence(target_logits, draft_logits, weights_BT)
        loss_sum, weight_sum = sequence_means(loss_BT, weights_BT)
        tvd_BT = _total_variation(target_logits, jax.lax.stop_gradient(draft_logits), weights_BT)
        metrics = {
            "acceptance_on_batch": Mean.of(1.0 - tvd_BT, weights_BT),
            "row_tokens": row_tokens(weights_BT),
        }
        return loss_sum, weight_sum, metrics

    return jax.tree_util.Partial(loss_fn, target_params)
