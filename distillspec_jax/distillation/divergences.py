"""Divergences between the target's distribution P and the draft's distribution Q, token by token.

Each is a pure function of raw logits over the whole vocabulary, at temperature 1 unless told otherwise; the
gradient reaches the draft alone. Reductions are the caller's (`loss.py`).

References:
  DistillSpec, arXiv 2310.08461, section 3 and appendix A.1.
  GKD, arXiv 2306.13649 (the same JSD with beta on the target's side).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp

from distillspec_jax.decoding.sampling import SamplingParams
from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array
from distillspec_jax.vocabulary import Vocabulary

NOTHING_SHARED = 24 * math.log(2)
"""-log alpha, in nats, of two truncated distributions without a common token: float32's resolution stands for
0."""


class Divergence(Protocol):
    """A frozen value: `(target_logits, draft_logits, mask, tokens) -> per-token loss`."""

    def __call__(
        self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array, tokens_BT: Array
    ) -> Array:
        """float32 `[B, T]`, nats (TVD: a probability); exactly 0, with zero gradient, where the mask is 0.

        Infinite only where the formula is: a KL whose second distribution gives no mass (a logit of -inf) to
        what the first one may say.

        Args:
          tokens_BT: int32, the sequence itself; only hard labels look at it.
        """


def log_overlap(log_p: Array, log_q: Array) -> Array:
    """log alpha = log sum_v min(P, Q), over the last axis: exact however small, -inf where nothing is shared.

    alpha is the probability that a token drafted from Q is accepted (Corollary 3.6 of arXiv 2211.17192).
    """
    least = jnp.minimum(log_p, log_q)
    shared = jnp.any(least > -jnp.inf, axis=-1)
    # Selected before the sum, so that no gradient is made of -inf - -inf.
    some = jax.nn.logsumexp(jnp.where(shared[..., None], least, 0.0), axis=-1)
    return jnp.where(shared, some, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class _OfDistributions:
    """What divergences between two distributions share: how logits become distributions, and masks.

    Attributes:
      temperature: of both distributions; the gradient is not scaled back by its square.
      top_k, top_p: as the sampler truncates (`decoding.distribution`; 0 and 1 are off). Truncated
        distributions leave padding out, as the sampler does, and no gradient flows through the choice of what
        is kept.
      padding_ids: real ids that are never sampled; `of_vocabulary` sets them. Only truncated distributions
        need them.
    """

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
        if self._truncates and not self._truncated_sides:
            setting = f"top_k={self.top_k}" if self.top_k else f"top_p={self.top_p}"
            raise UsageError(
                f"{name}.{setting}: takes only distributions over the whole vocabulary; TotalVariation and "
                "NegativeLogAcceptance truncate both, ForwardKL the target's"
            )

    @property
    def _truncates(self) -> bool:
        return self.top_k > 0 or self.top_p < 1

    @property
    def _truncated_sides(self) -> tuple[str, ...]:
        """Which of the two distributions a truncation may reach."""
        return ()

    def __call__(
        self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array, tokens_BT: Array
    ) -> Array:
        # Both distributions uniform where the mask is 0: nothing there reaches a gradient.
        real_BT1 = mask_BT[..., None] > 0
        target = jnp.where(real_BT1, jax.lax.stop_gradient(target_logits_BTV), 0.0)
        draft = jnp.where(real_BT1, draft_logits_BTV, 0.0)
        loss_BT = self._between(
            self._log_distribution(target, "target"), self._log_distribution(draft, "draft")
        )
        return jnp.where(mask_BT > 0, loss_BT, 0.0)

    def _log_distribution(self, logits: Array, side: str) -> Array:
        logits = logits.astype(jnp.float32)
        if self.temperature != 1:
            peak = jnp.max(jax.lax.stop_gradient(logits), axis=-1, keepdims=True)
            logits = (logits - peak) / self.temperature  # no temperature overflows
        if self._truncates and side in self._truncated_sides:
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

    def _between(self, log_p: Array, log_q: Array) -> Array:
        """The divergence of two log-distributions, over the last axis."""
        raise NotImplementedError


def _kl(log_a: Array, log_b: Array) -> Array:
    """KL(A || B) over the last axis; a term with A = 0 is 0, whatever B is there."""
    a = jnp.exp(log_a)
    # The ratio and not the product is selected: -inf - -inf must meet no factor, not even a cotangent's 0.
    return jnp.sum(a * jnp.where(a > 0, log_a - log_b, 0.0), axis=-1)


@dataclasses.dataclass(frozen=True)
class ForwardKL(_OfDistributions):
    """KL(P || Q): the draft covers whatever the target may say. A truncation is the target's alone."""

    @property
    def _truncated_sides(self) -> tuple[str, ...]:
        return ("target",)

    def _between(self, log_p: Array, log_q: Array) -> Array:
        return _kl(log_p, log_q)


@dataclasses.dataclass(frozen=True)
class ReverseKL(_OfDistributions):
    """KL(Q || P): the draft keeps to what the target is sure of."""

    def _between(self, log_p: Array, log_q: Array) -> Array:
        return _kl(log_q, log_p)


@dataclasses.dataclass(frozen=True)
class JensenShannon(_OfDistributions):
    """beta KL(P || M) + (1 - beta) KL(Q || M) with M = beta P + (1 - beta) Q; raw, not divided by beta.

    Attributes:
      beta: in (0, 1), the target's weight on both sides; 1/2 is the symmetric JSD.
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

    def _between(self, log_p: Array, log_q: Array) -> Array:
        m = self.beta * jnp.exp(log_p) + (1 - self.beta) * jnp.exp(log_q)
        log_m = jnp.log(jnp.where(m > 0, m, 1.0))  # where M = 0, so are P and Q
        return self.beta * _kl(log_p, log_m) + (1 - self.beta) * _kl(log_q, log_m)


@dataclasses.dataclass(frozen=True)
class TotalVariation(_OfDistributions):
    """1/2 sum |P - Q| = 1 - alpha: the probability that a drafted token is rejected."""

    @property
    def _truncated_sides(self) -> tuple[str, ...]:
        return ("target", "draft")

    def _between(self, log_p: Array, log_q: Array) -> Array:
        return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1)


@dataclasses.dataclass(frozen=True)
class NegativeLogAcceptance(_OfDistributions):
    """-log alpha = -log sum min(P, Q). TVD's gradient over alpha: it does not fade where little is accepted.

    Truncated distributions that share no token count as `NOTHING_SHARED`, without a gradient.
    """

    @property
    def _truncated_sides(self) -> tuple[str, ...]:
        return ("target", "draft")

    def _between(self, log_p: Array, log_q: Array) -> Array:
        log_alpha = log_overlap(log_p, log_q)
        return jnp.where(log_alpha > -jnp.inf, -log_alpha, NOTHING_SHARED)


@dataclasses.dataclass(frozen=True)
class HardLabels:
    """-log Q of the sequence's own token: SeqKD on the target's texts, cross-entropy on any others."""

    def __call__(
        self, target_logits_BTV: Array, draft_logits_BTV: Array, mask_BT: Array, tokens_BT: Array
    ) -> Array:
        draft = jnp.where(mask_BT[..., None] > 0, draft_logits_BTV, 0.0).astype(jnp.float32)
        log_q_BT = jnp.take_along_axis(jax.nn.log_softmax(draft), tokens_BT[..., None], axis=-1)[..., 0]
        return jnp.where(mask_BT > 0, -log_q_BT, 0.0)


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """Several divergences at once.

    Attributes:
      divergences: one or more.
      weights: positive and finite, one a divergence; they need not sum to 1.
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
        given = target_logits_BTV, draft_logits_BTV, mask_BT, tokens_BT
        losses = [w * d(*given) for d, w in zip(self.divergences, self.weights, strict=True)]
        return jnp.sum(jnp.stack(losses), axis=0)


def of_vocabulary(divergence: Divergence, vocabulary: Vocabulary) -> Divergence:
    """The divergence whose truncated distributions are those that a sampler has over this vocabulary."""
    if isinstance(divergence, WeightedSum):
        parts = tuple(of_vocabulary(part, vocabulary) for part in divergence.divergences)
        return dataclasses.replace(divergence, divergences=parts)
    if isinstance(divergence, _OfDistributions):
        return dataclasses.replace(divergence, padding_ids=vocabulary.padding_ids)
    return divergence


NAMES: dict[str, type[Divergence]] = {
    "fkl": ForwardKL,
    "rkl": ReverseKL,
    "jsd": JensenShannon,
    "tvd": TotalVariation,
    "nla": NegativeLogAcceptance,
    "nll": HardLabels,
}
"""Short names, for the Python interface; gin files name the classes."""
