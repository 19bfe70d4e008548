"""Times the loops of a `Runner`: seconds of a round and of a start at each block size."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding.round_costs import RoundCosts
from distillspec_jax.decoding.runner import Runner
from distillspec_jax.decoding.state import RowSettings, State

_ENDLESS = 1e6
"""A temperature at which all ids that may be drawn are about as likely, the end among them."""


def round_costs(runner: Runner, state: State, rounds: int, repeats: int = 7) -> RoundCosts:
    """Measures a round of every block size, 0 among them, from a state on, which stays what it is.

    Every loop runs once to compile and then takes its turns, each after a round that is not timed. A
    shared machine is now faster, now slower: each size is compared with autoregressive decoding in the same
    turn, and the median counts. A run's fixed cost is part of it, as in real decoding, spread over as many
    rounds: texts are drawn at a temperature at which they hardly ever end, and a round costs the same at any.

    Args:
      rounds: of one run.
      repeats: turns, of which the median counts.
    """
    state = _at_temperature(state, _ENDLESS)
    turns: list[dict[int, float]] = []
    for _ in range(repeats + 1):
        turns.append({})
        for size in runner.block_sizes:
            copy = jax.tree.map(jnp.copy, state)
            before = jax.block_until_ready(runner.run(copy, size, 1, 1))
            done = int(jnp.max(before.counts.rounds_B))
            began = time.perf_counter()
            after = jax.block_until_ready(runner.run(before, size, rounds, 1))
            seconds = time.perf_counter() - began
            turns[-1][size] = seconds / max(int(jnp.max(after.counts.rounds_B)) - done, 1)
    del turns[0]  # it compiled
    return RoundCosts.median([RoundCosts(turn) for turn in turns])


def start_seconds(
    runner: Runner,
    prompt_BT: np.ndarray,
    settings: RowSettings,
    width: int,
    reading_B: Sequence[int],
    round_seconds: Mapping[int, float],
    repeats: int,
) -> dict[int, float]:
    """Measures the time to give every slot a new prompt, with the models that each block size needs.

    The slots are filled one by one: in a batch, rows seldom end together, and each row is prefilled
    separately. The run that follows is expensive to start: dispatch, and weights that prefill has driven out
    of the cache. The time of its first round beyond that of any other counts, too.

    Args:
      prompt_BT: one prompt a slot.
      settings: of the rows.
      width: room for output tokens.
      reading_B: width that each prompt is prefilled at.
      round_seconds: of every size, see `round_costs`.
      repeats: turns, of which the median counts.
    """
    (slots, prompt_width), largest = prompt_BT.shape, max(runner.block_sizes)
    sizes = (min(runner.block_sizes), largest)
    one = jax.tree.map(lambda field: field[:1], settings)
    states = {size: runner.read(prompt_BT, settings, width, prompt_width, size) for size in sizes}
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(repeats + 1):
        for size in sizes:
            began = time.perf_counter()
            for slot, reading in enumerate(reading_B):
                prompt_1T = prompt_BT[slot : slot + 1, :reading]
                fresh = runner.read(prompt_1T, one, width, prompt_width, size)
                if slots > 1:
                    fresh = runner.refill(states[size], fresh, np.array([slot], np.int32))
                states[size] = runner.run(fresh, size, 1, 1)
                jax.device_get((states[size].rows.status_B, states[size].rows.emitted_B))
            taken[size].append(time.perf_counter() - began - slots * round_seconds[size])
    median = {size: float(np.median(times[1:])) for size, times in taken.items()}  # the first compiled
    return {size: median[size if size in median else largest] for size in runner.block_sizes}


def _at_temperature(state: State, temperature: float) -> State:
    rows, settings = state.rows, state.rows.settings
    distribution = dataclasses.replace(
        settings.distribution, temperature=jnp.full_like(settings.distribution.temperature, temperature)
    )
    settings = dataclasses.replace(settings, distribution=distribution)
    return dataclasses.replace(state, rows=dataclasses.replace(rows, settings=settings))
