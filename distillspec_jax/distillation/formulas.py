"""Divergences between two distributions, one pure function per formula.

All take log-probabilities `[..., V]`, the target's P and the draft's Q, and reduce the last axis to `[...]`,
in nats unless stated otherwise. -inf is a probability of 0; values and gradients are finite wherever the
formula is. `divergences` handles masks and stopped gradients, `loss` handles means.

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
"""-log alpha, in nats, of two distributions without a common token: alpha = 2^-24, float32's resolution."""


def forward_kl(log_p: Array, log_q: Array) -> Array:
    """Computes KL(P || Q) = sum_v P (log P - log Q): the draft covers all tokens the target may emit.

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
    """Computes KL(Q || P) = sum_v Q (log Q - log P): the draft seeks the target's modes.

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

    The value is not divided by beta: it tends to 0 as beta tends to 0 or 1.

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
    """Computes log alpha = log sum_v min(P, Q), exact for any alpha, however small.

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
    # Select before the sum, so no gradient computes -inf - -inf.
    some = jax.nn.logsumexp(jnp.where(shared[..., None], least, 0.0), axis=-1)
    return jnp.where(shared, some, -jnp.inf)


def negative_log_acceptance(log_p: Array, log_q: Array) -> Array:
    """Computes -log alpha = -log sum_v min(P, Q).

    The gradient is that of total variation divided by alpha: it does not vanish where acceptance is low.

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

    Forward KL, whose gradient does not vanish at low acceptance, trains tokens with low alpha; total
    variation trains tokens with high alpha. Here lambda is per token, so the value does not depend on the
    rest of the batch; the authors' own trainer computes alpha over a batch.

    Args:
      log_p: log-probabilities of the target, `[..., V]`.
      log_q: log-probabilities of the draft, `[..., V]`.
      eta: positive; how soon total variation replaces forward KL (the paper's best: 3).

    Returns:
      `[...]`, the unscaled sum of nats and a probability.

    References:
      The hybrid objective of arXiv 2602.23881.
    """
    weight = jnp.exp(-eta * jnp.exp(jax.lax.stop_gradient(log_overlap(log_p, log_q))))
    return weight * _kl(log_p, log_q) + (1 - weight) * total_variation(log_p, log_q)


def expected_accepted(overlap_BT: Array, mask_BT: Array, block_size: int) -> Array:
    """Computes sum_i prod_{j <= i} alpha_{t+j}: expected accepted drafts of a block starting at each token.

    alpha is read along the given sequence, as if its tokens were the drafted ones. A block ends with the
    sequence. Each round emits one more token, the target's, so block efficiency is 1 + this value.

    Args:
      overlap_BT: alpha = sum_v min(P, Q) of each token, `[B, T]`.
      mask_BT: 1 for a sequence's own tokens, which come first.
      block_size: gamma, drafts per block.

    Returns:
      `[B, T]`, tokens; 0 where the mask is 0.

    References:
      With one alpha for all tokens, equation 1 of arXiv 2211.17192 minus its bonus token.
    """
    overlap_BT = overlap_BT * mask_BT
    accepted_BT = jnp.zeros_like(overlap_BT)
    for _ in range(min(block_size, overlap_BT.shape[1])):  # from the block's last draft to its first
        following_BT = jnp.pad(accepted_BT, ((0, 0), (0, 1)))[:, 1:]
        accepted_BT = overlap_BT * (1 + following_BT)
    return accepted_BT


def hard_label(log_q: Array, tokens: Array) -> Array:
    """Computes -log Q(y) of given tokens: cross-entropy, or SeqKD if the target generated them.

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
    """Computes KL(A || B); a term with A = 0 is 0, whatever B is."""
    a = jnp.exp(log_a)
    # Select the ratio, not the product: -inf - -inf must not be multiplied, not even by a zero cotangent.
    return jnp.sum(a * jnp.where(a > 0, log_a - log_b, 0.0), axis=-1)
