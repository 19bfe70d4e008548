"""Times the loops of a `Runner`: seconds per round and per start at each block size."""

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
"""A temperature at which the distribution is nearly uniform, so EOS is rare."""


def round_costs(runner: Runner, state: State, rounds: int, repeats: int = 7) -> RoundCosts:
    """Measures a round of every block size, including 0, starting from a state, which is left unchanged.

    Every loop runs once to compile and then once per turn, each time after an untimed one. The speed of a
    shared machine varies, so each size is compared with autoregressive decoding in the same turn, and the
    result is the median. It includes a run's fixed cost spread over its rounds, as in real decoding. The
    temperature is set so high that texts hardly ever end, and limits as wide as the room for outputs: neither
    affects the cost of a round, and a row that has ended would do none.

    Args:
      rounds: rounds per run.
      repeats: number of turns; the result is their median.
    """
    state = _endless(state)
    begun = int(jnp.max(state.counts.rounds_B))
    turns: list[dict[int, float]] = []
    for _ in range(repeats + 1):
        turns.append({})
        for size in runner.block_sizes:
            jax.block_until_ready(runner.run(jax.tree.map(jnp.copy, state), size, 1, 1))
            copy = jax.block_until_ready(jax.tree.map(jnp.copy, state))
            began = time.perf_counter()
            after = jax.block_until_ready(runner.run(copy, size, rounds, 1))
            seconds = time.perf_counter() - began
            turns[-1][size] = seconds / max(int(jnp.max(after.counts.rounds_B)) - begun, 1)
    del turns[0]  # it included compilation
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

    The slots are filled one by one, because rows of a batch rarely end together and each new row is
    prefilled separately. The following run is expensive to start (dispatch, and weights that prefill has
    evicted from the cache), so the extra time of its first round over any other is included.

    Args:
      prompt_BT: one prompt per slot.
      settings: the rows' settings.
      width: room for output tokens.
      reading_B: width at which each prompt is prefilled.
      round_seconds: seconds per round of every size, see `round_costs`.
      repeats: number of turns; the result is their median.
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
    median = {size: float(np.median(times[1:])) for size, times in taken.items()}  # without compilation
    return {size: median[size if size in median else largest] for size in runner.block_sizes}


def _endless(state: State) -> State:
    rows, settings = state.rows, state.rows.settings
    distribution = dataclasses.replace(
        settings.distribution, temperature=jnp.full_like(settings.distribution.temperature, _ENDLESS)
    )
    limit_B = jnp.where(jnp.asarray(settings.limit_B) > 0, rows.output_BT.shape[1], 0).astype(jnp.int32)
    settings = dataclasses.replace(settings, distribution=distribution, limit_B=limit_B)
    return dataclasses.replace(state, rows=dataclasses.replace(rows, settings=settings))
