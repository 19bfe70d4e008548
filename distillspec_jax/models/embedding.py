"""A learned table of token or position embeddings, whole or factorised."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from distillspec_jax.models.dense import Dense, logical
from distillspec_jax.shapes import Array


class Embed(nn.Module):
    """A table `[rows, features]`; the projection to logits may read it, too.

    Attributes:
      axis: logical name of the row axis.
      spread: standard deviation of the initial entries.
      rank: 0, or the table's width if a projection `widen` maps it to `features` (ALBERT,
        arXiv 1909.11942).
    """

    rows: int
    features: int
    axis: str = "vocab"
    spread: float = 1.0
    rank: int = 0

    def setup(self) -> None:
        init = logical(nn.initializers.normal(self.spread), self.axis, "rank" if self.rank else "embed")
        shape = (self.rows, self.rank or self.features)
        self.embedding = self.param("embedding", init, shape, jnp.float32)
        if self.rank:
            self.widen = Dense(self.features, ("rank", "embed"))

    def __call__(self, ids: Array) -> Array:
        """Looks up the vectors `[..., features]` of some rows."""
        found = self.embedding[ids]
        return self.widen(found) if self.rank else found
