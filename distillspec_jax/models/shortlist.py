"""A draft that reads every id but proposes only a few thousand of the most likely ones.

The projection to logits dominates a small draft: it is two thirds of a four-layer SmolLM2. Verification is
exact for any distribution that the drafts were actually drawn from, so a draft may leave ids out; the only
loss is the acceptance of tokens that are never proposed (FR-Spec, arXiv 2502.14856).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from distillspec_jax.errors import UsageError
from distillspec_jax.models.dense import Dense
from distillspec_jax.models.interface import Batch, DecodeState
from distillspec_jax.models.network import Network
from distillspec_jax.models.prepared import form_of
from distillspec_jax.models.soft_cap import soft_capped
from distillspec_jax.shapes import Array, Params

_KEY = "shortlist"
"""The key of the narrow projection, next to the network's own parameters."""


@dataclasses.dataclass(frozen=True)
class Shortlisted:
    """A `LanguageModel` (see `interface.py`) with a network's logits at the listed ids, -inf at all others.

    It uses the network's own parameters; prepared, they have the narrow projection instead of the wide one.

    Attributes:
      ids: the listed ids, ascending.

    Raises:
      UsageError: there are no ids, they are not ascending, or the network does not have them.
    """

    network: Network
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        ids = self.ids
        if not ids or list(ids) != sorted(set(ids)) or not 0 <= ids[0] <= ids[-1] < self.vocab_size:
            raise UsageError(f"a shortlist must be ascending ids below {self.vocab_size}, at least one")

    @property
    def vocab_size(self) -> int:
        return self.network.vocab_size

    @property
    def listed_ids(self) -> tuple[int, ...]:
        return self.ids

    def prepare(self, params: Params, rows: int | None = None) -> Params:
        """See `LanguageModel.prepare`."""
        if _KEY in params:
            return params
        whole, ids = params["decoder"], np.array(self.ids)
        if "logits_dense" in whole:
            dense = {name: leaf[..., ids] for name, leaf in whole["logits_dense"].items()}
            narrowed = {**params, "decoder": {**whole, "logits_dense": dense}}
        else:  # rows of the embedding, before it is transposed
            narrowed = {**params, "token_embedder": {"embedding": params["token_embedder"]["embedding"][ids]}}
        decoder = dict(self.network.prepare(narrowed, rows)["decoder"])
        return {**params, _KEY: decoder.pop("logits_dense"), "decoder": decoder}

    def logits(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        return self.readout(params, self.hidden(params, batch, dropout_key=dropout_key))

    def hidden(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        return self.network.hidden(params, batch, dropout_key=dropout_key)

    def readout(self, params: Params, hidden_BTM: Array) -> Array:
        return self.spread(self._listed_logits(params, hidden_BTM))

    def listed_logits(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        """`logits` of the listed ids only: `[B, T, S]`."""
        return self._listed_logits(params, self.hidden(params, batch, dropout_key=dropout_key))

    def columns(self, ids: Array) -> Array:
        """Maps ids to their index in the list; S for an id that is not listed."""
        return jnp.asarray(self._column_V)[ids]

    def _listed_logits(self, params: Params, hidden_BTM: Array) -> Array:
        params = self.prepare(params)
        project = Dense(len(self.ids), ("embed", "vocab"), form=form_of(params))
        logits_BTS: Any = project.apply({"params": params[_KEY]}, hidden_BTM)
        return soft_capped(logits_BTS, self.network.logits_cap)

    def spread(self, log_BTS: Array) -> Array:
        """Extends logits or log-probabilities `[..., S]` of the listed ids to `[..., V]` with -inf.

        An all-NaN row stays NaN.
        """
        beside = jnp.where(jnp.isnan(log_BTS[..., :1]), jnp.nan, -jnp.inf)
        # Every unlisted id reads one extra column, because CPUs gather faster than they scatter.
        return jnp.concatenate([log_BTS, beside], axis=-1)[..., self._column_V]

    @functools.cached_property
    def _column_V(self) -> np.ndarray:
        column_V = np.full(self.vocab_size, len(self.ids), np.int32)
        column_V[list(self.ids)] = np.arange(len(self.ids))
        return column_V

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        return self.network.prefill(params, prompt_BT, max_length)

    def extend(self, params: Params, state: DecodeState, tokens_BK: Array) -> tuple[Array, DecodeState]:
        logits_BKS, state = self.extend_listed(params, state, tokens_BK)
        return self.spread(logits_BKS), state

    def extend_listed(
        self, params: Params, state: DecodeState, tokens_BK: Array
    ) -> tuple[Array, DecodeState]:
        """`extend` with the logits of the listed ids only, `[B, K, S]`: fewer logits cost less."""
        hidden_BKM, state = self.network.extend_hidden(params, state, tokens_BK)
        return self._listed_logits(params, hidden_BKM), state


def spared(network: Network, size: int) -> int:
    """Counts the parameters per token that a shortlist of `size` ids (0: none) saves reading."""
    config = network.config
    return (network.vocab_size - size) * (config.embedding_rank or config.emb_dim) if size else 0
