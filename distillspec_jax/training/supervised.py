"""The supervised loss: cross-entropy of the target tokens (T5X's, pooled over tokens)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.metrics import Mean
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.shapes import Array, Params
from distillspec_jax.training.step import LossFn, row_tokens


def make_supervised_loss(model: LanguageModel, *, dropout: bool, z_loss: float = 0.0) -> LossFn:
    """Negative log-likelihood of `decoder_target_tokens` where `decoder_loss_weights` > 0.

    Args:
      model: the network.
      dropout: draw dropout masks from the step's key (training) or not (evaluation).
      z_loss: weight of `log(Z)^2`, which keeps logits from drifting (T5X: 1e-4).
    """

    def loss_fn(params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Array, dict[str, Any]]:
        logits_BTV = model.logits(params, batch, dropout_key=key if dropout else None)
        targets_BT = batch["decoder_target_tokens"]
        weights_BT = batch["decoder_loss_weights"].astype(jnp.float32)
        log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
        logit_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
        nll_BT = log_z_BT - logit_BT
        # On a CPU, looking for the place of the largest logit takes longer than all the rest of the loss.
        correct_BT = logit_BT >= jnp.max(logits_BTV, axis=-1)
        loss_BT = nll_BT + z_loss * jnp.square(log_z_BT) if z_loss else nll_BT
        metrics = {
            "nll": Mean.of(nll_BT, weights_BT),
            "token_accuracy": Mean.of(correct_BT.astype(jnp.float32), weights_BT),
            "row_tokens": row_tokens(weights_BT),
        }
        return jnp.sum(loss_BT * weights_BT), jnp.sum(weights_BT), metrics

    return jax.tree_util.Partial(loss_fn)
