"""Which ids a target's texts ask for: what a draft's shortlist is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillspec_jax.data.target_set import TargetSet
from distillspec_jax.errors import UsageError


def token_mass(texts: TargetSet) -> np.ndarray:
    """The mean distribution over all tokens of a set, as far as it is known: `[V]`, of sum 1 or less.

    Distributions are the stored ones, without the part of it that they keep for all other ids together; of a
    set without distributions, the tokens themselves.
    """
    mass_V, tokens = np.zeros(texts.header.logits), 0
    for distribution in texts.logprobs():
        np.add.at(mass_V, distribution.ids_NK, np.exp(distribution.log_p_NK.astype(np.float64)))
        tokens += len(distribution.ids_NK)
    if not tokens:
        for text in texts.texts:
            np.add.at(mass_V, text["tokens"], 1.0)
            tokens += len(text["tokens"])
    return mass_V / tokens


def heaviest(mass_V: np.ndarray, count: int, always: Sequence[int] = ()) -> list[int]:
    """So many ids, ascending: those of `always`, then the heaviest; the lowest of equal ones.

    Raises:
      UsageError: not fewer than all ids, or too few for `always`.
    """
    least, all_ids = max(len(always), 1), len(mass_V)
    if not least <= count < all_ids:
        raise UsageError(f"--shortlist={count}: must be at least {least} and below {all_ids}, all ids")
    order = np.argsort(-mass_V, kind="stable")
    rest = order[~np.isin(order, always)]
    return sorted({*always, *rest[: count - len(always)].tolist()})
