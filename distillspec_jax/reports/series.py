"""Colours and markers of drafters, the same throughout a page; of many drafters only some have one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillspec_jax.evaluation import results
from distillspec_jax.evaluation.result_row import Measure, ResultRow
from distillspec_jax.reports import canvas, summary


def series_of(rows: Sequence[ResultRow], block_size: int) -> dict[str, int]:
    """Numbers the drafters that plots tell apart by colour: all of them, or as many as there are colours.

    Of more, the pair that the results are about, and those of the highest block efficiency at one block size.

    Args:
      rows: of one group.
      block_size: the one that the page is about; the nearest one measured stands in for it.
    """
    labels = results.drafters(rows)
    if len(labels) > len(canvas.SERIES):
        size = summary.nearest_block_size(rows, block_size)
        best = {
            label: math.fsum(row.block_efficiency for row in of) / len(of) if of else 0.0
            for label in labels
            for of in [[row for row in rows if (row.drafter, row.block_size) == (label, size)]]
        }
        pair = summary.main_pair(rows) or ()
        ranked = sorted(labels, key=lambda label: (label not in pair, -best[label]))
        chosen = set(ranked[: len(canvas.SERIES)])
        labels = [label for label in labels if label in chosen]
    return {label: i for i, label in enumerate(labels)}


def left_out(rows: Sequence[ResultRow]) -> str:
    """Says which drafters have no line in a plot; empty where all have one."""
    more = len(results.drafters(rows)) - len(canvas.SERIES)
    return f" {more} more drafts are in the tables." if more > 0 else ""


def ends(row: ResultRow, measure: Measure) -> Sequence[float]:
    """The ends of a number's interval, without width where it has none."""
    found = row.interval(measure)
    return found.ends or (found.value, found.value)
