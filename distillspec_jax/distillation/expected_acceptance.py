"""Expected acceptance on held-out prompts: Eq. 3's alpha, as the draft trains.

Prefixes are drawn from the target once, at the start, under the distribution in question: alpha = 1 - TVD
pooled over their tokens. At temperature 0 both distributions are one-hot, so alpha is the share of greedy
target tokens that the draft's argmax agrees with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp

from distillspec_jax import metrics as metrics_lib
from distillspec_jax.distillation import chunks
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.distillation.formulas import log_overlap
from distillspec_jax.distillation.sources import sampled_batch
from distillspec_jax.metrics import Mean
from distillspec_jax.models.interface import Batch, LanguageModel
from distillspec_jax.shapes import Array, Params
from distillspec_jax.vocabulary import Vocabulary

GREEDY, SAMPLED = Deployment(temperature=0.0), Deployment(temperature=1.0)


def metric(deployment: Deployment) -> str:
    """The name under which Eq. 3's alpha under a distribution is reported."""
    return f"acceptance_expected_{deployment.name}"


def overlap(
    target_logits_BTV: Array,
    draft_logits_BTV: Array,
    deployment: Deployment,
    vocabulary: Vocabulary,
) -> Array:
    """Computes sum_v min(p, q) under the settings that both are sampled by, `[B, T]`."""
    distribution = deployment.distribution(vocabulary)
    return jnp.exp(
        log_overlap(distribution.log_probs(target_logits_BTV), distribution.log_probs(draft_logits_BTV))
    )


def expected_acceptance(
    draft: LanguageModel,
    target: LanguageModel,
    target_params: Params,
    batches: Iterable[Batch],
    seed: int,
    distributions: Sequence[Deployment] = (GREEDY, SAMPLED),
    *,
    vocabulary: Vocabulary,
) -> Callable[[Params], dict[str, float]]:
    """Draws the target's texts and makes a function from the draft's parameters to alpha on them.

    Its values are named by `metric` (`acceptance_expected_T0`), one a distribution.

    Args:
      batches: unpacked evaluation batches of prompts; their targets only give the length.
      seed: of the target's samples.
      distributions: of target and draft.
      vocabulary: of both.
    """

    @jax.jit
    def draw(target_params: Params, batch: Batch, key: Array) -> tuple[Batch, ...]:
        return tuple(
            sampled_batch(target, target_params, batch, key, distribution, vocabulary)
            for distribution in distributions
        )

    @jax.jit
    def measure(params: Params, target_params: Params, drawn: tuple[Batch, ...]) -> dict[str, Mean]:
        def overlap_under(distribution: Deployment, hidden: tuple[Array, Array]) -> Array:
            logits = target.readout(target_params, hidden[0]), draft.readout(params, hidden[1])
            return overlap(*logits, distribution, vocabulary)

        found = {}
        for distribution, batch in zip(distributions, drawn, strict=True):
            mask_BT = batch["decoder_loss_weights"]
            hidden = target.hidden(target_params, batch), draft.hidden(params, batch)
            count = chunks.parts(mask_BT.shape[0], mask_BT.shape[1], draft.vocab_size)
            overlap_BT = chunks.of_tokens(functools.partial(overlap_under, distribution), hidden, count)
            found[metric(distribution)] = Mean.of(overlap_BT, mask_BT)
        return found

    key = jax.random.key(seed)
    drawn = [draw(target_params, batch, jax.random.fold_in(key, i)) for i, batch in enumerate(batches)]

    def evaluate(params: Params) -> dict[str, float]:
        total: dict[str, Mean] = {}
        for of_distributions in drawn:
            found = measure(params, target_params, of_distributions)
            total = metrics_lib.merge(total, metrics_lib.to_host(found))
        return metrics_lib.compute(total)

    return evaluate
