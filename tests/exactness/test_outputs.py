"""Whole outputs: their joint distribution, against enumeration, and a row's independence of its company.

Every test looks at one batch of all `CELLS` (prompts of unequal length x distributions, interleaved row by
row), which is decoded once for each point of the grid.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping

import jax
import numpy as np
import pytest

from distillspec_jax.decoding import PairParams, Status
from distillspec_jax.shapes import Array
from tests.exactness.families import PROMPTS, VOCAB, family
from tests.exactness.goodness import Cell, g_test
from tests.exactness.grid import (
    BLOCK_SIZES,
    CELLS,
    EVERY_DISTRIBUTION,
    FALSE_ALARM,
    GRID,
    HYBRID,
    REPEATS,
    RULES,
    SEED,
    SPECULATIVE_GRID,
    TOKEN_BY_TOKEN,
    decoded,
    exact,
    loop_params,
    make_loop,
)
from tests.exactness.joint import (
    EOS,
    EVERY_ROUND,
    LIMITS,
    batch,
    counts_of_cell,
    decode,
    exact_first_round,
    outputs,
    run_few,
)

ROWS = 36
"""Both tests run batches of so many rows, so that each point of the grid compiles once more, and quickly."""

IN_COMPANY = [
    pytest.param(*point.values, marks=pytest.mark.slow if point.values[2] == HYBRID else point.marks)
    for point in GRID
]
"""The grid of these two. A hybrid compiles longest; `candidates` has its rule, its joint test its streams."""

FAULT = VOCAB
"""An id of both tables that no distribution draws: it is met where a prompt holds it, and nowhere else."""


@pytest.mark.parametrize("name, block_size, rule", GRID)
def test_every_row_of_the_batch_follows_its_own_exact_distribution(
    name: str, block_size: int, rule: str
) -> None:
    state = decoded(name, block_size, rule)
    for i, (prompt, distribution) in enumerate(CELLS):
        counts = counts_of_cell(state, i, len(CELLS))
        p_value = g_test(counts, exact(name, prompt, distribution))
        assert p_value > FALSE_ALARM / len(CELLS), f"prompt {prompt}, {distribution}: p = {p_value:.2g}"


@pytest.mark.slow
@pytest.mark.parametrize("block_size", [size for size in BLOCK_SIZES if size])
@pytest.mark.parametrize("rule", RULES)
def test_every_distribution_of_the_product_is_followed_exactly(block_size: int, rule: str) -> None:
    pair = family("prefix")
    cells = [(prompt, distribution) for prompt in range(len(PROMPTS)) for distribution in EVERY_DISTRIBUTION]
    loop = make_loop(pair, block_size, rule)
    state = decode(loop, loop_params(pair, rule), cells, REPEATS, SEED)
    for i, (prompt, distribution) in enumerate(cells):
        p_value = g_test(counts_of_cell(state, i, len(cells)), exact("prefix", prompt, distribution))
        assert p_value > FALSE_ALARM / len(cells), f"prompt {prompt}, {distribution}: p = {p_value:.2g}"


@pytest.mark.parametrize("name, block_size, rule", GRID)
def test_two_rows_are_independent(name: str, block_size: int, rule: str) -> None:
    """First two tokens of two rows: their joint distribution is the product of their distributions.

    Both for rows of one cell, far apart in the batch, and for neighbours, which are of different cells.
    """
    cells = len(CELLS)
    heads = [tuple(output[:2]) for output in outputs(decoded(name, block_size, rule))]
    distributions = [_head_distribution(exact(name, prompt, distribution)) for prompt, distribution in CELLS]
    for i, j in itertools.chain(*(((k, k), (k, (k + 1) % cells)) for k in range(cells))):
        product = {
            (*a, 0, *b): p * q for a, p in distributions[i].items() for b, q in distributions[j].items()
        }
        # Row 2r of cell i beside row 2r + 1 of the same cell, or beside the very next row.
        step = 2 * cells
        seconds = heads[i + cells :: step] if i == j else heads[i + 1 :: step]
        pairs = Counter((*a, 0, *b) for a, b in zip(heads[i::step], seconds, strict=True))
        assert g_test(pairs, product) > FALSE_ALARM / (2 * cells), f"{CELLS[i]} and {CELLS[j]}"


def _head_distribution(distribution: Mapping[Cell, float]) -> Counter[Cell]:
    heads: Counter[Cell] = Counter()
    for output, probability in distribution.items():
        heads[output[:2]] += probability
    return heads


@pytest.mark.parametrize("name, block_size, rule", TOKEN_BY_TOKEN)
def test_the_first_round_accepts_and_corrects_by_its_exact_distribution(
    name: str, block_size: int, rule: str
) -> None:
    """The joint distribution of where the first rejection falls and what the round emits.

    A draft under another distribution than the target's would leave the outputs exact and be seen here.
    """
    state = decoded(name, block_size, rule, max_rounds=1)
    accepted = np.asarray(state.counts.accepted_BG).sum(1).tolist()
    outcomes = [(n, *output) for n, output in zip(accepted, outputs(state), strict=True)]
    for i, (prompt, distribution) in enumerate(CELLS):
        expected = exact_first_round(family(name), PROMPTS[prompt], LIMITS[prompt], distribution, block_size)
        p_value = g_test(Counter(outcomes[i :: len(CELLS)]), expected)
        assert p_value > FALSE_ALARM / len(CELLS), f"prompt {prompt}, {distribution}: p = {p_value:.2g}"


@pytest.mark.parametrize("name, block_size, rule", GRID)
def test_emitted_tokens_are_accounted_for(name: str, block_size: int, rule: str) -> None:
    state = decoded(name, block_size, rule)
    counts, rows = state.counts, state.rows
    tested, accepted = np.asarray(counts.tested_BG), np.asarray(counts.accepted_BG)
    rounds, cut = np.asarray(counts.rounds_B), np.asarray(counts.cut_B)
    emitted, limit = np.asarray(rows.emitted_B), np.asarray(rows.settings.limit_B)
    ended_by_eos = np.array([output[-1] == EOS for output in outputs(state)])
    assert np.array_equal(emitted, accepted.sum(1) + rounds - cut)
    assert (cut <= 1).all()
    assert ((emitted == limit) | ended_by_eos).all()
    expected_status = np.where(ended_by_eos, Status.ENDED, Status.LENGTH)
    assert np.array_equal(np.asarray(rows.status_B), expected_status)
    assert (emitted <= limit).all()
    assert (accepted <= tested).all()
    assert (np.diff(accepted, axis=1) <= 0).all()
    # A position is tested only if the one before it was accepted, and only if room was left for it.
    assert (tested[:, 1:] <= accepted[:, :-1]).all()
    assert (tested.sum(1) <= emitted).all()
    if block_size == 0:
        assert np.array_equal(rounds, emitted)


@pytest.mark.parametrize("name, block_size, rule", SPECULATIVE_GRID)
def test_at_temperature_0_the_output_is_the_autoregressive_one(name: str, block_size: int, rule: str) -> None:
    for i, (prompt, distribution) in enumerate(CELLS):
        if distribution.temperature == 0:
            (expected,) = (output for output, p in exact(name, prompt, distribution).items() if p == 1)
            assert counts_of_cell(decoded(name, block_size, rule), i, len(CELLS)) == {expected: REPEATS}


@pytest.mark.parametrize("name, block_size, rule", IN_COMPANY)
def test_a_row_in_another_batch_emits_the_same(name: str, block_size: int, rule: str) -> None:
    """36 rows out of thousands, in disorder, so that company, place and batch size all differ."""
    chosen = np.random.default_rng(0).choice(REPEATS * len(CELLS), ROWS, replace=False)
    prompt_BT, settings = batch(CELLS, REPEATS, SEED)
    fewer = jax.tree.map(lambda field: field[chosen], settings)
    pair = family(name)
    loop, params = make_loop(pair, block_size, rule), loop_params(pair, rule)
    state = run_few(loop, params, prompt_BT[chosen], fewer, EVERY_ROUND)
    expected = decoded(name, block_size, rule)
    before = outputs(expected)
    assert outputs(state) == [before[row] for row in chosen]
    for field in dataclasses.fields(state.counts):
        counted, other = (getattr(counts, field.name) for counts in (state.counts, expected.counts))
        np.testing.assert_array_equal(counted, other[chosen])


@pytest.mark.parametrize("name, block_size, rule", IN_COMPANY)
def test_a_row_beside_failing_rows_emits_the_same(name: str, block_size: int, rule: str) -> None:
    """Every fourth prompt begins with an id whose embedding is NaN, in the target and the draft."""
    prompt_BT, settings = batch(CELLS, ROWS // len(CELLS), SEED)
    faulty = np.arange(ROWS) % 4 == 1
    prompt_BT[faulty, 0] = FAULT
    params = PairParams(*jax.tree_util.tree_map_with_path(_with_fault, loop_params(family(name), rule)))
    state = run_few(make_loop(family(name), block_size, rule), params, prompt_BT, settings, EVERY_ROUND)
    assert ((np.asarray(state.rows.status_B) == Status.FAILED) == faulty).all()
    sound = outputs(decoded(name, block_size, rule))
    assert outputs(state) == [() if faulty[row] else sound[row] for row in range(ROWS)]
    assert not np.asarray(state.counts.rounds_B)[faulty].any()


def _with_fault(path: jax.tree_util.KeyPath, leaf: Array) -> Array:
    return jax.numpy.asarray(leaf).at[FAULT].set(np.nan) if "'embed" in jax.tree_util.keystr(path) else leaf


def test_vocabulary_of_the_suite() -> None:
    """Padded rows of the embedding exist, and differ between target and draft."""
    pair = family("t5")
    assert VOCAB < pair.draft.vocab_size < pair.target.vocab_size
