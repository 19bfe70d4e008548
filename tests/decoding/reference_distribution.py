"""The sampling distribution once more, by sorting, in float64: what `decoding.distribution` is compared
with."""

from __future__ import annotations

import numpy as np


def reference_probs(
    logits_V: np.ndarray,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
    vocab_size: int | None = None,
    excluded_ids: tuple[int, ...] = (0,),
) -> np.ndarray:
    """Probabilities of one row, `[vocab_size]`."""
    logits_V = np.asarray(logits_V, np.float64)[:vocab_size]
    allowed = [v for v in range(len(logits_V)) if v not in excluded_ids]
    ranked = sorted(allowed, key=lambda v: (-logits_V[v], v))
    probs_V = np.zeros(len(logits_V))
    if temperature == 0:
        probs_V[ranked[0]] = 1.0
        return probs_V
    if top_k:
        ranked = ranked[:top_k]
    weight = np.exp((logits_V[ranked] - logits_V[ranked[0]]) / temperature)
    mass = weight / weight.sum()
    if top_p < 1:
        needed = 1
        while mass[:needed].sum() < top_p:
            needed += 1
        ranked, mass = ranked[:needed], mass[:needed]
    probs_V[ranked] = mass / mass.sum()
    return probs_V
