"""Samples of the draft as it was before training: own texts that do not follow what the draft learns.

On-policy samples change with the draft. A run on stale ones is the open loop beside that closed one: it tells
whether the draft's own texts help because they are its own, or because they keep up with it.
"""

from __future__ import annotations

import dataclasses

from distillspec_jax.distillation.sources import Networks, Sampled, sampled_batch
from distillspec_jax.models.interface import Batch
from distillspec_jax.shapes import Array


@dataclasses.dataclass(frozen=True)
class Stale(Sampled):
    """Samples of the initial draft, drawn afresh in every step; its parameters are kept for the whole run.

    Attributes:
      temperature, max_tokens: see `sampled_batch`.
    """

    def __call__(self, networks: Networks, batch: Batch, key: Array) -> Batch:
        """See `DataSource`."""
        model, params = networks.draft, networks.initial_params
        assert params is not None  # `distill` keeps them
        return sampled_batch(model, params, batch, key, self.sampling, networks.vocabulary, self.max_tokens)
