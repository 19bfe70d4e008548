"""A learned table of vectors: of tokens, or of places in a sequence."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from distillspec_jax.models.dense import logical


class Embed(nn.Module):
    """A table `[rows, features]`, open to both ends of a network.

    Attributes:
      axis: logical name of the rows.
      spread: standard deviation of fresh entries.
    """

    rows: int
    features: int
    axis: str = "vocab"
    spread: float = 1.0

    def setup(self) -> None:
        init = logical(nn.initializers.normal(self.spread), self.axis, "embed")
        self.embedding = self.param("embedding", init, (self.rows, self.features), jnp.float32)
