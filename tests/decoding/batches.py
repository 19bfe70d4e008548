"""Small ragged batches for tests of the loops, and their compiled entry points."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import Loop, PairParams, RowSettings, SamplingDistribution, State, randomness
from distillspec_jax.models.cpu_forms import compiled
from distillspec_jax.shapes import Array


def padded(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Prompts as one array, 0-padded on the right."""
    prompt_BT = np.zeros((len(prompts), max(map(len, prompts))), np.int32)
    for row_T, prompt in zip(prompt_BT, prompts, strict=True):
        row_T[: len(prompt)] = prompt
    return prompt_BT


@functools.partial(jax.jit, static_argnums=(0, 6))
def start(
    loop: Loop,
    params: PairParams,
    prompt_BT: Array,
    distribution: SamplingDistribution,
    limit_B: Array,
    index_B: Array,
    max_new_tokens: int,
) -> State:
    """A fresh state; row keys come from seed 0 and the rows' indices."""
    keys_B = randomness.row_keys(jax.random.key(0), index_B)
    return loop.init(params, prompt_BT, RowSettings(keys_B, limit_B, distribution), max_new_tokens)


def run(loop: Loop, params: PairParams, state: State, max_rounds: int = 1000) -> State:
    """Runs a state, without donating it."""
    return _run(loop, params, state, max_rounds)


@functools.partial(compiled, static_argnums=0)
def _run(loop: Loop, params: PairParams, state: State, max_rounds: int) -> State:
    return loop.run(params, state, max_rounds)


@jax.jit
def merged(first: State, second: State, from_second_B: Array) -> State:
    """Some rows of one state, the others of another."""
    rows = jnp.arange(len(from_second_B))
    index = jnp.where(from_second_B, rows + len(rows), rows)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b])[index], first, second)


def texts(state: State) -> list[list[int]]:
    """What each row has emitted."""
    output_BT, emitted_B = jax.device_get((state.rows.output_BT, state.rows.emitted_B))
    return [row[:n].tolist() for row, n in zip(output_BT, emitted_B, strict=True)]
