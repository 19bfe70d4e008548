"""Training steps beside each other: on policy against fixed data, and ours against T5X's supervised step.

T5X itself is beside ours in `t5x_step.py`, for whoever has its source. Its step is written out here in
plain JAX, after its trainer: the gradient of the token-summed cross-entropy with z-loss, through a closed
form over one-hot targets; its division by the number of tokens; the optimizer's update; the sums that it
reports; one jit that donates its state. Network, optimizer and batch are the same on both sides.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.measurement import Measurement, median_interval
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.distillation.divergences import ForwardKL
from distillspec_jax.distillation.loss import make_distillation_loss
from distillspec_jax.distillation.sources import DataSource, Fixed, OnPolicy
from distillspec_jax.models import pretrained, registry
from distillspec_jax.models.projection import BFLOAT16, precision
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.shapes import Array, Params
from distillspec_jax.training import optimizers
from distillspec_jax.training.step import LossFn, create_state, make_train_step
from distillspec_jax.training.supervised import make_supervised_loss

TASK, ROWS, TURNS = "wiki_leads", 24, 9
DRAFT, TARGET = f"zoo:{TASK}/draft", f"zoo:{TASK}/target"

Z_LOSS = 1e-4

LONG, LONG_ROWS = {"inputs": 384, "targets": 288}, 16
"""Packed, as the zoo's target is trained (`experiments/zoo/target_long.gin`)."""

Step = Callable[[], Any]


def on_policy_step_ratio() -> Measurement:
    """A step on the draft's own samples over one on the data's targets, same batch."""
    on_policy, fixed = (our_step(distillation_loss(source)) for source in (OnPolicy(), Fixed()))
    shape = "rows of 192 and 128 tokens"
    what = f"distillation step of the zoo pair on policy over fixed data, {ROWS} {shape} of {TASK}"
    return _ratio("on_policy_step_ratio", on_policy, fixed, what)


def supervised_step() -> Measurement:
    """Our supervised step over the plain-JAX form of T5X's."""
    model = pretrained.load(DRAFT).model
    ours = our_step(make_supervised_loss(model, dropout=False, z_loss=Z_LOSS))
    what = f"supervised step of the zoo draft over T5X's trainer written out in JAX, {ROWS} rows of {TASK}"
    return _ratio("supervised_step_vs_t5x_style", ours, _t5x_style(), what)


def training_precision() -> Measurement:
    """A step of the zoo's target with bfloat16 products over one with float32."""
    batch = next(DataConfig("embedded_mixture", LONG, pack=True).train_batches(LONG_ROWS, seed=0))
    loss = make_supervised_loss(pretrained.load("zoo:target").model, dropout=False, z_loss=Z_LOSS)
    fast, exact = (our_step(loss, "zoo:target", batch, precision) for precision in (BFLOAT16, None))
    what = f"supervised step of the zoo's target, {BFLOAT16} over float32, {LONG_ROWS} packed rows of {LONG}"
    return _ratio("training_precision", fast, exact, what)


def training_step() -> Measurement:
    """Seconds of a step of the zoo's target with dropout, as it is trained on; see `cli/allocation.py`."""
    model = pretrained.load("zoo:target").model
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, dropout_rate=0.1))
    batch = next(DataConfig("embedded_mixture", LONG, pack=True).train_batches(LONG_ROWS, seed=0))
    step = our_step(make_supervised_loss(model, dropout=True, z_loss=Z_LOSS), "zoo:target", batch, BFLOAT16)
    jax.block_until_ready(step())
    what = (
        f"seconds of a supervised step of the zoo's target, {LONG_ROWS} packed rows of {LONG}, dropout 0.1, "
    )
    what += f"{BFLOAT16}, GLIBC_TUNABLES={os.environ.get('GLIBC_TUNABLES', '')}, {TURNS} steps"
    return Measurement("training_step", *median_interval([_seconds(step) for _ in range(TURNS)]), what)


def losses(count: int = 3) -> list[float]:
    """The loss of each of some distillation steps on the references, from the zoo's draft on.

    Products are exact, so that devices can be compared.
    """
    with precision("highest"):
        step = our_step(distillation_loss(Fixed()))
        return [float(step()["loss"].compute()) for _ in range(count)]


def distillation_loss(source: DataSource) -> LossFn:
    """Forward KL of the zoo's draft from its target."""
    target = pretrained.load(TARGET, partitioner=make_partitioner())
    vocabulary = DataConfig(TASK).tokenizer().vocabulary
    return make_distillation_loss(
        pretrained.load(DRAFT).model, target.model, target.params, ForwardKL(), source, vocabulary=vocabulary
    )


def _batch() -> dict[str, np.ndarray]:
    return next(DataConfig(TASK).train_batches(ROWS, seed=0))


def our_step(
    loss_fn: LossFn,
    start: str = DRAFT,
    rows: dict[str, np.ndarray] | None = None,
    matmul_precision: str | None = None,
) -> Step:
    """Our train step on one batch, from a checkpoint on."""
    partitioner = make_partitioner()
    draft = pretrained.load(start, partitioner=partitioner)
    shardings = registry.shardings(draft.model, partitioner)
    optimizer = optimizers.adamw(1e-4)
    state, state_shardings = create_state(draft.params, shardings, optimizer, partitioner)
    step = make_train_step(optimizer, partitioner, state_shardings, 0, matmul_precision=matmul_precision)
    batch = partitioner.put_batch(rows or _batch())

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, batch, loss_fn)
        return metrics

    return call


def _t5x_style() -> Step:
    """`trainer.train_with_lr` of T5X around `EncoderDecoderModel.loss_fn`, with its cross-entropy."""
    draft = pretrained.load(DRAFT)
    optimizer = optimizers.adamw(1e-4)

    def loss_fn(params: Params, batch: dict[str, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        logits_BTV = draft.model.logits(params, batch)
        targets_BT, weights_BT = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        one_hot_BTV = jax.nn.one_hot(targets_BT, logits_BTV.shape[-1])
        loss_BT, z_loss_BT = _cross_entropy(logits_BTV, one_hot_BTV)
        correct_BT = (jnp.argmax(logits_BTV, -1) == targets_BT) * weights_BT
        sums = jnp.sum(loss_BT * weights_BT), jnp.sum(z_loss_BT * weights_BT), jnp.sum(correct_BT)
        return sums[0], (jnp.sum(weights_BT), *sums[1:])

    def train_step(params: Params, moments: Any, batch: dict[str, Array]) -> Any:
        (loss, (weight, *sums)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params, batch)
        gradient = jax.tree.map(lambda g: g / weight, gradient)
        updates, moments = optimizer.update(gradient, moments, params)
        params = optax.apply_updates(params, updates)
        metrics = loss, weight, *sums, optax.tree.norm(gradient)
        return params, moments, metrics

    donating = jax.jit(train_step, donate_argnums=(0, 1))
    params, batch = draft.params, jax.device_put(_batch())
    moments = optimizer.init(params)

    def call() -> Any:
        nonlocal params, moments
        params, moments, metrics = donating(params, moments, batch)
        return metrics

    return call


@jax.custom_vjp
def _cross_entropy(logits_BTV: Array, targets_BTV: Array) -> tuple[Array, Array]:
    """Cross-entropy with z-loss, `(loss, z_loss)`, both `[B, T]`; its gradient is T5X's closed form."""
    return _cross_entropy_forward(logits_BTV, targets_BTV)[0]


def _cross_entropy_forward(logits_BTV: Array, targets_BTV: Array) -> Any:
    shifted = logits_BTV - jnp.max(logits_BTV, axis=-1, keepdims=True)
    exponents = jnp.exp(shifted)
    sum_exponents = jnp.sum(exponents, axis=-1, keepdims=True)
    log_softmax = shifted - jnp.log(sum_exponents)
    loss = -jnp.sum(targets_BTV * log_softmax, axis=-1)
    log_z = jnp.squeeze(jnp.log(sum_exponents) + jnp.max(logits_BTV, axis=-1, keepdims=True), -1)
    z_loss = Z_LOSS * jnp.square(log_z)
    return (loss + z_loss, z_loss), (targets_BTV, exponents, sum_exponents, log_z)


def _cross_entropy_backward(saved: Any, cotangents: tuple[Array, Array]) -> tuple[Array, None]:
    targets_BTV, exponents, sum_exponents, log_z = saved
    factor = jnp.expand_dims(1 + 2 * Z_LOSS * log_z, -1)
    return jnp.expand_dims(cotangents[0], -1) * (factor * exponents / sum_exponents - targets_BTV), None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _ratio(id: str, top: Step, bottom: Step, what: str) -> Measurement:
    """Median of top's seconds over bottom's, turn by turn; compilation is before the first."""
    for step in (top, bottom, top, bottom):
        jax.block_until_ready(step())
    pairs = [(_seconds(top), _seconds(bottom)) for _ in range(TURNS)]
    times = [f"{1e3 * np.median(column):.0f} ms" for column in zip(*pairs, strict=True)]
    found = median_interval([a / b for a, b in pairs])
    return Measurement(id, *found, f"{what}: {times[0]} over {times[1]}, median of {TURNS} turns")


def _seconds(step: Step) -> float:
    began = time.perf_counter()
    jax.block_until_ready(step())
    return time.perf_counter() - began
