"""Expected acceptance on held-out prompts: Eq. 3's alpha, as the draft trains.

Prefixes are drawn from the target once, at the start: alpha = 1 - TVD pooled over their tokens.
At temperature 0 both laws are one-hot, so it is the share of greedy target tokens that the draft's
argmax agrees with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from distillspec_jax import metrics as metrics_lib
from distillspec_jax.decoding.law import sampling_law
from distillspec_jax.distillation.sources import sampled_batch
from distillspec_jax.metrics import Mean
from distillspec_jax.models.interface import Batch, LanguageModel
from distillspec_jax.shapes import Array, Params

TEMPERATURES = (0.0, 1.0)


def overlap(
    target_logits_BTV: Array, draft_logits_BTV: Array, temperature: float, vocab_size: int | None = None
) -> Array:
    """sum_v min(p, q) under the sampling law of this temperature, `[B, T]`."""
    law = sampling_law(temperature, vocab_size=vocab_size)
    log_p, log_q = law.log_probs(target_logits_BTV), law.log_probs(draft_logits_BTV)
    return jnp.sum(jnp.exp(jnp.minimum(log_p, log_q)), axis=-1)


def expected_acceptance(
    draft: LanguageModel,
    target: LanguageModel,
    target_params: Params,
    batches: Iterable[Batch],
    seed: int,
    *,
    vocab_size: int | None = None,
    eos_id: int = 1,
) -> Callable[[Params], dict[str, float]]:
    """Parameters of the draft to `{acceptance_expected_T0, acceptance_expected_T1}`.

    Args:
      batches: unpacked evaluation batches of prompts; their targets only give the length.
      seed: of the target's samples.
      vocab_size, eos_id: see `sources.Networks`.
    """

    @jax.jit
    def draw(target_params: Params, batch: Batch, key: Array) -> tuple[Batch, ...]:
        return tuple(
            sampled_batch(target, target_params, batch, key, t, vocab_size=vocab_size, eos_id=eos_id)
            for t in TEMPERATURES
        )

    @jax.jit
    def measure(params: Params, target_params: Params, drawn: tuple[Batch, ...]) -> dict[str, Mean]:
        found = {}
        for temperature, batch in zip(TEMPERATURES, drawn, strict=True):
            both = target.logits(target_params, batch), draft.logits(params, batch)
            value = Mean.of(overlap(*both, temperature, vocab_size), batch["decoder_loss_weights"])
            found[f"acceptance_expected_T{temperature:g}"] = value
        return found

    key = jax.random.key(seed)
    drawn = [draw(target_params, batch, jax.random.fold_in(key, i)) for i, batch in enumerate(batches)]

    def evaluate(params: Params) -> dict[str, float]:
        total: dict[str, Mean] = {}
        for batches_T in drawn:
            found = measure(params, target_params, batches_T)
            total = metrics_lib.merge(total, metrics_lib.to_host(found))
        return metrics_lib.compute(total)

    return evaluate
