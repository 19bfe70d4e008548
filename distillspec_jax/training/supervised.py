"""The supervised loss: cross-entropy of the target tokens (T5X's, pooled over tokens)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from distillspec_jax.metrics import Mean
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.shapes import Array, Params
from distillspec_jax.training.step import LossFn, row_tokens


def make_supervised_loss(
    model: LanguageModel, *, dropout: bool, z_loss: float = 0.0, unlikelihood: float = 0.0
) -> LossFn:
    """Negative log-likelihood of `decoder_target_tokens` where `decoder_loss_weights` > 0.

    Args:
      model: the network.
      dropout: draw dropout masks from the step's key (training) or not (evaluation).
      z_loss: weight of `log(Z)^2`, which keeps logits from drifting (T5X: 1e-4).
      unlikelihood: weight of `repeated_mass`, which discourages repetition in greedy decoding. It needs
        memory for `[B, T, T]`.
    """

    def loss_fn(params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Array, dict[str, Any]]:
        logits_BTV = model.logits(params, batch, dropout_key=key if dropout else None)
        targets_BT = batch["decoder_target_tokens"]
        weights_BT = batch["decoder_loss_weights"].astype(jnp.float32)
        log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
        logit_BT = jnp.take_along_axis(logits_BTV, targets_BT[..., None], axis=-1)[..., 0]
        nll_BT = log_z_BT - logit_BT
        # On a CPU, an argmax over the logits takes longer than the rest of the loss.
        correct_BT = logit_BT >= jnp.max(logits_BTV, axis=-1)
        loss_BT = nll_BT + z_loss * jnp.square(log_z_BT) if z_loss else nll_BT
        if unlikelihood:
            log_probs_BTV = logits_BTV - log_z_BT[..., None]
            segments_BT = batch.get("decoder_segment_ids", weights_BT > 0)
            loss_BT = loss_BT + unlikelihood * repeated_mass(log_probs_BTV, targets_BT, segments_BT)
        metrics = {
            "nll": Mean.of(nll_BT, weights_BT),
            "token_accuracy": Mean.of(correct_BT.astype(jnp.float32), weights_BT),
            "row_tokens": row_tokens(weights_BT),
        }
        return jnp.sum(loss_BT * weights_BT), jnp.sum(weights_BT), metrics

    return jax.tree_util.Partial(loss_fn)


def repeated_mass(log_probs_BTV: Array, targets_BT: Array, segments_BT: Array) -> Array:
    """Measures the probability that each position gives to earlier tokens other than its target.

    It is -sum_c log(1 - p(c)) over the distinct tokens c before a position, excluding its own target
    (Welleck et al., arXiv 1908.04319, Eq. 4).

    Args:
      log_probs_BTV: of the next token.
      targets_BT: the tokens.
      segments_BT: the text that each token belongs to; 0 for padding.

    Returns:
      `[B, T]`, nats.
    """
    place = jnp.arange(targets_BT.shape[1])
    before_1TS = (place[None, :] < place[:, None])[None]
    same_text_BTS = segments_BT[:, :, None] == segments_BT[:, None, :]
    equal_BTS = targets_BT[:, :, None] == targets_BT[:, None, :]
    first_BS = ~jnp.any(equal_BTS & same_text_BTS & before_1TS, axis=2)  # each token once
    counts_BTS = (
        before_1TS & same_text_BTS & ~equal_BTS & first_BS[:, None, :] & (segments_BT > 0)[:, :, None]
    )
    log_p_BTS = jnp.take_along_axis(log_probs_BTV, targets_BT[:, None, :], axis=2)
    # Capping p just below 1 keeps the loss of a certain but wrong prediction finite.
    log_rest_BTS = jnp.log1p(-jnp.exp(jnp.minimum(log_p_BTS, -1e-6)))
    return -jnp.sum(jnp.where(counts_BTS, log_rest_BTS, 0.0), axis=2)
