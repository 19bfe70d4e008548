"""Rows of like length in one batch, so that no batch is wider than it needs to be.

The rows of a window of batches are sorted by length and dealt out anew. Each batch is cut to its longest row,
rounded up to a quarter of the whole width, so that few shapes are compiled. The order of the window's
batches is drawn anew, and so is that of the rows in each: a batch's place says nothing of its lengths, and
every source of a mixture has rows of all lengths in a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator

import numpy as np

from distillspec_jax import bounds
from distillspec_jax.errors import check_number

Batch = dict[str, np.ndarray]

WIDTHS = 4
"""Widths to which a batch may be cut, the whole one included."""
SIDES = {"inputs": ("encoder_",), "targets": ("decoder_", "top_", "tail_")}
"""How the names of the features begin that are as wide as a row's inputs, or its targets."""


def length_sorted(
    batches: Callable[[int], Iterator[Batch]],
    start_step: int,
    window: int,
    seed: int,
    sides: Collection[str] = tuple(SIDES),
) -> Iterator[Batch]:
    """Deals the rows of every `window` batches out anew, by length; a function of (seed, step) as `batches`.

    Args:
      batches: makes the stream from a step on, unpacked: features `[B, T]` or `[B, T, ...]`.
      start_step: batches to skip.
      window: batches whose rows are sorted together; 1 only cuts.
      seed: of the orders.
      sides: what is cut, `inputs`, `targets` or both; rows are sorted by their sum.

    Raises:
      UsageError: a window that is no whole number above 0.
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
    """The batches of a window with its rows dealt out by length."""
    pooled = {name: np.concatenate([batch[name] for batch in together]) for name in together[0]}
    length_N = sum(_lengths(pooled, side) for side in sides)
    order_N = np.argsort(length_N, kind="stable")
    dealt = [rng.permutation(rows) for rows in np.split(order_N, len(together))]
    return [{name: x[dealt[i]] for name, x in pooled.items()} for i in rng.permutation(len(dealt))]


def _lengths(batch: Batch, side: str) -> np.ndarray:
    """Slots that each row needs: up to its last that is no padding; after a prompt's last 0 the -1, too."""
    if side == "targets":
        return _last(batch["decoder_loss_weights"] > 0)
    prompt_BT = batch["encoder_input_tokens"]
    marked_B1 = (prompt_BT < 0).any(axis=1, keepdims=True)  # see `models.interface.prompt_lengths`
    length_B = _last(np.where(marked_B1, prompt_BT >= 0, prompt_BT > 0))
    ends_B1 = np.take_along_axis(prompt_BT, np.maximum(length_B - 1, 0)[:, None], axis=1) == 0
    return length_B + (ends_B1 & marked_B1)[:, 0]


def _last(real_BT: np.ndarray) -> np.ndarray:
    """One more than the index of each row's last true slot; 0 where there is none."""
    slots: np.ndarray = (np.arange(1, real_BT.shape[1] + 1) * real_BT).max(axis=1)
    return slots


def _cut(batch: Batch, sides: Collection[str]) -> Batch:
    """A batch without the columns that are padding in all its rows, in steps of a quarter of its width."""
    kept = dict(batch)
    for side in sides:
        names = [name for name in batch if name.startswith(SIDES[side])]
        whole = batch[names[0]].shape[1]
        step = -(-whole // WIDTHS)
        width = min(whole, max(1, -(-int(_lengths(batch, side).max()) // step)) * step)
        kept |= {name: batch[name][:, :width] for name in names}
    return kept
