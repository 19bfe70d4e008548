"""Batches rows of similar length, so no batch is wider than necessary.

The rows of a window of batches are sorted by length and redistributed. Each batch is truncated to its longest
row, rounded up to a quarter of the full width, so only few shapes are compiled. The window's batches and the
rows in each are reshuffled: a batch's position is independent of its lengths, and every source of a mixture
has rows of all lengths in a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator

import numpy as np

from distillspec_jax import bounds
from distillspec_jax.errors import check_number

Batch = dict[str, np.ndarray]

WIDTHS = 4
"""Number of widths that a batch may be truncated to, including the full one."""
SIDES = {"inputs": ("encoder_",), "targets": ("decoder_", "top_", "tail_")}
"""Name prefixes of the features that are as wide as a row's inputs, or its targets."""


def length_sorted(
    batches: Callable[[int], Iterator[Batch]],
    start_step: int,
    window: int,
    seed: int,
    sides: Collection[str] = tuple(SIDES),
) -> Iterator[Batch]:
    """Redistributes the rows of every `window` batches by length; a function of (seed, step), like `batches`.

    Args:
      batches: makes the stream from a step on, unpacked: features `[B, T]` or `[B, T, ...]`.
      start_step: number of batches to skip.
      window: number of batches whose rows are sorted together; 1 only truncates.
      seed: of the orders.
      sides: sides to truncate, `inputs`, `targets` or both; rows are sorted by the sum of their lengths.

    Raises:
      UsageError: the window is not a whole number above 0.
    """
    check_number("DataConfig.length_window", window, 1, most=bounds.COUNT)
    first, skipped = divmod(start_step, window)
    stream = batches(first * window)
    for number in itertools.count(first):
        together = list(itertools.islice(stream, window))
        rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
        for rows in _dealt(together, sides, rng)[skipped:]:
            yield _cut(rows, sides)
        skipped = 0


def _dealt(together: list[Batch], sides: Collection[str], rng: np.random.Generator) -> list[Batch]:
    """Redistributes a window's rows to its batches by length."""
    pooled = {name: np.concatenate([batch[name] for batch in together]) for name in together[0]}
    length_N = sum(_lengths(pooled, side) for side in sides)
    order_N = np.argsort(length_N, kind="stable")
    dealt = [rng.permutation(rows) for rows in np.split(order_N, len(together))]
    return [{name: x[dealt[i]] for name, x in pooled.items()} for i in rng.permutation(len(dealt))]


def _lengths(batch: Batch, side: str) -> np.ndarray:
    """Counts slots up to each row's last non-padding one; a prompt's final 0 also needs the -1 after it."""
    if side == "targets":
        return _last(batch["decoder_loss_weights"] > 0)
    prompt_BT = batch["encoder_input_tokens"]
    marked_B1 = (prompt_BT < 0).any(axis=1, keepdims=True)  # see `models.interface.prompt_lengths`
    length_B = _last(np.where(marked_B1, prompt_BT >= 0, prompt_BT > 0))
    ends_B1 = np.take_along_axis(prompt_BT, np.maximum(length_B - 1, 0)[:, None], axis=1) == 0
    return length_B + (ends_B1 & marked_B1)[:, 0]


def _last(real_BT: np.ndarray) -> np.ndarray:
    """Computes one more than the index of each row's last true slot; 0 if there is none."""
    slots: np.ndarray = (np.arange(1, real_BT.shape[1] + 1) * real_BT).max(axis=1)
    return slots


def _cut(batch: Batch, sides: Collection[str]) -> Batch:
    """Removes columns that are padding in all rows, in steps of a quarter of the width."""
    kept = dict(batch)
    for side in sides:
        names = [name for name in batch if name.startswith(SIDES[side])]
        whole = batch[names[0]].shape[1]
        step = -(-whole // WIDTHS)
        width = min(whole, max(1, -(-int(_lengths(batch, side).max()) // step)) * step)
        kept |= {name: batch[name][:, :width] for name in names}
    return kept
