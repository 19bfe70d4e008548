"""How far counts are from a distribution: the G test, with its false alarms and its power."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from scipy import stats

Cell = tuple[int, ...]

LEAST_EXPECTED = 5.0
"""Cells expected more rarely are pooled, so that the statistic is chi-square."""


def g_test(counts: Counter[Cell], distribution: Mapping[Cell, float]) -> float:
    """The p-value of `counts` under `distribution`; 0 if anything impossible was seen."""
    if any(distribution.get(cell, 0.0) <= 0 for cell in counts):
        return 0.0
    expected = np.array(list(distribution.values())) * counts.total()
    groups = _groups(expected)
    observed = _sums(np.array([counts[cell] for cell in distribution], float), groups)
    expected = _sums(expected, groups)
    if len(expected) == 1:
        return 1.0
    seen = observed > 0
    g = 2 * np.sum(observed[seen] * np.log(observed[seen] / expected[seen]))
    return float(stats.chi2.sf(g, len(expected) - 1))


def power(
    distribution: Mapping[Cell, float], wrong: Mapping[Cell, float], total: int, false_alarm: float
) -> float:
    """The chance that `total` draws from `wrong` are told from `distribution` (by the noncentral
    chi-square)."""
    expected = np.array(list(distribution.values())) * total
    groups = _groups(expected)
    shifted = _sums(np.array([wrong.get(cell, 0.0) for cell in distribution]) * total, groups)
    expected = _sums(expected, groups)
    freedom = len(expected) - 1
    noncentrality = np.sum((shifted - expected) ** 2 / expected)
    return float(stats.ncx2.sf(stats.chi2.isf(false_alarm, freedom), freedom, noncentrality))


def _groups(expected: np.ndarray) -> np.ndarray:
    """A group number for each cell: one for the rarest together, one of its own for every other."""
    order = np.argsort(expected, kind="stable")
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    ascending = expected[order]
    enough = (np.cumsum(ascending) >= LEAST_EXPECTED) & (np.append(ascending[1:], np.inf) >= LEAST_EXPECTED)
    return np.maximum(rank - np.argmax(enough), 0)


def _sums(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    return np.bincount(groups, weights=values)
