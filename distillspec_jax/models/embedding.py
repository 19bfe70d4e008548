"""A learned table of vectors, whole or as a product of two: of tokens, or of places in a sequence."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from distillspec_jax.models.dense import Dense, logical
from distillspec_jax.shapes import Array


class Embed(nn.Module):
    """A table `[rows, features]`, open to both ends of a network.

    Attributes:
      axis: logical name of the rows.
      spread: standard deviation of fresh entries.
      rank: 0, or the table's width where a projection `widen` makes `features` of it (ALBERT,
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
        """The vectors `[..., features]` of some rows."""
        found = self.embedding[ids]
        return self.widen(found) if self.rank else found
