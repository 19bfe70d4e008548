"""Expected acceptance rate on held-out prompts: Eq. 3's alpha, tracked during training.

Texts are sampled from the target once, at the start, under the given distribution; alpha = 1 - TVD pooled
over their tokens. At temperature 0 both distributions are one-hot, so alpha is the share of greedy target
tokens that match the draft's argmax.

On request, alpha is also measured on the draft's own texts, sampled afresh each time, and the entropies of
both networks on either kind of text. Own texts are what an on-policy draft trains on.
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
from distillspec_jax.training.preemption import stoppable
from distillspec_jax.vocabulary import Vocabulary

GREEDY, SAMPLED = Deployment(temperature=0.0), Deployment(temperature=1.0)


def metric(deployment: Deployment) -> str:
    """Names the metric of Eq. 3's alpha under a distribution."""
    return f"acceptance_expected_{deployment.name}"


def overlap(
    target_logits_BTV: Array,
    draft_logits_BTV: Array,
    deployment: Deployment,
    vocabulary: Vocabulary,
) -> Array:
    """Computes sum_v min(p, q) under the sampling settings of both networks, `[B, T]`."""
    distribution = deployment.distribution(vocabulary)
    return jnp.exp(
        log_overlap(distribution.log_probs(target_logits_BTV), distribution.log_probs(draft_logits_BTV))
    )


def entropy(logits_BTV: Array, vocabulary: Vocabulary) -> Array:
    """Computes the entropy of the sampling distribution at temperature 1, nats, `[B, T]`."""
    log_p_BTV = SAMPLED.distribution(vocabulary).log_probs(logits_BTV)
    return -jnp.sum(jnp.exp(log_p_BTV) * jnp.where(log_p_BTV > -jnp.inf, log_p_BTV, 0.0), axis=-1)


def expected_acceptance(
    draft: LanguageModel,
    target: LanguageModel,
    target_params: Params,
    batches: Iterable[Batch],
    seed: int = 0,
    distributions: Sequence[Deployment] = (GREEDY, SAMPLED),
    *,
    vocabulary: Vocabulary,
    own_batches: Sequence[Batch] = (),
) -> Callable[[Params], dict[str, float]]:
    """Samples the target's texts and makes a function from the draft's parameters to alpha on them.

    `metric` names its values (`acceptance_expected_T0`), one per distribution. `own_batches` adds metrics on
    texts sampled from the same distributions: `acceptance_own_T0` on the draft's own texts;
    `target_entropy_T0` and `draft_entropy_T0`, nats per token, on the target's; `target_entropy_own_T0` and
    `draft_entropy_own_T0` on the draft's. Entropies are at temperature 1, whatever the texts' temperature.

    Args:
      batches: unpacked evaluation batches of prompts; their targets only give the length.
      seed: of all samples, so the own texts of two drafts differ only because the drafts do; runs leave it
        alone, whatever their own seed, to be evaluated on the same texts.
      distributions: for target and draft.
      vocabulary: shared by both.
      own_batches: prompts that the draft also continues.
    """

    @functools.partial(jax.jit, static_argnums=0)
    def draw(model: LanguageModel, params: Params, batch: Batch, key: Array) -> tuple[Batch, ...]:
        return tuple(
            sampled_batch(model, params, batch, key, distribution, vocabulary)
            for distribution in distributions
        )

    def of_tokens_under(
        params: Params, target_params: Params, distribution: Deployment, hidden: tuple[Array, Array]
    ) -> dict[str, Array]:
        logits = target.readout(target_params, hidden[0]), draft.readout(params, hidden[1])
        found = {"acceptance": overlap(*logits, distribution, vocabulary)}
        if own_batches:
            found["target_entropy"], found["draft_entropy"] = (entropy(x, vocabulary) for x in logits)
        return found

    @jax.jit
    def measure(params: Params, target_params: Params, drawn: tuple[Batch, ...]) -> list[dict[str, Mean]]:
        found = []
        for distribution, batch in zip(distributions, drawn, strict=True):
            mask_BT = batch["decoder_loss_weights"]
            hidden = target.hidden(target_params, batch), draft.hidden(params, batch)
            count = chunks.parts(mask_BT.shape[0], mask_BT.shape[1], draft.vocab_size)
            values = functools.partial(of_tokens_under, params, target_params, distribution)
            by_name = chunks.of_tokens(values, hidden, count)
            found.append({name: Mean.of(value_BT, mask_BT) for name, value_BT in by_name.items()})
        return found

    def named(found: list[dict[str, Mean]], on: str) -> dict[str, Mean]:
        return {
            f"{name}_{on}{distribution.name}" if on or name != "acceptance" else metric(distribution): mean
            for distribution, by_name in zip(distributions, found, strict=True)
            for name, mean in by_name.items()
        }

    key = jax.random.key(seed)
    keys = [jax.random.fold_in(key, i) for i in range(len(own_batches))]
    drawn = [
        draw(target, target_params, batch, jax.random.fold_in(key, i)) for i, batch in enumerate(batches)
    ]

    def evaluate(params: Params) -> dict[str, float]:
        total: dict[str, Mean] = {}
        own = (draw(draft, params, batch, key) for batch, key in zip(own_batches, keys, strict=True))
        for on, texts in (("", drawn), ("own_", own)):
            for of_distributions in stoppable(texts):
                found = named(measure(params, target_params, of_distributions), on)
                total = metrics_lib.merge(total, metrics_lib.to_host(found))
        return metrics_lib.compute(total)

    return evaluate
