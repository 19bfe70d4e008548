"""A row and its company: alone, elsewhere, or beside rows that fail, it emits the same."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from distillspec_jax.decoding import PairParams, Status
from distillspec_jax.shapes import Array
from tests.exactness.families import VOCAB, family
from tests.exactness.grid import CELLS, GRID, REPEATS, SEED, decoded, loop_params, make_loop
from tests.exactness.joint import EVERY_ROUND, batch, outputs, run_quickly_compiled

ROWS = 36
"""Both tests run batches of so many rows, so that each point of the grid compiles once more, and quickly."""

FAULT = VOCAB
"""An id of both tables that no distribution draws: it is met where a prompt holds it, and nowhere else."""


@pytest.mark.parametrize("name, block_size, rule", GRID)
def test_a_row_in_another_batch_emits_the_same(name: str, block_size: int, rule: str) -> None:
    """36 rows out of thousands, in disorder, so that company, place and batch size all differ."""
    chosen = np.random.default_rng(0).choice(REPEATS * len(CELLS), ROWS, replace=False)
    prompt_BT, settings = batch(CELLS, REPEATS, SEED)
    fewer = jax.tree.map(lambda field: field[chosen], settings)
    pair = family(name)
    loop, params = make_loop(pair, block_size, rule), loop_params(pair, rule)
    state = run_quickly_compiled(loop, params, prompt_BT[chosen], fewer, EVERY_ROUND)
    expected = decoded(name, block_size, rule)
    before = outputs(expected)
    assert outputs(state) == [before[row] for row in chosen]
    for field in dataclasses.fields(state.counts):
        counted, other = (getattr(counts, field.name) for counts in (state.counts, expected.counts))
        np.testing.assert_array_equal(counted, other[chosen])


@pytest.mark.parametrize("name, block_size, rule", GRID)
def test_a_row_beside_failing_rows_emits_the_same(name: str, block_size: int, rule: str) -> None:
    """Every fourth prompt begins with an id whose embedding is NaN, in the target and the draft."""
    prompt_BT, settings = batch(CELLS, ROWS // len(CELLS), SEED)
    faulty = np.arange(ROWS) % 4 == 1
    prompt_BT[faulty, 0] = FAULT
    params = PairParams(*jax.tree_util.tree_map_with_path(_with_fault, loop_params(family(name), rule)))
    state = run_quickly_compiled(
        make_loop(family(name), block_size, rule), params, prompt_BT, settings, EVERY_ROUND
    )
    assert ((np.asarray(state.rows.status_B) == Status.FAILED) == faulty).all()
    sound = outputs(decoded(name, block_size, rule))
    assert outputs(state) == [() if faulty[row] else sound[row] for row in range(ROWS)]
    assert not np.asarray(state.counts.rounds_B)[faulty].any()


def _with_fault(path: jax.tree_util.KeyPath, leaf: Array) -> Array:
    return jax.numpy.asarray(leaf).at[FAULT].set(np.nan) if "'embed" in jax.tree_util.keystr(path) else leaf
