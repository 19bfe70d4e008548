"""Expected block efficiency as an objective: a token counts by what hangs on its acceptance.

A block of gamma drafts that begins at token t has sum_i prod_{j <= i} alpha_{t+j} of them accepted
(`formulas.expected_accepted`). The derivative by alpha of a token adds up, over the blocks that it is in, the
probability that it is reached times what acceptance there is worth: 1 and the drafts that follow. With
`TotalVariation`, whose value is 1 - alpha, a loss of these weights has the gradient of the expected number of
drafts that are not accepted; its value is the loss at this step's weights and not that number, which
`block_efficiency_on_batch` reports. With another divergence it is that divergence, with the attention on the
tokens that now end blocks.

References:
  D-PACE, arXiv 2605.18810, which weighs cross-entropy by the derivative of a like sum of products, of the
  draft's own confidences.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from distillspec_jax import bounds
from distillspec_jax.distillation.divergences import Divergence, TotalVariation
from distillspec_jax.distillation.formulas import expected_accepted
from distillspec_jax.distillation.weighting import Logits, Normalize
from distillspec_jax.errors import check_number
from distillspec_jax.metrics import Mean
from distillspec_jax.shapes import Array

_total_variation = TotalVariation()


@dataclasses.dataclass(frozen=True)
class BlockEfficiency:
    """Weighs a token by the derivative of the expected accepted drafts; every token begins one block.

    Attributes:
      block_size: gamma, drafts in a block; 1 weighs all alike.
    """

    block_size: int = 7

    def __post_init__(self) -> None:
        check_number("BlockEfficiency.block_size", self.block_size, 1, most=bounds.BLOCK_SIZE)

    @property
    def reference(self) -> None:
        """See `Weighting`; there is none."""
        return

    def score(self, divergence: Divergence, logits: Logits, mask_BK: Array, tokens_BK: Array) -> Array:
        """Computes alpha, under the loss's own temperature and truncation if it is a `TotalVariation`."""
        measure = divergence if isinstance(divergence, TotalVariation) else _total_variation
        return 1.0 - measure(logits.target, logits.draft, mask_BK, tokens_BK)

    def weigh(
        self, score_BT: Array, mask_BT: Array, normalize: Normalize
    ) -> tuple[Array, Array, dict[str, Mean]]:
        """See `Weighting`; the blocks are weighed as `normalize` weighs the tokens that they begin at."""
        weight_BT, count = normalize(mask_BT)

        def accepted(overlap_BT: Array) -> tuple[Array, Array]:
            accepted_BT = expected_accepted(overlap_BT, mask_BT, self.block_size)
            return jnp.sum(weight_BT * accepted_BT), accepted_BT

        worth_BT, accepted_BT = jax.grad(accepted, has_aux=True)(score_BT)
        return worth_BT, count, {"block_efficiency_on_batch": Mean.of(1.0 + accepted_BT, mask_BT)}
