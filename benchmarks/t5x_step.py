"""`python -m benchmarks.t5x_step T5X_FOLDER`: our supervised step beside T5X's own, in turns.

T5X's is its public source, as it is: `trainer.train_with_lr` around `models.EncoderDecoderModel`,
`examples.t5.network` and `adafactor.Adafactor`, in one jit that donates its state, with the z-loss of its
`t5_1_1` gin files. Ours is the step that `finetune` runs, with Adafactor, too. Both begin from the same
weights, take the same packed batch of the embedded tasks, draw dropout at the same rate, and must agree on
the loss without it. Each runs in float32; T5X also with the activations in bfloat16 that its gin files set,
ours also with MATMUL_PRECISION='BF16_BF16_F32'.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measurement import median_interval
from benchmarks.t5x_source import T5X
from distillspec_jax.cli import errors
from distillspec_jax.data.data_config import DataConfig
from distillspec_jax.models import registry
from distillspec_jax.models.projection import BFLOAT16
from distillspec_jax.models.t5 import EncoderDecoder, T5Config, init_params
from distillspec_jax.partitioning import make_partitioner
from distillspec_jax.shapes import Params
from distillspec_jax.training import optimizers
from distillspec_jax.training.step import create_state, make_train_step
from distillspec_jax.training.supervised import make_supervised_loss

NETWORKS: Mapping[str, T5Config] = {
    "zoo_target": T5Config(
        vocab_size=4096,
        emb_dim=256,
        num_heads=4,
        head_dim=64,
        num_encoder_layers=3,
        num_decoder_layers=4,
        mlp_dim=512,
        mlp_activations=("gelu", "linear"),
        logits_via_embedding=True,
    ),
    "t5_1_1_small": T5Config(vocab_size=32128),
}
Z_LOSS, RATE = 1e-4, 1e-3

Batch = dict[str, np.ndarray]
Step = Callable[[], Any]


def ours(config: T5Config, params: Params, batch: Batch, precision: str | None) -> Step:
    """Our train step, each call of which takes the next."""
    model, partitioner = EncoderDecoder(config), make_partitioner()
    loss_fn = make_supervised_loss(model, dropout=config.dropout_rate > 0, z_loss=Z_LOSS)
    optimizer = optimizers.adafactor(RATE)
    shardings = registry.shardings(model, partitioner)
    placed = jax.device_put(jax.tree.map(jnp.copy, params), shardings)  # the step gives them away
    state, state_shardings = create_state(placed, shardings, optimizer, partitioner)
    step = make_train_step(optimizer, partitioner, state_shardings, 0, matmul_precision=precision)
    rows = partitioner.put_batch(batch)

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, rows, loss_fn)
        return metrics

    return call


def theirs(t5x: T5X, config: T5Config, params: Params, batch: Batch, dtype: str) -> Step:
    """T5X's train step, likewise."""
    model = _their_model(t5x, config, dtype)
    shapes = {name: array.shape for name, array in batch.items() if "input" in name or "target" in name}
    made = model.get_initial_variables(jax.random.key(0), shapes)
    state = t5x.train_state.FlaxOptimTrainState.create(
        model.optimizer_def, {**made, "params": jax.tree.map(jnp.copy, params)}
    )
    step = jax.jit(
        functools.partial(t5x.trainer.train_with_lr, model=model, num_microbatches=None), donate_argnums=0
    )
    rows, rate, key = jax.device_put(batch), jnp.float32(RATE), jax.random.key(0)

    def call() -> Any:
        nonlocal state
        state, metrics = step(state, rows, rate, jax.random.fold_in(key, state.step))
        return metrics

    return call


def _their_model(t5x: T5X, config: T5Config, dtype: str) -> Any:
    fields = {one.name for one in dataclasses.fields(t5x.network.T5Config)} - {"dtype"}
    sizes = {name: getattr(config, name) for name in fields if hasattr(config, name)}
    network = t5x.network.Transformer(t5x.network.T5Config(**sizes, dtype=dtype))
    rules = t5x.adafactor.standard_logical_factor_rules()
    optimizer = t5x.adafactor.Adafactor(decay_rate=0.8, step_offset=0, logical_factor_rules=rules)
    return t5x.models.EncoderDecoderModel(network, None, None, optimizer, z_loss=Z_LOSS)


def losses(t5x: T5X, config: T5Config, params: Params, batch: Batch) -> tuple[float, float]:
    """Summed losses of both in float32, without dropout."""
    rows = jax.device_put(batch)
    loss_fn = make_supervised_loss(EncoderDecoder(config), dropout=False, z_loss=Z_LOSS)
    mine = jax.jit(lambda p, b: loss_fn(p, b, jax.random.key(0))[0])(params, rows)
    model = _their_model(t5x, config, "float32")
    other = jax.jit(lambda p, b: model.loss_fn(p, b, None)[0])(params, rows)
    return float(mine), float(other)


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.t5x_step", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="T5X_FOLDER")
    parser.add_argument("--network", choices=sorted(NETWORKS), default="zoo_target")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--inputs", type=int, default=384, help="tokens of a packed row's inputs")
    parser.add_argument("--targets", type=int, default=288)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--turns", type=int, default=7)
    flags = parser.parse_args(argv)
    config = dataclasses.replace(NETWORKS[flags.network], dropout_rate=flags.dropout)
    lengths = {"inputs": flags.inputs, "targets": flags.targets}
    batch = next(DataConfig("embedded_mixture", lengths, pack=True).train_batches(flags.rows, seed=0))
    t5x, params = T5X(flags.folder), init_params(EncoderDecoder(config), jax.random.key(0))
    mine, other = losses(t5x, config, params, batch)
    if abs(mine / other - 1) > 1e-4:
        raise AssertionError(f"not the same network: losses {mine} and {other}")
    systems = {
        "T5X, float32": theirs(t5x, config, params, batch, "float32"),
        "ours, float32": ours(config, params, batch, None),
        "T5X, bfloat16 (its gin files')": theirs(t5x, config, params, batch, "bfloat16"),
        f"ours, {BFLOAT16}": ours(config, params, batch, BFLOAT16),
    }
    taken = timed(list(systems.values()), flags.turns)
    what = f"{flags.network}, {flags.rows} packed rows of {lengths}, dropout {flags.dropout:g}, Adafactor"
    print(f"{what}; losses without dropout {mine:.2f} and {other:.2f}\n")
    print(
        "| step | s, median | tokens a second | T5X, float32, over it | T5X, bfloat16, over it |\n"
        "|---|---|---|---|---|"
    )
    tokens = flags.rows * (flags.inputs + flags.targets)
    for name, column in zip(systems, taken.T, strict=True):
        ratios = [median_interval(taken[:, i] / column) for i in (0, 2)]
        told = " | ".join(f"×{value:.2f} ({low:.2f}–{high:.2f})" for value, low, high in ratios)
        print(f"| {name} | {np.median(column):.3f} | {tokens / np.median(column):,.0f} | {told} |")
    return 0


def timed(systems: list[Step], turns: int) -> np.ndarray:
    """Seconds `[turns, systems]`, one after the other in every turn; two calls before the first compile."""
    for system in systems * 2:
        jax.block_until_ready(system())

    def seconds(system: Step) -> float:
        began = time.perf_counter()
        jax.block_until_ready(system())
        return time.perf_counter() - began

    return np.array([[seconds(system) for system in systems] for _ in range(turns)])


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.t5x_step"))
