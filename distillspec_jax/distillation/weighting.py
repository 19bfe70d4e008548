"""Token weights of the loss, computed from the networks' predictions in this step.

A weighting sees every token of the batch before the loss is computed; no gradient flows through it. Its
weights apply to any divergence. To add a weighting, write its file: see `BlockEfficiency`, `TokenSelection`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

from distillspec_jax.distillation.divergences import Divergence
from distillspec_jax.metrics import Mean
from distillspec_jax.models.interface import LanguageModel
from distillspec_jax.shapes import Array, Params

Normalize = Callable[[Array], tuple[Array, Array]]
"""Maps a mask `[B, T]` to token weights and their normalizer, like `loss.by_sequence`."""


class Logits(NamedTuple):
    """The raw logits of some tokens `[B, K, V]`, by network, over real ids only."""

    target: Array
    draft: Array
    reference: Array | None = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A network that is not trained, with its parameters."""

    model: LanguageModel
    params: Params


@runtime_checkable
class Weighting(Protocol):
    """A frozen value that turns logits into scores, and scores into weights."""

    @property
    def reference(self) -> str | None:
        """The checkpoint directory, or `zoo:NAME`, of a draft to compare with; None: there is none."""

    def score(self, divergence: Divergence, logits: Logits, mask_BK: Array, tokens_BK: Array) -> Array:
        """Scores each token independently: float32 `[B, K]`.

        Args:
          divergence: the one that the loss uses; its value is 0 where the mask is.
        """

    def weigh(
        self, score_BT: Array, mask_BT: Array, normalize: Normalize
    ) -> tuple[Array, Array, dict[str, Mean]]:
        """Weighs the tokens of a batch.

        Returns:
          The weight of each token, `[B, T]`, 0 where the mask is 0; the normalizer from `normalize`; and
          metrics of the batch.
        """
