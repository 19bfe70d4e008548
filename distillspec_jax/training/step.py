"""The train state and the jitted train step: any loss, any optimizer, accumulation, shardings.

A loss is `loss_fn(params, batch, key) -> (loss_sum, weight_sum, metrics)`. It returns sums, so accumulation
over microbatches and hosts is exact. Other arrays that a loss needs (a frozen target's parameters) are leaves
of a `jax.tree_util.Partial`: arguments of the step, never constants.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from distillspec_jax import metrics as metrics_lib
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.metrics import Mean
from distillspec_jax.models.projection import precision
from distillspec_jax.partitioning import Partitioner
from distillspec_jax.shapes import Array, Params

LossFn = Callable[[Params, dict[str, Array], Array], tuple[Array, Array, dict[str, Mean]]]
"""Maps parameters, a batch and a key to the loss's sum, its weight, and metrics; a pytree (`Partial`).

In training the batch has an additional feature `step`: int32 `[B]`, the number of steps taken before this
one, the same in every row. It lets a loss change during training, however a batch is split.

Training requires one metric by name, `row_tokens`: see `row_tokens`.
"""


@flax.struct.dataclass
class TrainState:
    """The state that a step reads and writes.

    Attributes:
      step: int32 scalar, optimizer steps taken. It determines the keys and the data position.
      params: the model's parameters, float32, with T5X's names.
      optimizer: the optax state of the trained parameters.

    The same class holds a state's shardings, leaf by leaf.
    """

    step: Any
    params: Params
    optimizer: Any


def row_tokens(weights_BT: Array) -> Mean:
    """Computes the metric `row_tokens`: mean number of loss tokens per row, over rows that have any."""
    count_B = jnp.sum(weights_BT > 0, axis=1).astype(jnp.float32)
    return Mean(jnp.sum(count_B), jnp.sum(count_B > 0).astype(jnp.float32))


def divided(params: Params, frozen: Collection[str]) -> tuple[Params, Params]:
    """Splits a tree of parameters into a trained part and the part with these top-level names.

    Raises:
      UsageError: a name is unknown, or nothing is left to train.
    """
    if not frozen:
        return params, {}
    for name in frozen:
        if name not in params:
            raise UsageError(f"FROZEN: the network has no parameters {name!r}: {nearest(name, params)}")
    trained = {name: node for name, node in params.items() if name not in frozen}
    if not trained:
        raise UsageError(f"FROZEN={tuple(frozen)}: nothing is left to train")
    return trained, {name: params[name] for name in frozen}


def joined(trained: Params, rest: Params) -> Params:
    """Inverts `divided`."""
    return {**trained, **rest} if rest else trained


def create_state(
    params: Params,
    shardings: Params,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    frozen: Collection[str] = (),
) -> tuple[TrainState, TrainState]:
    """Makes a state at step 0 and the tree of its shardings."""
    _, state_shardings = describe_state(params, shardings, optimizer, partitioner, frozen)
    trained, _ = divided(params, frozen)
    moments = jax.jit(optimizer.init, out_shardings=state_shardings.optimizer)(trained)
    step = jax.device_put(jnp.zeros((), jnp.int32), partitioner.replicated)
    return TrainState(step=step, params=params, optimizer=moments), state_shardings


def describe_state(
    params: Params,
    shardings: Params,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    frozen: Collection[str] = (),
) -> tuple[TrainState, TrainState]:
    """Computes shapes and shardings of `create_state`'s state from parameter shapes; allocates nothing."""
    trained, _ = divided(params, frozen)
    moments = jax.eval_shape(optimizer.init, trained)
    state = TrainState(step=jax.ShapeDtypeStruct((), jnp.int32), params=params, optimizer=moments)
    state_shardings = TrainState(
        step=partitioner.replicated,
        params=shardings,
        optimizer=partitioner.like(trained, divided(shardings, frozen)[0], moments),
    )
    return state, state_shardings


def make_train_step(
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    state_shardings: TrainState,
    seed: int,
    microbatches: int = 1,
    matmul_precision: str | None = None,
    frozen: Collection[str] = (),
) -> Any:
    """Makes the jitted `(state, batch, loss_fn) -> (state, metrics)`; the state's buffers are donated.

    A step with a non-finite loss or gradient only increments the step number; the loop decides what to do
    about it.

    The `LossFn` is differentiated with respect to the parameters that are not frozen.

    Args:
      optimizer: optax transformation.
      partitioner: gives the batch's sharding.
      state_shardings: from `create_state`.
      seed: step n uses `fold_in(key(seed), n)`, so a resumed run uses the same keys.
      microbatches: split each batch into this many parts and accumulate their gradients.
      matmul_precision: of the loss and its gradient; None: JAX's own setting.
      frozen: top-level names of parameters that are not trained; they have no optimizer state.
    """

    def gradients(loss_fn: LossFn, params: Params, batch: dict[str, Array], key: Array) -> Any:
        trained, rest = divided(params, frozen)

        def loss(trained: Params) -> Any:
            loss_sum, weight_sum, metrics = loss_fn(joined(trained, rest), batch, key)
            return loss_sum, (loss_sum, weight_sum, metrics)

        grads, (loss_sum, weight_sum, metrics) = jax.grad(loss, has_aux=True)(trained)
        return grads, weight_sum, metrics | {"loss": Mean(loss_sum, weight_sum)}

    def accumulated(loss_fn: LossFn, params: Params, batch: dict[str, Array], key: Array) -> Any:
        part_gradients = functools.partial(gradients, loss_fn, params)
        if microbatches == 1:
            return part_gradients(batch, key)
        parts = jax.tree.map(lambda x: x.reshape(microbatches, -1, *x.shape[1:]), batch)
        keys = jax.random.split(key, microbatches)
        first = jax.tree.map(lambda x: x[0], parts)
        zero = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part_gradients, first, keys[0])
        )

        def add(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, part_gradients(*part)), None

        return jax.lax.scan(add, zero, (parts, keys))[0]

    def train_step(
        state: TrainState, batch: dict[str, Array], loss_fn: LossFn
    ) -> tuple[TrainState, dict[str, Mean]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        rows = jax.tree.leaves(batch)[0].shape[0]
        batch = {**batch, "step": jnp.broadcast_to(state.step, rows)}
        with precision(matmul_precision):
            grads, weight, metrics = accumulated(loss_fn, state.params, batch, key)
        grads = jax.tree.map(lambda g: g / jnp.maximum(weight, 1e-9), grads)
        before, rest = divided(state.params, frozen)
        updates, moments = optimizer.update(grads, state.optimizer, before)
        params = optax.apply_updates(before, updates)
        norm = optax.tree.norm(grads)
        metrics["gradient_norm"] = Mean(norm, jnp.ones((), jnp.float32))
        finite = jnp.isfinite(metrics["loss"].total) & jnp.isfinite(weight) & jnp.isfinite(norm)
        params, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (params, moments), (before, state.optimizer)
        )
        return TrainState(step=state.step + 1, params=joined(params, rest), optimizer=moments), metrics

    return jax.jit(
        train_step,
        in_shardings=(state_shardings, partitioner.batch, None),
        out_shardings=(state_shardings, partitioner.replicated),
        donate_argnums=0,
    )


def check_microbatches(batch_size: int, microbatches: int) -> None:
    """Raises UsageError if a batch cannot be split into this many equal parts."""
    if microbatches < 1 or batch_size % microbatches:
        raise UsageError(f"MICROBATCHES={microbatches} does not divide BATCH_SIZE={batch_size}")


@jax.jit
def _measure(loss_fn: LossFn, params: Params, batch: dict[str, Array]) -> dict[str, Mean]:
    loss_sum, weight_sum, metrics = loss_fn(params, batch, jax.random.key(0))
    return metrics | {"loss": Mean(loss_sum, weight_sum)}


def evaluate(loss_fn: LossFn, params: Params, batches: Iterable[dict[str, Array]]) -> dict[str, Mean]:
    """Merges a loss's metrics over evaluation batches; sums are exact over all batches, not mean of means."""
    total: dict[str, Mean] = {}
    for batch in batches:
        total = metrics_lib.merge(total, metrics_lib.to_host(_measure(loss_fn, params, batch)))
    return total
