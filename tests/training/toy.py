"""The smallest job that the training loop can run: softmax regression on ragged rows, with noise in the loss.

Everything that a restart must bring back has a part in it: the key (noise on the logits), the data position
(batches are drawn from the step), the optimizer (whichever is given), unequal weights (rows have lengths).
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from distillspec_jax import outputs
from distillspec_jax.cli import distributed, errors
from distillspec_jax.metrics import Mean
from distillspec_jax.partitioning import Partitioner, make_partitioner
from distillspec_jax.shapes import Array, Params
from distillspec_jax.training import throughput
from distillspec_jax.training.loop import LoopConfig, train
from distillspec_jax.training.step import LossFn, row_tokens

VOCAB, ROWS, LENGTH = 7, 4, 5
NOISE = 0.1


def fresh_params(width: int = VOCAB) -> Params:
    """A table of logits: the distribution of the next token given this one."""
    return {"table": jnp.zeros((VOCAB, width)), "bias": jnp.zeros(width)}


def large_params(width: int = 4096) -> Params:
    """So many numbers that they compress to 100 kB."""
    noise = np.random.default_rng(0).normal(size=(VOCAB, width)).astype(np.float32)
    return {"table": jnp.asarray(noise), "bias": jnp.zeros(width)}


def toy_loss(
    params: Params, batch: dict[str, Array], key: Array, noise: float = NOISE
) -> tuple[Array, Array, dict[str, Mean]]:
    weights_BT = batch["decoder_loss_weights"]
    logits_BTV = params["table"][batch["decoder_input_tokens"]] + params["bias"][None, None]
    logits_BTV += noise * jax.random.normal(key, logits_BTV.shape)
    nll_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch["decoder_target_tokens"])
    metrics = {"row_tokens": row_tokens(weights_BT)}
    return jnp.sum(nll_BT * weights_BT), jnp.sum(weights_BT), metrics


LOSS: LossFn = jax.tree_util.Partial(toy_loss)


def batch_at(step: int, rows: int = ROWS) -> dict[str, np.ndarray]:
    """Each token is followed by the next but one; rows of unequal length."""
    rng = np.random.default_rng(step)
    inputs_BT = rng.integers(0, VOCAB, (rows, LENGTH)).astype(np.int32)
    length_B = rng.integers(1, LENGTH + 1, rows)
    return {
        "decoder_input_tokens": inputs_BT,
        "decoder_target_tokens": (inputs_BT + 2) % VOCAB,
        "decoder_loss_weights": (np.arange(LENGTH)[None] < length_B[:, None]).astype(np.float32),
    }


def batches(start_step: int) -> Iterator[dict[str, np.ndarray]]:
    step = start_step
    while True:
        yield batch_at(step)
        step += 1


def held_out(params: Params) -> dict[str, float]:
    return {"first_logit": float(params["table"][0, 0])}


@outputs.one_run
def run(directory: str | Path, **changes: Any) -> Params:
    """`train` with the toy's arguments; `changes` are LoopConfig's fields or `train`'s arguments."""
    directory = Path(outputs.place(directory, folder=True, host=jax.process_index()))
    loop = {"total_steps": 12, "batch_size": ROWS, "log_period": 5, "eval_period": 4, "save_period": 3}
    fields = LoopConfig.__dataclass_fields__
    loop |= {name: changes.pop(name) for name in list(changes) if name in fields}
    partitioner = make_partitioner()
    params = changes.pop("params", None) or fresh_params()
    arguments: dict[str, Any] = {
        "directory": directory,
        "config": LoopConfig(**loop),
        "params": params,
        "param_shardings": replicated(params, partitioner),
        "loss_fn": LOSS,
        "batches": batches,
        "optimizer": optax.adam(optax.linear_schedule(0.3, 0.1, 12)),
        "partitioner": partitioner,
        "evaluate": held_out,
    }
    directory.mkdir(parents=True, exist_ok=True)
    return train(**arguments | changes)


def main(directory: str, *settings: str) -> None:
    """`python -m tests.training.toy DIR total_steps=9 ...`: `run` in a process of its own, or in several."""
    if os.environ.get("DISTILLSPEC_MULTIHOST"):
        distributed.join()
    changes = (setting.split("=") for setting in settings)
    run(directory, **{name: float(value) if "." in value else int(value) for name, value in changes})


def replicated(params: Params, partitioner: Partitioner) -> Params:
    return jax.tree.map(lambda _: partitioner.replicated, params)


def lines(directory: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` less what depends on the clock."""
    found = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in throughput.NAMES} for line in found]


def terminate() -> None:
    """Asks this process to stop, as a scheduler does."""
    signal.raise_signal(signal.SIGTERM)


def interrupting(
    action: Callable[[], None], at_step: int
) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
    """`batches`, doing something while the batch of a step (counted from 1) is asked for."""

    def stream(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(batches(start_step), start=start_step + 1):
            if step == at_step:
                action()
            yield batch

    return stream


def spoilt(
    batches_of: Callable[[int], Iterator[dict[str, np.ndarray]]], at_steps: Container[int], value: float
) -> Callable[[int], Iterator[dict[str, np.ndarray]]]:
    """The stream with weights of NaN (or the like) in some steps."""

    def stream(start_step: int) -> Iterator[dict[str, np.ndarray]]:
        for step, batch in enumerate(batches_of(start_step), start=start_step + 1):
            if step in at_steps:
                batch["decoder_loss_weights"] = batch["decoder_loss_weights"] * np.float32(value)
            yield batch

    return stream


def assert_equal(left: Params, right: Params) -> None:
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(left), jax.device_get(right))


if __name__ == "__main__":
    sys.exit(errors.run(lambda argv: main(*argv) or 0, command="toy"))
