"""Two arms of a rollout: drafts that differ, texts of one distribution."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from distillspec_jax.decoding import PairParams, TokenRule
from tests.decoding.drafted_blocks import ROWS, P, Q, verified
from tests.exactness.families import family
from tests.exactness.goodness import LEAST_EXPECTED, Cell
from tests.exactness.grid import CELLS, FALSE_ALARM, REPEATS, SEED, decoded, make_loop
from tests.exactness.joint import EVERY_ROUND, batch, counts_of_cell, run

BLOCK_SIZE = 5


def p_value(ours: Counter[Cell], theirs: Counter[Cell]) -> float:
    """Computes Pearson's chi-square on the table of two rows, rare texts in one column."""
    cells = sorted(ours | theirs)
    table_2N = np.array([[one[cell] for cell in cells] for one in (ours, theirs)])
    rare_N = table_2N.sum(0) < 2 * LEAST_EXPECTED
    pooled_2N = np.column_stack([table_2N[:, ~rare_N], table_2N[:, rare_N].sum(1)])
    pooled_2N = pooled_2N[:, pooled_2N.sum(0) > 0]
    return 1.0 if pooled_2N.shape[1] == 1 else float(stats.chi2_contingency(pooled_2N).pvalue)


def test_the_next_token_is_the_targets_whatever_drafts() -> None:
    """By a rule that keeps what it likes, the better draft's arm would read otherwise."""
    firsts, accepted = [], []
    for seed, draft_GV in enumerate((Q, Q[:, ::-1])):
        found = verified(TokenRule(), P, draft_GV, 2, seed=seed)
        first: Counter[Cell] = Counter()
        for cell, count in found.items():
            first[cell[:1]] += count
        firsts.append(first)
        accepted.append(sum((len(cell) - 1) * count for cell, count in found.items()))
    assert abs(accepted[0] - accepted[1]) > 0.2 * accepted[0]  # the arms do differ
    assert p_value(*firsts) > FALSE_ALARM
    other: Counter[Cell] = Counter({(token,): round(ROWS * p) for token, p in enumerate(Q[0])})
    assert p_value(firsts[0], other) < 1e-9


@pytest.mark.slow
def test_both_arms_give_texts_of_one_distribution() -> None:
    """A draft that is worse by much changes what is accepted, and nothing that anybody reads."""
    pair = family("prefix")
    stable = decoded("prefix", BLOCK_SIZE)
    worse = {**pair.params.draft, "out_DV": -pair.params.draft["out_DV"]}
    params = PairParams(pair.params.target, worse)
    candidate = run(make_loop(pair, BLOCK_SIZE), params, *batch(CELLS, REPEATS, SEED + 1), EVERY_ROUND)
    counts = [np.asarray(one.counts.accepted_BG).sum() for one in (stable, candidate)]
    assert counts[1] < 0.8 * counts[0]  # the arms do differ
    for i, cell in enumerate(CELLS):
        arms = [counts_of_cell(one, i, len(CELLS)) for one in (stable, candidate)]
        assert p_value(*arms) > FALSE_ALARM / len(CELLS), cell
    # So many texts show a temperature of 0.7 in the place of 1.
    assert [dataclasses.astuple(CELLS[i][1])[0] for i in (0, 1)] == [1.0, 0.7]
    other = [counts_of_cell(stable, i, len(CELLS)) for i in (0, 1)]
    assert p_value(*other) < 1e-9
