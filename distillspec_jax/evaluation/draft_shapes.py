"""Costs and possible speed-ups of drafts made from some of their target's layers, before training any."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from distillspec_jax.acceptance import expected_block_efficiency, memory_bound_speedup
from distillspec_jax.models import factorised, layer_subset, shortlist
from distillspec_jax.models.network import Network

ACCEPTANCE = (0.5, 0.6, 0.7, 0.8, 0.9)
"""Acceptance rates that a draft may reach."""

_LARGEST_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class DraftShape:
    """A draft for a target.

    Attributes:
      name: its layers, or a name given by the user.
      parameters: of the draft, including the embedding.
      cost_ratio: c, bytes of the draft's parameters, minus those its shortlist saves, over the target's.
      mbsu: per rate of `ACCEPTANCE`, the block size with the highest memory-bound speed-up, and the speed-up.
    """

    name: str
    parameters: int
    cost_ratio: float
    mbsu: tuple[tuple[int, float], ...]


def draft_shape(target: Network, draft: Network, name: str, listed: int = 0) -> DraftShape:
    """Computes the cost of any draft, with a shortlist of `listed` ids (0: none), without tracing it."""
    whole, part = target.config.num_parameters, draft.config.num_parameters
    ratio = (part - shortlist.spared(draft, listed)) / whole
    return DraftShape(name, part, ratio, tuple(_best(rate, ratio) for rate in ACCEPTANCE))


def of_layers(target: Network, layers: Sequence[int], listed: int = 0, rank: int = 0) -> DraftShape:
    """Computes the cost of a draft with some of the target's layers and an embedding of `rank` (0: full).

    Raises:
      UsageError: see `layer_subset.shrink`, `factorised.narrowed`.
    """
    name, draft = f"layers {','.join(map(str, layers))}", layer_subset.shrink(target, layers)
    return draft_shape(target, factorised.narrowed(draft, rank) if rank else draft, name, listed)


def library(model: Network, listed: int = 0, rank: int = 0) -> list[DraftShape]:
    """Lists drafts of one layer up to a quarter of the layers (or four), evenly spread or half at either end.

    Raises:
      UsageError: see `factorised.narrowed`.
    """
    if rank:
        factorised.narrowed(model, rank)  # a one-layer target has no drafts that would check the rank
    count = layer_subset.num_layers(model)
    found: dict[tuple[int, ...], None] = {}
    for size in sorted({1, 2, 4, count // 8, count // 4}):
        if 1 <= size < count:
            found[tuple(int(i) for i in np.linspace(0, count - 1, size).round())] = None
            first = (size + 1) // 2
            found[(*range(first), *range(count - size + first, count))] = None
    return [of_layers(model, layers, listed, rank) for layers in found]


def _best(rate: float, cost_ratio: float) -> tuple[int, float]:
    gains = {
        size: memory_bound_speedup(expected_block_efficiency(rate, size), cost_ratio, size)
        for size in range(1, _LARGEST_BLOCK + 1)
    }
    size = max(gains, key=gains.__getitem__)
    return size, gains[size]
