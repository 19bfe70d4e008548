"""What the exactness tests run: families x block sizes, each one batch of all cells, decoded once."""

from __future__ import annotations

import functools

import pytest

from distillspec_jax.decoding import AutoregressiveLoop, Loop, SpeculativeLoop, State
from tests.exactness.families import FAMILIES, PROMPTS, Family, family
from tests.exactness.goodness import Cell
from tests.exactness.joint import EVERY_ROUND, LIMITS, Law, batch, exact_joint, run

FALSE_ALARM = 1e-4
"""Probability, over seeds, with which a sound sampler fails one test. The seeds are fixed: it never does."""

REPEATS = 3000
"""Rows a cell; what that many can see is computed in `test_power.py`."""

SEED = 1

LAWS = (Law(1.0), Law(0.7), Law(1.5, top_k=3), Law(1.0, top_p=0.8), Law(0.7, top_k=4, top_p=0.9), Law(0.0))
CELLS = [(prompt, law) for prompt in range(len(PROMPTS)) for law in LAWS]

BLOCK_SIZES = (0, 1, 2, 3, 5)
"""0 is autoregressive decoding. Limits are 3 and 4, so 5 is always cut inside the block."""

EVERY_DAY = {"prefix": (0, 2, 5)}
"""What runs by default; of any other family, block size 2."""

GRID = [
    pytest.param(name, size, marks=() if size in EVERY_DAY.get(name, (2,)) else pytest.mark.slow)
    for name in FAMILIES
    for size in BLOCK_SIZES
]
SPECULATIVE_GRID = [point for point in GRID if point.values[1]]


def make_loop(pair: Family, block_size: int) -> Loop:
    """The loop of a block size."""
    if block_size == 0:
        return AutoregressiveLoop(pair.target)
    return SpeculativeLoop(pair.target, pair.drafter, block_size=block_size)


@functools.cache
def decoded(name: str, block_size: int, max_rounds: int = EVERY_ROUND) -> State:
    """The state of all cells, interleaved row by row, at the end or after some rounds; compiled once."""
    prompt_BT, requests = batch(CELLS, REPEATS, SEED)
    return run(make_loop(family(name), block_size), family(name).params, prompt_BT, requests, max_rounds)


@functools.cache
def exact(name: str, prompt: int, law: Law) -> dict[Cell, float]:
    """The exact law of a cell."""
    return exact_joint(family(name), PROMPTS[prompt], LIMITS[prompt], law)
