"""The joint law of whole outputs, against enumeration.

Every test compares one batch of all `CELLS` (prompts of unequal length x laws, interleaved row by row) with
the exact law of each cell.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.exactness.families import VOCAB, family
from tests.exactness.goodness import Cell, g_test
from tests.exactness.grid import CELLS, FALSE_ALARM, GRID, REPEATS, SPECULATIVE_GRID, decoded, exact
from tests.exactness.joint import EOS, counts_of_cell, outputs


@pytest.mark.parametrize("name, block_size", GRID)
def test_every_row_of_the_batch_follows_its_own_exact_law(name: str, block_size: int) -> None:
    state = decoded(name, block_size)
    for i, (prompt, law) in enumerate(CELLS):
        counts = counts_of_cell(state, i, len(CELLS))
        p_value = g_test(counts, exact(name, prompt, law))
        assert p_value > FALSE_ALARM / len(CELLS), f"prompt {prompt}, {law}: p = {p_value:.2g}"


@pytest.mark.parametrize("name, block_size", GRID)
def test_rows_with_equal_prompts_are_independent(name: str, block_size: int) -> None:
    """First two tokens of two rows of one cell: their joint law is the product of their laws."""
    heads = [tuple(output[:2]) for output in outputs(decoded(name, block_size))]
    for i, (prompt, law) in enumerate(CELLS):
        head_law: Counter[Cell] = Counter()
        for output, probability in exact(name, prompt, law).items():
            head_law[output[:2]] += probability
        product = {(*a, 0, *b): p * q for a, p in head_law.items() for b, q in head_law.items()}
        rows = heads[i :: len(CELLS)]
        pairs = Counter((*a, 0, *b) for a, b in zip(rows[::2], rows[1::2], strict=True))
        assert g_test(pairs, product) > FALSE_ALARM / len(CELLS), f"prompt {prompt}, {law}"


@pytest.mark.parametrize("name, block_size", GRID)
def test_emitted_tokens_are_accounted_for(name: str, block_size: int) -> None:
    state = decoded(name, block_size)
    counts, rows = state.counts, state.rows
    tested, accepted = np.asarray(counts.tested_BG), np.asarray(counts.accepted_BG)
    rounds, cut = np.asarray(counts.rounds_B), np.asarray(counts.cut_B)
    emitted, limit = np.asarray(rows.emitted_B), np.asarray(rows.requests.limit_B)
    ended_by_eos = np.array([output[-1] == EOS for output in outputs(state)])
    assert np.array_equal(emitted, accepted.sum(1) + rounds - cut)
    assert (cut <= 1).all()
    assert ((emitted == limit) | ended_by_eos).all()
    assert (emitted <= limit).all()
    assert (accepted <= tested).all()
    assert (np.diff(accepted, axis=1) <= 0).all()
    # A position is tested only if the one before it was accepted, and only if room was left for it.
    assert (tested[:, 1:] <= accepted[:, :-1]).all()
    assert (tested.sum(1) <= emitted).all()
    if block_size == 0:
        assert np.array_equal(rounds, emitted)


@pytest.mark.parametrize("name, block_size", SPECULATIVE_GRID)
def test_at_temperature_0_the_output_is_the_autoregressive_one(name: str, block_size: int) -> None:
    for i, (prompt, law) in enumerate(CELLS):
        if law.temperature == 0:
            (expected,) = (output for output, p in exact(name, prompt, law).items() if p == 1)
            assert counts_of_cell(decoded(name, block_size), i, len(CELLS)) == {expected: REPEATS}


def test_vocabulary_of_the_suite() -> None:
    """Padded rows of the embedding exist, and differ between target and draft."""
    pair = family("t5")
    assert VOCAB < pair.draft.vocab_size < pair.target.vocab_size
