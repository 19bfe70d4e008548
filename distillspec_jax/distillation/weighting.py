"""How much each token bears on the loss, by what the networks say of it in this step.

A weighting sees every token of the batch before the loss is taken; no gradient flows through it. Any
divergence is then taken with its weights. A weighting joins by its file: `BlockEfficiency`, `TokenSelection`.
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
"""From a mask `[B, T]` to the weight of each token and their sum, as `loss.by_sequence`."""


class Logits(NamedTuple):
    """The logits of some tokens `[B, K, V]`, by network; raw, of real ids alone."""

    target: Array
    draft: Array
    reference: Array | None = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A network that does not learn, with its parameters."""

    model: LanguageModel
    params: Params


@runtime_checkable
class Weighting(Protocol):
    """A frozen value that makes weights of scores, and scores of logits."""

    @property
    def reference(self) -> str | None:
        """The checkpoint directory, or `zoo:NAME`, of a draft to compare with; None: there is none."""

    def score(self, divergence: Divergence, logits: Logits, mask_BK: Array, tokens_BK: Array) -> Array:
        """Scores tokens, each by itself: float32 `[B, K]`.

        Args:
          divergence: the one that the loss is taken with; its value is 0 where the mask is.
        """

    def weigh(
        self, score_BT: Array, mask_BT: Array, normalize: Normalize
    ) -> tuple[Array, Array, dict[str, Mean]]:
        """Weighs the tokens of a batch.

        Returns:
          The weight of each token, `[B, T]`, 0 where the mask is 0; their count, as `normalize` gives it; and
          metrics of the batch.
        """
