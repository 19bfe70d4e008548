"""Blocks drafted from given distributions and verified by a rule, many rows at once; distributions of small
vocabularies."""

from __future__ import annotations

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.decoding import Verdict, Verifier
from distillspec_jax.shapes import Array

ROWS = 40_000

P = np.array([[0.4, 0.15, 0.45, 0.0], [0.1, 0.2, 0.3, 0.4], [0.25, 0.0, 0.5, 0.25]])
Q = np.array([[0.2, 0.3, 0.1, 0.4], [0.4, 0.3, 0.2, 0.1]])
"""A target's three distributions, each whatever came before it, and a draft's two. A first draft has p / q
above 1, below it, or 0: only between 0 and 1 does the block rule's residual differ from the token rule's."""


def log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(0, 5))
def drafted_and_verified(
    rule: Verifier, seed: int, log_p_KV: Array, log_q_GV: Array, length: int, blocks: int
) -> tuple[Array, Verdict]:
    """`ROWS` rows whose drafts are drawn from q by means that the package has no part in."""
    keys, draft_keys = jax.random.split(jax.random.key(seed), (2, ROWS))
    shape = (blocks, len(log_q_GV))
    tokens_BNG = jax.vmap(lambda key: jax.random.categorical(key, log_q_GV[None], axis=-1, shape=shape))(
        draft_keys
    )

    def spread(x: Array) -> Array:
        return jnp.broadcast_to(x[None, None], (ROWS, blocks, *x.shape))

    length_BN = jnp.full((ROWS, blocks), length)
    logits = spread(log_p_KV)
    return tokens_BNG, rule(
        keys, tokens_BNG, spread(log_q_GV), spread(log_p_KV), length_BN, logits_BNKV=logits
    )


def verified(
    rule: Verifier, p_KV: np.ndarray, q_GV: np.ndarray, length: int, *, blocks: int = 1, seed: int = 0
) -> Counter[tuple[int, ...]]:
    """Counts of (accepted drafts..., next token)."""
    found = drafted_and_verified(rule, seed, log(p_KV), log(q_GV), length, blocks)
    tokens_BNG, verdict = jax.device_get(found)
    chosen_BG = tokens_BNG[np.arange(ROWS), verdict.branch_B]
    rows = zip(chosen_BG.tolist(), verdict.accepted_B.tolist(), verdict.next_token_B.tolist(), strict=True)
    return Counter((*row[:accepted], next_token) for row, accepted, next_token in rows)
