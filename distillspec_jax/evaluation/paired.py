"""Paired bootstrap over prompts.

Prompts are the independent units; tokens within a prompt are not, nor are several texts of one prompt: where
prompts repeat, `clusters` says which entries to sum into one unit. Every statistic here is a smooth function
of *sums over prompts* (a pooled ratio, a ratio of two pooled ratios, a difference of means), so a resample is
one row of counts times the matrix of per-prompt columns. That matrix holds the columns of both systems on the
same prompts, which pairs them.

Intervals are bias-corrected and accelerated (BCa; Efron 1987), at 95 % unless stated otherwise. Percentiles
are expanded for small numbers of prompts (Hesterberg 2015, section 5.3): a resample of n prompts spreads less
than a sample by sqrt((n - 1) / n), and Student's t has wider tails than the normal distribution.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from distillspec_jax.acceptance import PartialRecord

RESAMPLES = 4_000
MIN_PROMPTS = 5
"""Minimum number of different prompts for an interval: from two or three it would be far too narrow."""
SEED = 20_231_012
"""The bootstrap's seed: fixed, so the same counts always give the same interval."""
_MAX_ENTRIES = 1 << 24
"""The largest matrix of resamples, in entries; beyond it, resamples are summed one by one."""

Columns = Sequence[float] | np.ndarray
Clusters = Sequence[Hashable] | None
"""One label per entry: entries of one label depend on each other; None: all are independent."""
Statistic = Callable[[np.ndarray], np.ndarray]
"""Maps sums `[..., C]` to the statistic `[...]`."""


class Interval(NamedTuple):
    """A statistic and its confidence interval; the ends are NaN if undetermined (below `MIN_PROMPTS`)."""

    value: float
    low: float
    high: float

    @property
    def ends(self) -> list[float] | None:
        """`[low, high]` for a file, None if there is no interval."""
        return [self.low, self.high] if np.isfinite([self.low, self.high]).all() else None

    def __format__(self, form: str) -> str:
        """Formats as `2.82 (2.75–2.90)` for the form `.2f`, as the value alone if there is no interval."""
        value = format(self.value, form)
        return value if self.ends is None else f"{value} ({self.low:{form}}–{self.high:{form}})"


UNKNOWN = Interval(np.nan, np.nan, np.nan)


def number(value: float | None) -> float | None:
    """Replaces an undefined value with None, since JSON has no NaN."""
    return None if value is None or not np.isfinite(value) else float(value)


def of_records(records: Sequence[PartialRecord], ratio_name: str, **options: Any) -> Interval:
    """Computes a ratio of `acceptance.RATIOS` with its interval over records, one per prompt.

    NaN if one of its sums is unknown for any record.
    """
    sums = _sums(records, ratio_name)
    return UNKNOWN if sums is None else ratio(sums[0], sums[1], **options)


def quotient_of_records(
    ours: Sequence[PartialRecord], theirs: Sequence[PartialRecord], ratio_name: str, **options: Any
) -> Interval:
    """Divides a ratio of one system by that of another; records of the same prompts, in the same order.

    NaN if a sum is unknown for any record.
    """
    sums, others = _sums(ours, ratio_name), _sums(theirs, ratio_name)
    if sums is None or others is None:
        return UNKNOWN
    return ratio_of_ratios(sums[0], sums[1], others[0], others[1], **options)


def _sums(records: Sequence[PartialRecord], ratio_name: str) -> tuple[list[float], list[float]] | None:
    """Lists the two sums of a ratio for each record; None if any is unknown."""
    sums = [record.sums(ratio_name) for record in records]
    known = [pair for pair in sums if pair is not None]
    if len(known) < len(sums):
        return None
    return [top for top, _ in known], [bottom for _, bottom in known]


def ratio(top_N: Columns, bottom_N: Columns, **options: Any) -> Interval:
    """Computes sum(top) / sum(bottom): acceptance, block efficiency, seconds per token.

    Args:
      top_N, bottom_N: one entry per prompt.
      options: `level`, `clusters`, `resamples`, `seed` of `interval`.
    """
    return interval([top_N, bottom_N], lambda s: divide(s[..., 0], s[..., 1]), **options)


def ratio_of_ratios(
    top_N: Columns, bottom_N: Columns, other_top_N: Columns, other_bottom_N: Columns, **options: Any
) -> Interval:
    """Computes (sum top / sum bottom) / (sum other_top / sum other_bottom) on the same N prompts."""
    columns = [top_N, bottom_N, other_top_N, other_bottom_N]
    return interval(columns, lambda s: divide(s[..., 0] * s[..., 3], s[..., 1] * s[..., 2]), **options)


def difference_of_means(values_N: Columns, other_N: Columns, **options: Any) -> Interval:
    """Computes mean(values) - mean(other), both systems on the same N prompts."""
    ones_N = np.ones(len(values_N))
    return interval([values_N, other_N, ones_N], lambda s: (s[..., 0] - s[..., 1]) / s[..., 2], **options)


def interval(
    columns: Sequence[Columns],
    statistic: Statistic,
    *,
    level: float = 0.95,
    clusters: Clusters = None,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Interval:
    """Computes the BCa interval of a statistic of sums over prompts.

    Args:
      columns: C arrays with one entry per prompt; all of equal length.
      statistic: vectorised over leading axes; may return NaN where it is undefined (no draft was tested).
      level: nominal coverage.
      clusters: of the prompts; `MIN_PROMPTS` counts them.
      resamples, seed: of the bootstrap.

    Returns:
      The statistic over all prompts with the ends of its interval. The interval has zero width if every
      resample gives the same value.

    Raises:
      ValueError: there are no prompts, or the columns have unequal lengths.
    """
    if len({len(column) for column in columns}) != 1 or not len(columns[0]):
        raise ValueError(f"need columns of one length above 0, got {[len(column) for column in columns]}")
    data_NC = np.stack([summed(column, clusters) for column in columns], axis=1)
    prompts = len(data_NC)
    total_C = data_NC.sum(0)
    value = float(statistic(total_C))
    if prompts < MIN_PROMPTS or not np.isfinite(value):
        return Interval(value, np.nan, np.nan)
    drawn_R = np.sort(statistic(_resampled(data_NC, resamples, seed)))
    drawn_R = drawn_R[np.isfinite(drawn_R)]
    if not drawn_R.size:
        return Interval(value, np.nan, np.nan)
    # Floating-point sums differ in their last digits with the order of summation, which is no spread.
    if np.ptp(drawn_R) <= 1e-12 * abs(value):
        return Interval(value, value, value)
    below = (np.mean(drawn_R < value) + np.mean(drawn_R <= value)) / 2
    bias = ndtri(np.clip(below, 1 / (drawn_R.size + 1), drawn_R.size / (drawn_R.size + 1)))
    skew = _acceleration(statistic(total_C - data_NC))
    wide = -float(stdtrit(prompts - 1, (1 - level) / 2)) * math.sqrt(prompts / (prompts - 1))
    tail = np.array([-wide, wide])
    shifted = ndtr(bias + (bias + tail) / (1 - skew * (bias + tail)))
    low, high = np.quantile(drawn_R, np.clip(shifted, 0.0, 1.0))
    return Interval(value, float(low), float(high))


def summed(column_N: Columns, clusters: Clusters) -> np.ndarray:
    """Sums a column over the entries of each cluster, in the order of their first entries.

    Raises:
      ValueError: the clusters are not of as many entries.
    """
    column_N = np.asarray(column_N, np.float64)
    if clusters is None:
        return column_N
    if len(clusters) != len(column_N):
        raise ValueError(f"{len(clusters)} labels of clusters for {len(column_N)} entries")
    numbers: dict[Hashable, int] = {}
    return np.bincount([numbers.setdefault(one, len(numbers)) for one in clusters], weights=column_N)


def joined(clusters: Clusters, batches: Sequence[Collection[int]]) -> Clusters:
    """Labels batches of prompts: two that share a cluster depend on each other; None if no two do.

    Args:
      clusters: of the prompts.
      batches: indices of each batch's prompts.
    """
    if clusters is None:
        return None
    labels: dict[Hashable, int] = {}
    for number, batch in enumerate(batches):
        own = {clusters[i] for i in batch}
        known = {labels[one] for one in own if one in labels}
        label = min(known, default=number)
        labels |= dict.fromkeys(own, label)
        if len(known) > 1:
            labels = {one: label if old in known else old for one, old in labels.items()}
    return [labels[clusters[next(iter(batch))]] for batch in batches]


def _resampled(data_NC: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums every resample, `[R, C]`. Statistics with equal N and seed share the resamples.

    They can therefore be compared with each other, not only with zero.
    """
    prompts = len(data_NC)
    if prompts * resamples <= _MAX_ENTRIES:
        return _weights(prompts, resamples, seed) @ data_NC
    rng, data_CN = np.random.default_rng(seed), np.ascontiguousarray(data_NC.T)
    return np.stack(
        [data_CN.take(rng.integers(prompts, size=prompts), axis=1).sum(1) for _ in range(resamples)]
    )


@functools.lru_cache(maxsize=4)
def _weights(prompts: int, resamples: int, seed: int) -> np.ndarray:
    """Counts the occurrences of each prompt in each resample, `[R, N]`."""
    rng = np.random.default_rng(seed)
    weights_RN = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    return weights_RN.astype(np.float32)  # exact for whole numbers, at half the memory


def _acceleration(left_out_N: np.ndarray) -> float:
    """Estimates the statistic's acceleration with the jackknife (Efron 1987, eq. 6.6)."""
    left_out_N = left_out_N[np.isfinite(left_out_N)]
    gap_N = left_out_N.mean() - left_out_N if left_out_N.size else np.zeros(1)
    spread = float((gap_N**2).sum())
    return float((gap_N**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divides elementwise; NaN where the divisor is 0."""
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)
