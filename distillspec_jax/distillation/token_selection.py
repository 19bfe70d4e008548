"""Training only on the tokens that a draft of this size can learn (AdaSPEC).

A reference draft is distilled first, in the ordinary way. A token whose reference loss is far below the
current draft's can still be learned; one with both losses high is too hard for such a draft and is left out.

References:
  AdaSPEC, arXiv 2510.19779.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from distillspec_jax.distillation.divergences import Divergence
from distillspec_jax.distillation.weighting import Logits, Normalize
from distillspec_jax.errors import UsageError, check_number
from distillspec_jax.metrics import Mean
from distillspec_jax.shapes import Array


@dataclasses.dataclass(frozen=True)
class TokenSelection:
    """Keeps the share of a batch's tokens whose loss exceeds the reference draft's most.

    The loss is the mean over the kept tokens: AdaSPEC's with `NORMALIZATION='token'`; with `'sequence'`, the
    mean of the sequences' means. With `MICROBATCHES`, tokens are selected within each microbatch.

    Attributes:
      reference: checkpoint directory, or `zoo:NAME`, of the draft distilled first; it is frozen.
      share: in (0, 1], of the tokens of all sequences together, rounded up; 1 keeps all.
    """

    reference: str
    share: float = 0.4

    def __post_init__(self) -> None:
        if not isinstance(self.reference, str):
            raise UsageError(
                f"TokenSelection.reference={self.reference!r}: must name the checkpoint of a distilled draft"
            )
        check_number("TokenSelection.share", self.share, 0, most=1, whole=False)
        if not self.share:
            raise UsageError("TokenSelection.share=0: must be above 0, at most 1: no token would be kept")

    def score(self, divergence: Divergence, logits: Logits, mask_BK: Array, tokens_BK: Array) -> Array:
        """Computes the draft's loss minus the reference's."""
        assert logits.reference is not None  # `distill` loads it
        ours, theirs = (
            divergence(logits.target, x, mask_BK, tokens_BK) for x in (logits.draft, logits.reference)
        )
        return ours - theirs

    def weigh(
        self, score_BT: Array, mask_BT: Array, normalize: Normalize
    ) -> tuple[Array, Array, dict[str, Mean]]:
        """See `Weighting`; ties keep the first token, and NaN ranks last."""
        real_N = (mask_BT > 0).reshape(-1)
        # The difference of two infinite losses carries no information.
        known_N = jnp.where(jnp.isnan(score_BT), -jnp.inf, score_BT).reshape(-1)
        order_N = jnp.lexsort((-known_N, ~real_N))  # the padding last
        rank_N = jnp.argsort(order_N)
        # The slack is below any intended share of a token but above float32's rounding: 0.7 of 10 is 7.
        kept = jnp.ceil(self.share * jnp.sum(real_N).astype(jnp.float32) - 1e-3)
        kept_N = real_N & (rank_N < jnp.maximum(kept, 1.0))
        return *normalize(mask_BT * kept_N.reshape(mask_BT.shape)), {}
