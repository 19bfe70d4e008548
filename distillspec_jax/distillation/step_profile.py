"""Where a distillation step's time goes: rollout, target's forward pass, draft's forward and backward pass.

Inside the step they are one program, which no clock on the host can look into. So they are compiled apart,
once, and timed on a batch of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.distillation.divergences import Divergence
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import DataSource, Fixed, Networks
from distillspec_jax.models.interface import Batch, LanguageModel
from distillspec_jax.shapes import Array, Params
from distillspec_jax.vocabulary import Vocabulary

REPEATS = 3


def step_profile(
    draft: LanguageModel,
    target: LanguageModel,
    target_params: Params,
    divergence: Divergence,
    source: DataSource,
    *,
    vocabulary: Vocabulary,
) -> Callable[[Params, Batch], dict[str, float]]:
    """The draft's parameters and a batch to `{rollout_s, target_forward_s, draft_forward_backward_s}`.

    Each is the median of a few calls. The draft's share is what the loss and its gradient on given sequences
    take beyond the target's pass. Arguments as `make_distillation_loss`.
    """
    loss_fn = make_distillation_loss(draft, target, target_params, divergence, Fixed(), vocabulary=vocabulary)

    @jax.jit
    def rollout(params: Params, target_params: Params, batch: Batch) -> Batch:
        networks = Networks(draft, params, target, target_params, vocabulary)
        return source(networks, batch, jax.random.key(0))

    @jax.jit
    def forward(target_params: Params, batch: Batch) -> Array:
        return jnp.max(target.logits(target_params, batch))

    @jax.jit
    def gradient(params: Params, loss_fn: Any, batch: Batch) -> Params:
        return jax.grad(lambda params: loss_fn(params, batch, jax.random.key(0))[0])(params)

    def profile(params: Params, batch: Batch) -> dict[str, float]:
        batch, drawing = _timed(rollout, params, target_params, batch)
        _, scoring = _timed(forward, target_params, batch)
        _, learning = _timed(gradient, params, loss_fn, batch)
        return {
            "rollout_s": drawing,
            "target_forward_s": scoring,
            "draft_forward_backward_s": max(learning - scoring, 0.0),
        }

    return profile


def _timed(call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a call gives, and its median seconds after a first call that compiles."""
    result, seconds = jax.block_until_ready(call(*arguments)), []
    for _ in range(REPEATS):
        began = time.perf_counter()
        jax.block_until_ready(call(*arguments))
        seconds.append(time.perf_counter() - began)
    return result, float(np.median(seconds))
