"""Divergences as values that a gin file can name: they turn logits into distributions and compare them.

Each is a pure function of raw logits over the whole vocabulary, at temperature 1 unless stated otherwise.
Only the draft receives gradients. The formulas are in `formulas`; the caller reduces (`loss.py`).

To add a divergence, write a file that derives from `DistributionDivergence` or satisfies `Divergence`, and
one line in `DIVERGENCES`: `"name": deferred("distillspec_jax.distillation.file", "Class")`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.distillation import formulas
from distillspec_jax.errors import UsageError, check_number, find
from distillspec_jax.shapes import Array
from distillspec_jax.vocabulary import Vocabulary


class Divergence(Protocol):
    """A frozen value: `(target_logits, draft_logits, mask, tokens) -> per-token loss`."""

    def __call__(
        self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array, tokens_BT: Array
    ) -> Array:
        """Computes the loss of each token: exactly 0, with zero gradient, where the mask is 0.

        The loss is in nats (TVD: a probability). It is infinite only where the formula is: a KL whose second
        distribution gives no mass (a logit of -inf) to a token with mass in the first.

        Args:
          tokens_BT: int32, the sequence itself; only hard labels read it.

        Returns:
          float32 `[B, T]`.
        """


@dataclasses.dataclass(frozen=True)
class DistributionDivergence:
    """Base class of divergences between two distributions: computes them from logits and masks the result.

    A subclass defines `between`, and `truncated_sides` if it can compare truncated distributions.

    Attributes:
      truncated_sides: the distributions, `target` or `draft`, that a truncation may apply to.
      temperature: divides both networks' logits; the gradient is not rescaled by its square.
      top_k, top_p: truncate as the sampler does (`decoding.sampling`; 0 and 1 are off). Truncated
        distributions exclude padding, as the sampler does. No gradient flows through the choice of the ids
        to keep.
      padding_ids: real ids that are never sampled; `of_vocabulary` sets them. Only truncated distributions
        need them.
    """

    truncated_sides: ClassVar[tuple[str, ...]] = ()

    temperature: float = dataclasses.field(default=1.0, kw_only=True)
    top_k: int = dataclasses.field(default=0, kw_only=True)
    top_p: float = dataclasses.field(default=1.0, kw_only=True)
    padding_ids: tuple[int, ...] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not 0 < self.temperature < math.inf:
            raise UsageError(
                f"{name}.temperature={self.temperature}: must be positive and finite (0 has no gradient)"
            )
        try:
            SamplingParams(self.temperature, self.top_k, self.top_p)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from error
        if self._truncates and not self.truncated_sides:
            setting = f"top_k={self.top_k}" if self.top_k else f"top_p={self.top_p}"
            raise UsageError(
                f"{name}.{setting}: takes only distributions over the whole vocabulary; TotalVariation and "
                "NegativeLogAcceptance truncate both, ForwardKL the target's"
            )

    @property
    def _truncates(self) -> bool:
        return self.top_k > 0 or self.top_p < 1

    def between(self, log_p_BTV: Array, log_q_BTV: Array) -> Array:
        """Compares the target's log-probabilities with the draft's, token by token: float32 `[B, T]`."""
        raise NotImplementedError

    def __call__(
        self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array, tokens_BT: Array
    ) -> Array:
        """See `Divergence`."""
        # Masked positions get uniform distributions, so they contribute nothing to a gradient.
        real_BT1 = mask_BT[..., None] > 0
        target = jnp.where(real_BT1, jax.lax.stop_gradient(target_logits_BTV), 0.0)
        draft = jnp.where(real_BT1, draft_logits_BTV, 0.0)
        loss_BT = self.between(
            self._log_distribution(target, "target"), self._log_distribution(draft, "draft")
        )
        return jnp.where(mask_BT > 0, loss_BT, 0.0)

    def _log_distribution(self, logits: Array, side: str) -> Array:
        logits = logits.astype(jnp.float32)
        if self.temperature != 1:
            peak = jnp.max(jax.lax.stop_gradient(logits), axis=-1, keepdims=True)
            logits = (logits - peak) / self.temperature  # no temperature overflows
        if self._truncates and side in self.truncated_sides:
            if self.padding_ids is None:
                raise UsageError(
                    f"{type(self).__name__}.padding_ids is None: a truncated divergence needs those of the "
                    "vocabulary; make it by divergences.of_vocabulary"
                )
            real = Vocabulary(None, eos_ids=(), padding_ids=self.padding_ids)
            distribution = SamplingParams(1.0, self.top_k, self.top_p).distribution(real)
            kept = distribution.log_probs(jax.lax.stop_gradient(logits)) > -jnp.inf
            logits = jnp.where(kept, logits, -jnp.inf)
        return jax.nn.log_softmax(logits)


@dataclasses.dataclass(frozen=True)
class ForwardKL(DistributionDivergence):
    """KL(P || Q), `formulas.forward_kl`. Truncation applies only to the target."""

    truncated_sides = ("target",)

    def between(self, log_p_BTV: Array, log_q_BTV: Array) -> Array:
        """See `DistributionDivergence`."""
        return formulas.forward_kl(log_p_BTV, log_q_BTV)


@dataclasses.dataclass(frozen=True)
class ReverseKL(DistributionDivergence):
    """KL(Q || P), `formulas.reverse_kl`."""

    def between(self, log_p_BTV: Array, log_q_BTV: Array) -> Array:
        """See `DistributionDivergence`."""
        return formulas.reverse_kl(log_p_BTV, log_q_BTV)


@dataclasses.dataclass(frozen=True)
class JensenShannon(DistributionDivergence):
    """beta KL(P || M) + (1 - beta) KL(Q || M), `formulas.jensen_shannon`.

    Attributes:
      beta: in (0, 1), the target's weight; 1/2 is the symmetric JSD.
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta in (0, 1):
            limit = "ForwardKL (FKL)" if self.beta == 0 else "ReverseKL (RKL)"
            raise UsageError(
                f"JensenShannon.beta={self.beta}: the divergence is 0 there; "
                f"use {limit}, its limit after division"
            )
        if not 0 < self.beta < 1:
            raise UsageError(f"JensenShannon.beta={self.beta} must lie in (0, 1)")

    def between(self, log_p_BTV: Array, log_q_BTV: Array) -> Array:
        """See `DistributionDivergence`."""
        return formulas.jensen_shannon(log_p_BTV, log_q_BTV, self.beta)


@dataclasses.dataclass(frozen=True)
class TotalVariation(DistributionDivergence):
    """1/2 sum |P - Q| = 1 - alpha, `formulas.total_variation`."""

    truncated_sides = ("target", "draft")

    def between(self, log_p_BTV: Array, log_q_BTV: Array) -> Array:
        """See `DistributionDivergence`."""
        return formulas.total_variation(log_p_BTV, log_q_BTV)


@dataclasses.dataclass(frozen=True)
class NegativeLogAcceptance(DistributionDivergence):
    """-log alpha, `formulas.negative_log_acceptance`."""

    truncated_sides = ("target", "draft")

    def between(self, log_p_BTV: Array, log_q_BTV: Array) -> Array:
        """See `DistributionDivergence`."""
        return formulas.negative_log_acceptance(log_p_BTV, log_q_BTV)


@dataclasses.dataclass(frozen=True)
class LKHybrid(DistributionDivergence):
    """lambda KL(P || Q) + (1 - lambda) TV(P, Q), with lambda = exp(-eta alpha), `formulas.lk_hybrid`.

    Attributes:
      eta: positive and finite; how soon total variation replaces forward KL.
    """

    eta: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("LKHybrid.eta", self.eta, 0, whole=False)
        if not 0 < self.eta < math.inf:
            raise UsageError(
                f"LKHybrid.eta={self.eta} must be positive and finite; use ForwardKL, its limit at 0, or "
                "TotalVariation, its limit where much is accepted"
            )

    def between(self, log_p_BTV: Array, log_q_BTV: Array) -> Array:
        """See `DistributionDivergence`."""
        return formulas.lk_hybrid(log_p_BTV, log_q_BTV, self.eta)


@dataclasses.dataclass(frozen=True)
class HardLabels:
    """-log Q of the sequence's own token, `formulas.hard_label`; ignores the target."""

    def __call__(
        self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array, tokens_BT: Array
    ) -> Array:
        """See `Divergence`."""
        draft = jnp.where(mask_BT[..., None] > 0, draft_logits_BTV, 0.0).astype(jnp.float32)
        loss_BT = formulas.hard_label(jax.nn.log_softmax(draft), tokens_BT)
        return jnp.where(mask_BT > 0, loss_BT, 0.0)


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """A weighted sum of divergences.

    Attributes:
      divergences: one or more.
      weights: positive and finite, one per divergence; they need not sum to 1.
    """

    divergences: tuple[Divergence, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "divergences", tuple(self.divergences))
        object.__setattr__(self, "weights", tuple(self.weights))
        if len(self.divergences) != len(self.weights) or not self.divergences:
            raise UsageError(
                f"WeightedSum: {len(self.divergences)} divergences but {len(self.weights)} weights"
            )
        for weight in self.weights:
            if not 0 < weight < math.inf:
                raise UsageError(
                    f"WeightedSum.weights={self.weights}: {weight} must be positive and finite; "
                    "leave out a divergence that is not to count"
                )

    def __call__(
        self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array, tokens_BT: Array
    ) -> Array:
        """See `Divergence`."""
        given = target_logits_BTV, draft_logits_BTV, mask_BT, tokens_BT
        losses = [w * d(*given) for d, w in zip(self.divergences, self.weights, strict=True)]
        return jnp.sum(jnp.stack(losses), axis=0)


def of_vocabulary(divergence: Divergence, vocabulary: Vocabulary) -> Divergence:
    """Makes truncated distributions exclude the same ids as a sampler over `vocabulary`."""
    if isinstance(divergence, WeightedSum):
        parts = tuple(of_vocabulary(part, vocabulary) for part in divergence.divergences)
        return dataclasses.replace(divergence, divergences=parts)
    if isinstance(divergence, DistributionDivergence):
        return dataclasses.replace(divergence, padding_ids=vocabulary.padding_ids)
    return divergence


DIVERGENCES: dict[str, Callable[[], Divergence]] = {
    "fkl": ForwardKL,
    "rkl": ReverseKL,
    "jsd": JensenShannon,
    "tvd": TotalVariation,
    "nla": NegativeLogAcceptance,
    "lk": LKHybrid,
    "nll": HardLabels,
}
"""Short names for the Python interface and `--gin.DIVERGENCE=fkl`; gin files name the classes."""


def divergence(named: str | Divergence) -> Divergence:
    """Makes the divergence that a key of `DIVERGENCES` names; returns any other value unchanged.

    Raises:
      UsageError: the name is unknown.
    """
    return find("divergence", named, DIVERGENCES)() if isinstance(named, str) else named
