"""`python -m benchmarks.copying`: how soon a small encoder-decoder learns to copy its input.

A network of the zoo from fresh parameters, or from trained ones (`--start`), on rows of 6 to 24 tokens drawn
at random that are to be repeated, with T5X's init and with heads that begin at their neighbours
(`T5Config.relpos_neighbours`). To copy, a decoder has to find the token that it wrote last in the input, and
to take the one behind it: the encoder must tell what stands before each token. Two minutes for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from distillspec_jax.cli import errors
from distillspec_jax.errors import UsageError
from distillspec_jax.models import pretrained
from distillspec_jax.models.interface import shift_right
from distillspec_jax.models.t5 import EncoderDecoder, init_params
from distillspec_jax.shapes import Array, Params
from distillspec_jax.training.supervised import make_supervised_loss

_ROWS, _WIDTH, _SHORTEST = 32, 24, 6
_FIRST_WORD = 300
"""Smaller ids are control symbols, bytes and the like."""
_EOS = 1
_REPORTED = 100


def learned(
    model: EncoderDecoder, params: Params, steps: int, learning_rate: float, seed: int
) -> Iterator[tuple[int, float, float]]:
    """Trains; yields (step, loss, share of tokens that are the likeliest), over the last hundred steps."""
    schedule = optax.warmup_constant_schedule(0.0, learning_rate, 50)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98))
    state, step = optimizer.init(params), _step(model, optimizer)
    rng = np.random.default_rng(seed)
    found: list[Any] = []
    for number in range(1, steps + 1):
        params, state, seen = step(params, state, jnp.asarray(_rows(rng, model.vocab_size)))
        found.append(seen)
        if number % _REPORTED == 0:
            loss, right = np.mean(jax.device_get(found), axis=0)
            yield number, float(loss), float(right)
            found.clear()


def _step(model: EncoderDecoder, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    supervised = make_supervised_loss(model, dropout=False)
    key = jax.random.key(0)  # no dropout asks for one

    def loss_of(params: Params, rows_BT: Array) -> tuple[Array, Array]:
        batch = {
            "encoder_input_tokens": rows_BT,
            "decoder_input_tokens": shift_right(rows_BT),
            "decoder_target_tokens": rows_BT,
            "decoder_loss_weights": rows_BT > 0,
        }
        total, weight, metrics = supervised(params, batch, key)
        right = metrics["token_accuracy"]
        return total / weight, right.total / right.count

    @jax.jit
    def step(params: Params, state: Any, rows_BT: Array) -> tuple[Params, Any, Any]:
        (loss, right), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, rows_BT)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, (loss, right)

    return step


def _rows(rng: np.random.Generator, vocab_size: int) -> np.ndarray:
    rows_BT = np.zeros((_ROWS, _WIDTH + 1), np.int32)
    for row in rows_BT:
        length = rng.integers(_SHORTEST, _WIDTH + 1)
        row[:length], row[length] = rng.integers(_FIRST_WORD, vocab_size, length), _EOS
    return rows_BT


def main(argv: list[str]) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copying", description=__doc__)
    parser.add_argument("--model", default="zoo:target", help="whose shape (default: zoo:target)")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--neighbours", type=float, action="append", help="biases to try (default: 0 and 6)")
    parser.add_argument("--start", help="a checkpoint of that network (default: fresh parameters)")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)
    model = pretrained.network(flags.model, pretrained.read_card(flags.model))
    if not isinstance(model, EncoderDecoder):
        raise UsageError(f"{flags.model}: no encoder-decoder")
    print("| relpos_neighbours | steps | nats a token | tokens right |\n|---|---|---|---|")
    for bias in flags.neighbours or (0.0, 6.0):
        config = dataclasses.replace(model.config, relpos_neighbours=bias)
        begun = dataclasses.replace(model, config=config)
        params = init_params(begun, jax.random.key(flags.seed))
        if flags.start:
            trained = dict(pretrained.load(flags.start).params)
            if bias:
                trained["encoder"] = {**trained["encoder"], "relpos_bias": params["encoder"]["relpos_bias"]}
            params = trained
        for step, loss, right in learned(begun, params, flags.steps, flags.learning_rate, flags.seed):
            print(f"| {bias:g} | {step} | {loss:.2f} | {right:.0%} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(errors.run(main, command="benchmarks.copying"))
