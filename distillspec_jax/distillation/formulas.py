"""Divergences between two distributions, one pure function a formula.

All take log-probabilities `[..., V]`, the target's P and the draft's Q, and reduce the last axis: `[...]`, in
nats unless they say otherwise. -inf is a probability of 0; values and gradients stay finite wherever the
formula is. Masks and stopped gradients are the business of `divergences`, means that of `loss`.

References:
  DistillSpec, arXiv 2310.08461, section 3 and appendix A.1.
  GKD, arXiv 2306.13649 (the same JSD with beta on the target's side).
  Speculative decoding, arXiv 2211.17192.
  LK losses, arXiv 2602.23881.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from distillspec_jax.shapes import Array

NOTHING_SHARED = 24 * math.log(2)
"""-log alpha, in nats, of two distributions without a common token: float32's resolution stands for 0."""


def forward_kl(log_p: Array, log_q: Array) -> Array:
    """Computes KL(P || Q) = sum_v P (log P - log Q): the draft covers whatever the target may say.

    A term with P = 0 is 0, whatever Q is; the sum is infinite where Q = 0 and P > 0.

    Args:
      log_p: log-probabilities of the target, `[..., V]`.
      log_q: log-probabilities of the draft, `[..., V]`.

    Returns:
      `[...]`, nats.

    References:
      FKL of arXiv 2310.08461, appendix A.1.
    """
    return _kl(log_p, log_q)


def reverse_kl(log_p: Array, log_q: Array) -> Array:
    """Computes KL(Q || P) = sum_v Q (log Q - log P): the draft keeps to what the target is sure of.

    A term with Q = 0 is 0, whatever P is; the sum is infinite where P = 0 and Q > 0.

    Args:
      log_p: log-probabilities of the target, `[..., V]`.
      log_q: log-probabilities of the draft, `[..., V]`.

    Returns:
      `[...]`, nats.

    References:
      RKL of arXiv 2310.08461, appendix A.1.
    """
    return _kl(log_q, log_p)


def jensen_shannon(log_p: Array, log_q: Array, beta: float = 0.5) -> Array:
    """Computes beta KL(P || M) + (1 - beta) KL(Q || M), with M = beta P + (1 - beta) Q.

    The value is not divided by beta: it tends to 0 for beta to 0 or 1.

    Args:
      log_p: log-probabilities of the target, `[..., V]`.
      log_q: log-probabilities of the draft, `[..., V]`.
      beta: in (0, 1), the target's weight in both places; 1/2 is the symmetric JSD.

    Returns:
      `[...]`, nats; at most log 2.

    References:
      JSD[beta] of arXiv 2310.08461, appendix A.1, and of arXiv 2306.13649.
    """
    m = beta * jnp.exp(log_p) + (1 - beta) * jnp.exp(log_q)
    log_m = jnp.log(jnp.where(m > 0, m, 1.0))  # where M = 0, so are P and Q
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def total_variation(log_p: Array, log_q: Array) -> Array:
    """Computes 1/2 sum_v |P - Q| = 1 - alpha: the probability that a drafted token is rejected.

    Args:
      log_p: log-probabilities of the target, `[..., V]`.
      log_q: log-probabilities of the draft, `[..., V]`.

    Returns:
      `[...]`, a probability.

    References:
      TVD of arXiv 2310.08461, appendix A.1; alpha of arXiv 2211.17192, corollary 3.6.
    """
    return 0.5 * jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1)


def log_overlap(log_p: Array, log_q: Array) -> Array:
    """Computes log alpha = log sum_v min(P, Q), exact however small alpha is.

    alpha is the probability that a token drafted from Q is accepted.

    Args:
      log_p: log-probabilities of the target, `[..., V]`.
      log_q: log-probabilities of the draft, `[..., V]`.

    Returns:
      `[...]`, nats; -inf, with zero gradient, where the two share no token.

    References:
      Corollary 3.6 of arXiv 2211.17192.
    """
    least = jnp.minimum(log_p, log_q)
    shared = jnp.any(least > -jnp.inf, axis=-1)
    # Selected before the sum, so that no gradient is made of -inf - -inf.
    some = jax.nn.logsumexp(jnp.where(shared[..., None], least, 0.0), axis=-1)
    return jnp.where(shared, some, -jnp.inf)


def negative_log_acceptance(log_p: Array, log_q: Array) -> Array:
    """Computes -log alpha = -log sum_v min(P, Q).

    The gradient is the total variation's over alpha: it does not fade where little is accepted.

    Args:
      log_p: log-probabilities of the target, `[..., V]`.
      log_q: log-probabilities of the draft, `[..., V]`.

    Returns:
      `[...]`, nats; `NOTHING_SHARED`, with zero gradient, where the two share no token.

    References:
      alpha of arXiv 2211.17192, corollary 3.6.
    """
    log_alpha = log_overlap(log_p, log_q)
    return jnp.where(log_alpha > -jnp.inf, -log_alpha, NOTHING_SHARED)


def lk_hybrid(log_p: Array, log_q: Array, eta: float = 3.0) -> Array:
    """Computes lambda KL(P || Q) + (1 - lambda) TV(P, Q), with lambda = exp(-eta alpha) held constant.

    A token of which little is accepted is taught by forward KL, whose gradient does not fade there, one of
    which much is accepted by the total variation. Here lambda belongs to a token, so that the value does not
    depend on what else is in the batch; the authors' own trainer takes alpha over a batch.

    Args:
      log_p: log-probabilities of the target, `[..., V]`.
      log_q: log-probabilities of the draft, `[..., V]`.
      eta: positive; how soon the total variation takes over (the paper's best: 3).

    Returns:
      `[...]`, nats and a probability, added as they are.

    References:
      The hybrid objective of arXiv 2602.23881.
    """
    weight = jnp.exp(-eta * jnp.exp(jax.lax.stop_gradient(log_overlap(log_p, log_q))))
    return weight * _kl(log_p, log_q) + (1 - weight) * total_variation(log_p, log_q)


def expected_accepted(overlap_BT: Array, mask_BT: Array, block_size: int) -> Array:
    """Computes sum_i prod_{j <= i} alpha_{t+j}: the drafts accepted of a block that begins at each token.

    alpha is taken along the sequence given, as if its tokens were the drafted ones. A block ends with the
    sequence. One more token, the target's, is emitted a round: block efficiency is 1 + this.

    Args:
      overlap_BT: alpha = sum_v min(P, Q) of each token, `[B, T]`.
      mask_BT: 1 for a sequence's own tokens, which come first.
      block_size: gamma, drafts in a block.

    Returns:
      `[B, T]`, tokens; 0 where the mask is 0.

    References:
      With one alpha for all, equation 1 of arXiv 2211.17192, less its bonus token.
    """
    overlap_BT = overlap_BT * mask_BT
    accepted_BT = jnp.zeros_like(overlap_BT)
    for _ in range(min(block_size, overlap_BT.shape[1])):  # from the block's last draft to its first
        following_BT = jnp.pad(accepted_BT, ((0, 0), (0, 1)))[:, 1:]
        accepted_BT = overlap_BT * (1 + following_BT)
    return accepted_BT


def hard_label(log_q: Array, tokens: Array) -> Array:
    """Computes -log Q(y) of given tokens: cross-entropy, and SeqKD where the target wrote them.

    Args:
      log_q: log-probabilities of the draft, `[..., V]`.
      tokens: int32 ids, `[...]`.

    Returns:
      `[...]`, nats.

    References:
      SeqKD of arXiv 2310.08461, section 3.
    """
    return -jnp.take_along_axis(log_q, tokens[..., None], axis=-1)[..., 0]


def _kl(log_a: Array, log_b: Array) -> Array:
    """Computes KL(A || B); a term with A = 0 is 0, whatever B is there."""
    a = jnp.exp(log_a)
    # The ratio and not the product is selected: -inf - -inf must meet no factor, not even a cotangent's 0.
    return jnp.sum(a * jnp.where(a > 0, log_a - log_b, 0.0), axis=-1)
