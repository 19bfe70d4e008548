"""The distillation loss by parts against the naive one, which holds both networks' logits at once."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.autoregressive import T5_1_1_SMALL
from benchmarks.measurement import Measurement, paired_ratio
from distillspec_jax.distillation.divergences import ForwardKL, TotalVariation
from distillspec_jax.distillation.loss import by_sequence, make_distillation_loss
from distillspec_jax.distillation.sources import Fixed
from distillspec_jax.metrics import Mean
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.interface import Batch, shift_right
from distillspec_jax.models.t5 import EncoderDecoder
from distillspec_jax.shapes import Array, Params
from distillspec_jax.vocabulary import T5_IDS

TURNS = 15
Step = Callable[[Params, Params, dict[str, Array]], Any]
"""Target's and draft's parameters and a batch to the gradient and the acceptance."""


def naive(model: Any, draft: Any) -> Step:
    """Logits of all tokens, and autodiff through them."""

    def loss(params: Params, target_params: Params, batch: dict[str, Array]) -> tuple[Array, Mean]:
        mask, tokens = batch["decoder_loss_weights"], batch["decoder_target_tokens"]
        both = model.logits(target_params, batch), draft.logits(params, batch)
        tvd = TotalVariation()(both[0], jax.lax.stop_gradient(both[1]), mask, tokens)
        return jnp.sum(ForwardKL()(*both, mask, tokens) * by_sequence(mask)[0]), Mean.of(1 - tvd, mask)

    return lambda target_params, params, batch: jax.grad(loss, has_aux=True)(params, target_params, batch)


def by_parts(model: Any, draft: Any) -> Step:
    """What `distill` runs."""

    def loss(params: Params, target_params: Params, batch: dict[str, Array]) -> tuple[Array, Mean]:
        loss_fn = make_distillation_loss(draft, model, target_params, ForwardKL(), Fixed(), vocabulary=T5_IDS)
        loss_sum, _, metrics = loss_fn(params, batch, jax.random.key(0))
        return loss_sum, metrics["acceptance_on_batch"]

    return lambda target_params, params, batch: jax.grad(loss, has_aux=True)(params, target_params, batch)


def batch_of(rows: int, inputs: int, targets: int) -> dict[str, np.ndarray]:
    """Random ids without padding."""
    draws = np.random.default_rng(0)
    target = draws.integers(2, 4000, (rows, targets)).astype(np.int32)
    return {
        "encoder_input_tokens": draws.integers(2, 4000, (rows, inputs)).astype(np.int32),
        "decoder_input_tokens": shift_right(target),
        "decoder_target_tokens": target,
        "decoder_loss_weights": np.ones(target.shape, np.float32),
    }


@dataclasses.dataclass(frozen=True)
class Projection:
    """The last layer of a network, whose hidden states are parameters: what is left is the loss's own."""

    vocab_size: int

    def hidden(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        return params["hidden_BTM"]

    def readout(self, params: Params, hidden_BTM: Array) -> Array:
        return hidden_BTM @ params["kernel_MV"]

    def logits(self, params: Params, batch: Batch) -> Array:
        return self.readout(params, self.hidden(params, batch))


def loss_memory() -> Measurement:
    """XLA's temporaries of a gradient at 8,192 tokens of T5's vocabulary; compiled and not run.

    From the hidden states on; the whole pair is in the text, since its own activations are no loss's matter.
    """
    batch, whole = batch_of(64, 64, 128), EncoderDecoder(T5_1_1_SMALL)
    width, vocab_size = T5_1_1_SMALL.emb_dim, T5_1_1_SMALL.vocab_size
    shapes = {"hidden_BTM": (64, 128, width), "kernel_MV": (width, vocab_size)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def megabytes(step: Step, params: Params) -> float:
        analysis = jax.jit(step).lower(params, params, batch).compile().memory_analysis()
        return float(analysis.temp_size_in_bytes / 1e6) if analysis else float("nan")

    projection = Projection(vocab_size)
    ours, theirs = (megabytes(step(projection, projection), params) for step in (by_parts, naive))
    pair = [megabytes(step(whole, whole), registry.shapes(whole)) for step in (by_parts, naive)]
    what = (
        "gradient of forward KL from hidden states 64 x 128 x 512 on, 32,128 logits: "
        f"{ours:,.0f} MB of temporaries over the naive loss's {theirs:,.0f} MB; with all activations of "
        f"T5 1.1-small as target and draft: {pair[0]:,.0f} over {pair[1]:,.0f} MB"
    )
    return Measurement("loss_memory", ours / theirs, ours / theirs, ours / theirs, what)


def loss_time() -> Measurement:
    """Seconds of a gradient where all logits are few: the zoo's pair on its usual batch."""
    target, draft = (pretrained.load(f"zoo:wiki_leads/{name}") for name in ("target", "draft"))
    batch = jax.device_put(batch_of(24, 96, 80))
    steps = [jax.jit(step(target.model, draft.model)) for step in (naive, by_parts)]

    def seconds(step: Step) -> float:
        began = time.perf_counter()
        jax.block_until_ready(step(target.params, draft.params, batch))
        return time.perf_counter() - began

    for step in steps:
        seconds(step)  # compiles
    turns = np.array([[seconds(step) for step in steps] for _ in range(TURNS)])
    middle = np.median(turns, axis=0)
    what = (
        f"gradient of forward KL, zoo pair, 24 x 80 tokens: the naive loss's {1e3 * middle[0]:.0f} ms over "
        f"{1e3 * middle[1]:.0f} ms, median of {TURNS} turns"
    )
    return paired_ratio("loss_time", turns[:, 0], turns[:, 1], what)
