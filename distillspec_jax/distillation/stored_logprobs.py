"""Distilling without the target: its distribution at every token is stored as k likeliest ids and the rest's
mass.

Such a distribution is a categorical over k + 1 outcomes. The draft's distribution is gathered to the same
outcomes, and any `Divergence` applies to the two as it is. The rest is an outcome like the others: a loss
over the k ids alone is made small by moving mass out of them. What a divergence does not see is how the rest
is spread: over merged outcomes FKL, RKL, JSD and TVD are at most what they are over the whole vocabulary, and
equal where the draft spreads the rest as the target does.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from distillspec_jax.data.target_set import TargetSet
from distillspec_jax.distillation.divergences import Divergence, HardLabels, TotalVariation, WeightedSum
from distillspec_jax.distillation.loss import find_normalization
from distillspec_jax.distillation.one_pass import OnePass, acceptances
from distillspec_jax.distillation.sources import DataSource, Fixed
from distillspec_jax.distillation.weighting import Frozen, Logits, Weighting
from distillspec_jax.errors import UsageError
from distillspec_jax.metrics import Mean
from distillspec_jax.models import fingerprints
from distillspec_jax.models.interface import Batch, LanguageModel
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.models.shortlist import Shortlisted
from distillspec_jax.shapes import Array, Params
from distillspec_jax.training.step import LossFn, row_tokens
from distillspec_jax.vocabulary import Vocabulary

_total_variation = TotalVariation()


def check_logprobs(
    texts: TargetSet, draft: LanguageModel, divergence: Divergence, source: DataSource | None
) -> None:
    """Refuses a run that needs more of the target than a set of its log-probabilities.

    Raises:
      UsageError: a source that makes new sequences, whose distributions nobody stored; a divergence of other
        distributions than the stored ones; a draft of another width.
    """
    for part in divergence.divergences if isinstance(divergence, WeightedSum) else (divergence,):
        name = type(part).__name__
        if isinstance(part, HardLabels):
            raise UsageError(
                f"DIVERGENCE={name} learns from texts alone: finetune on TARGET_SET needs no distributions"
            )
        for field in ("temperature", "top_k", "top_p"):
            if getattr(part, field, None) != getattr(type(part), field, None):
                raise UsageError(
                    f"{name}.{field}={getattr(part, field)} without TARGET: the stored log-probabilities are "
                    "merged at temperature 1, untruncated; leave it out, or give TARGET"
                )
    if source is not None and not isinstance(source, Fixed):
        raise UsageError(
            f"SOURCE={type(source).__name__} without TARGET: log-probabilities are stored for the "
            "set's own texts alone; use @sources.Fixed(), or give TARGET"
        )
    if texts.header.logits != draft.vocab_size:
        raise UsageError(
            f"the draft has {draft.vocab_size} logits and the distributions in {texts.directory} are of "
            f"{texts.header.logits}: distillation compares whole distributions; pad the smaller embedding"
        )


def check_target(texts: TargetSet, target: Pretrained) -> None:
    """Refuses texts that another target wrote.

    Raises:
      UsageError: the fingerprints differ.
    """
    known, given = texts.header.target_fingerprint, fingerprints.of_params(target.params)
    if known != given:
        raise UsageError(
            f"{texts.directory} was written by another target, {texts.header.target} ({known}), "
            f"than {target.name} ({given}): collect again, or distil from that one"
        )


def merged(logits_BTV: Array, ids_BTK: Array) -> Array:
    """Computes the log-probabilities of given ids and, last, of all others together.

    Args:
      logits_BTV: raw, over the whole vocabulary and nothing else.
      ids_BTK: distinct at each position, fewer than V.

    Returns:
      `[B, T, K + 1]`, float32.
    """
    log_q_BTV = jax.nn.log_softmax(logits_BTV.astype(jnp.float32))
    chosen_BTK = jnp.take_along_axis(log_q_BTV, ids_BTK, axis=-1)
    # Summed over the others themselves: 1 - sum of the chosen would cancel where they hold nearly everything.
    others_BTV = jnp.put_along_axis(log_q_BTV, ids_BTK, -jnp.inf, axis=-1, inplace=False)
    tail_BT1 = jax.nn.logsumexp(others_BTV, axis=-1, keepdims=True)
    return jnp.concatenate([chosen_BTK, tail_BT1], axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def likeliest(
    model: LanguageModel, params: Params, batch: Batch, count: int, vocab_size: int | None = None
) -> tuple[Array, Array]:
    """Computes a model's likeliest ids at every target token, and their `merged` log-probabilities.

    Args:
      vocab_size: number of real ids; the padded rows of an embedding are in no distribution. None: all are
        real.

    Returns:
      `[B, T, K]` int32, likeliest first, and `[B, T, K + 1]` float32.
    """
    logits_BTV = model.logits(params, batch)[..., :vocab_size]
    ids_BTK = jax.lax.top_k(logits_BTV, count)[1]
    return ids_BTK, merged(logits_BTV, ids_BTK)


def make_stored_logprobs_loss(
    draft: LanguageModel,
    divergence: Divergence,
    *,
    vocabulary: Vocabulary,
    dropout: bool = False,
    normalization: str = "sequence",
    weighting: Weighting | None = None,
    reference: Frozen | None = None,
    one_pass: OnePass | None = None,
) -> LossFn:
    """Makes a loss for `training.step` on batches of `data.target_set` with distributions; needs no target.

    Args:
      draft: the network; logits as wide as the target's were. Where it has a shortlist, the loss is taken on
        the listed ids alone, of which the target's distribution is made anew.
      divergence: token by token, over k + 1 outcomes.
      vocabulary: of both; the padded rows of an embedding are in no distribution.
      dropout: draw the draft's dropout masks from the step's key.
      normalization, weighting, reference, one_pass: see `loss.make_distillation_loss`.

    The metric `acceptance_at_most` is the pooled 1 - TVD of the merged distributions, not below the whole
    ones'.

    Raises:
      UsageError: an unknown normalization.
    """
    normalize = find_normalization(normalization)

    def weigh(reference_params: Params, said: Logits, batch: Batch) -> tuple[Array, Array, dict[str, Mean]]:
        mask_BT = batch["decoder_loss_weights"]
        if weighting is None:
            return *normalize(mask_BT), {}
        if reference is not None:
            others_BTV = reference.model.logits(reference_params, batch)[..., : vocabulary.size]
            said = said._replace(reference=merged(others_BTV, batch["top_ids"]))
        score_BT = weighting.score(divergence, said, mask_BT, batch["decoder_target_tokens"])
        return weighting.weigh(score_BT, mask_BT, normalize)

    def of_draft(params: Params, batch: Batch, dropout_key: Array | None) -> Array:
        if not isinstance(draft, Shortlisted):
            logits_BTV = draft.logits(params, batch, dropout_key=dropout_key)
            return merged(logits_BTV[..., : vocabulary.size], batch["top_ids"])
        logits_BTS = draft.listed_logits(params, batch, dropout_key=dropout_key)
        beside_BT1 = jnp.full((*logits_BTS.shape[:-1], 1), -jnp.inf, logits_BTS.dtype)
        return merged(jnp.concatenate([logits_BTS, beside_BT1], axis=-1), draft.columns(batch["top_ids"]))

    def loss_fn(
        reference_params: Params, params: Params, batch: Batch, key: Array
    ) -> tuple[Array, Array, dict[str, Mean]]:
        if one_pass is not None:  # from here on T counts masks, too
            batch, _ = one_pass.with_tails(batch, jax.random.fold_in(key, 1))
        weights_BT = batch["decoder_loss_weights"]
        log_p_BTK = jnp.concatenate([batch["top_logprobs"], batch["tail_logprob"][..., None]], axis=-1)
        log_q_BTK = of_draft(params, batch, key if dropout else None)
        tokens_BT = batch["decoder_target_tokens"]
        learned_BTK = log_p_BTK  # without what a shortlist leaves out, to which the draft gives nothing
        if isinstance(draft, Shortlisted):
            learned_BTK = jnp.where(log_q_BTK > -jnp.inf, log_p_BTK, -jnp.inf)
        loss_BT = divergence(learned_BTK, log_q_BTK, weights_BT, tokens_BT)
        said = Logits(log_p_BTK, jax.lax.stop_gradient(log_q_BTK))
        weight_BT, weight_sum, seen = weigh(reference_params, said, batch)
        tvd_BT = _total_variation(log_p_BTK, jax.lax.stop_gradient(log_q_BTK), weights_BT, tokens_BT)
        metrics = {
            **acceptances("acceptance_at_most", 1.0 - tvd_BT, weights_BT, batch),
            "row_tokens": row_tokens(weights_BT),
        }
        return jnp.sum(loss_BT * weight_BT), weight_sum, metrics | seen

    return jax.tree_util.Partial(loss_fn, None if reference is None else reference.params)
