"""Weights of a draft's own tokens by the probability that verification comes to test them.

A block that the draft proposes is tested from its first token on, up to the first rejection. Token t of a
text that the draft drew is therefore tested with probability prod_{i < t} min(1, p_i / q_i), where p_i and
q_i are what the target and the draft give to the i-th token (Leviathan et al., arXiv 2211.17192). Training on
a whole own text weighs the tokens behind a likely rejection, which decoding never sees, like all others.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from distillspec_jax.distillation.divergences import Divergence
from distillspec_jax.distillation.weighting import Logits, Normalize
from distillspec_jax.metrics import Mean
from distillspec_jax.shapes import Array


@dataclasses.dataclass(frozen=True)
class Survival:
    """Weighs each token by the probability that all tokens before it are accepted, the text being one block.

    It is that probability only for texts drawn from the draft at temperature 1 (`OnPolicy`). The metric
    `survival_on_batch` is its mean over the tokens.
    """

    @property
    def reference(self) -> None:
        """See `Weighting`; there is none."""
        return

    def score(self, divergence: Divergence, logits: Logits, mask_BK: Array, tokens_BK: Array) -> Array:
        """Computes the log of the probability that a drafted token is accepted, at most 0."""
        log_p, log_q = (
            jnp.take_along_axis(
                jax.nn.log_softmax(x.astype(jnp.float32)), tokens_BK[..., None].astype(jnp.int32), axis=-1
            )[..., 0]
            for x in (logits.target, logits.draft)
        )
        return jnp.where(mask_BK > 0, jnp.minimum(log_p - log_q, 0.0), 0.0)

    def weigh(
        self, score_BT: Array, mask_BT: Array, normalize: Normalize
    ) -> tuple[Array, Array, dict[str, Mean]]:
        """See `Weighting`; the normalizer is that of equal weights, so an unlikely text counts less."""
        weight_BT, count = normalize(mask_BT)
        before_BT = jnp.cumsum(jnp.pad(score_BT, ((0, 0), (1, 0)))[:, :-1], axis=1)
        survival_BT = jnp.exp(before_BT)
        return weight_BT * survival_BT, count, {"survival_on_batch": Mean.of(survival_BT, mask_BT)}
