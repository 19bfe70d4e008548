"""Expected block efficiency as an objective: tokens are weighted by how much depends on their acceptance.

A block of gamma drafts that begins at token t has sum_i prod_{j <= i} alpha_{t+j} accepted drafts in
expectation (`formulas.expected_accepted`). Its derivative with respect to a token's alpha sums, over the
blocks that contain the token, the probability of reaching it times the value of accepting it: 1 plus the
drafts that follow. With `TotalVariation`, whose value is 1 - alpha, a loss with these weights has the
gradient of the expected number of rejected drafts. Its value is the loss at this step's weights, not that
number; `block_efficiency_on_batch` reports the latter. Any other divergence is weighted towards the tokens
that currently end blocks.

References:
  D-PACE, arXiv 2605.18810, which weights cross-entropy by the derivative of a similar sum of products, over
  the draft's own confidences.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from distillspec_jax import bounds
from distillspec_jax.distillation.divergences import (
    DistributionDivergence,
    Divergence,
    TotalVariation,
    WeightedSum,
)
from distillspec_jax.distillation.formulas import expected_accepted
from distillspec_jax.distillation.weighting import Logits, Normalize
from distillspec_jax.errors import check_number
from distillspec_jax.metrics import Mean
from distillspec_jax.shapes import Array


def _measure(divergence: Divergence) -> TotalVariation:
    """Makes the total variation between the distributions that a divergence compares."""
    if isinstance(divergence, WeightedSum):
        return _measure(divergence.divergences[0])
    if not isinstance(divergence, DistributionDivergence):
        return TotalVariation()
    shared = dataclasses.fields(DistributionDivergence)
    return TotalVariation(**{field.name: getattr(divergence, field.name) for field in shared})


@dataclasses.dataclass(frozen=True)
class BlockEfficiency:
    """Weighs a token by the derivative of the expected accepted drafts; every token begins one block.

    Attributes:
      block_size: gamma, drafts per block; 1 weighs all tokens equally.
    """

    block_size: int = 7

    def __post_init__(self) -> None:
        check_number("BlockEfficiency.block_size", self.block_size, 1, most=bounds.BLOCK_SIZE)

    @property
    def reference(self) -> None:
        """See `Weighting`; there is none."""
        return

    def score(self, divergence: Divergence, logits: Logits, mask_BK: Array, tokens_BK: Array) -> Array:
        """Computes alpha, under the loss's own temperature and truncation; of a sum's parts, the first's."""
        return 1.0 - _measure(divergence)(logits.target, logits.draft, mask_BK, tokens_BK)

    def weigh(
        self, score_BT: Array, mask_BT: Array, normalize: Normalize
    ) -> tuple[Array, Array, dict[str, Mean]]:
        """See `Weighting`; `normalize` weighs each block by the token that it begins at."""
        weight_BT, count = normalize(mask_BT)

        def accepted(overlap_BT: Array) -> tuple[Array, Array]:
            accepted_BT = expected_accepted(overlap_BT, mask_BT, self.block_size)
            return jnp.sum(weight_BT * accepted_BT), accepted_BT

        worth_BT, accepted_BT = jax.grad(accepted, has_aux=True)(score_BT)
        return worth_BT, count, {"block_efficiency_on_batch": Mean.of(1.0 + accepted_BT, mask_BT)}
