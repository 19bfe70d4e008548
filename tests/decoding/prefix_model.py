"""The smallest honest network: every logit depends on the whole prefix, each token's place, and the cache.

A decoder-only `LanguageModel` of one fixed attention: a token's value is its embedding turned by its
absolute slot, and a query sums the visible values, older ones fading. Anything that a cache can get wrong
(a missing, stale or shifted slot, another row's length, a garbage tail) moves the logits.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from distillspec_jax.models.interface import Batch, DecodeState, LanguageModelDefaults
from distillspec_jax.shapes import Array, Params

FADE = 0.8


@dataclasses.dataclass(frozen=True)
class PrefixModel(LanguageModelDefaults):
    vocab_size: int
    width: int = 6

    def init_params(self, seed: int, scale: float = 1.5) -> Params:
        """Random weights. `fault_V` is added to every logit after its token: NaN is a model that fails."""
        draws = np.random.default_rng(seed)
        return {
            "embed_VD": draws.normal(size=(self.vocab_size, self.width)).astype(np.float32),
            "out_DV": scale * draws.normal(size=(self.width, self.vocab_size)).astype(np.float32),
            "fault_V": np.zeros(self.vocab_size, np.float32),
        }

    def logits(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        """Direct sums over the prefix, without a cache. `tokens`: position t is the distribution of token t +
        1."""
        tokens_BT = batch["tokens"]
        slot = jnp.arange(tokens_BT.shape[1])
        age_TT = slot[:, None] - slot[None]
        weight_TT = jnp.where(age_TT >= 0, FADE ** jnp.maximum(age_TT, 0).astype(jnp.float32), 0.0)
        hidden = jnp.einsum("ts,bsd->btd", weight_TT, self._values(params, tokens_BT, slot[None]))
        return self._read_out(params, hidden, tokens_BT)

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        length_B = (prompt_BT > 0).sum(-1).astype(jnp.int32) - 1
        slot = jnp.arange(prompt_BT.shape[1])
        values = self._values(params, prompt_BT, slot[None])
        garbage = jnp.full((len(prompt_BT), max_length, self.width), 7.0)
        state = DecodeState(length_B, jnp.concatenate([values, garbage], axis=1), context={})
        return state, jnp.take_along_axis(prompt_BT, length_B[:, None], axis=1)[:, 0]

    def extend(self, params: Params, state: DecodeState, tokens_BK: Array) -> tuple[Array, DecodeState]:
        slot_BK = state.length_B[:, None] + jnp.arange(tokens_BK.shape[1])[None]
        rows = jnp.arange(len(tokens_BK))[:, None]
        values = self._values(params, tokens_BK, slot_BK)
        cache = state.cache.at[rows, slot_BK].set(values, mode="drop")
        age_BKS = slot_BK[..., None] - jnp.arange(cache.shape[1])[None, None]
        weight = jnp.where(age_BKS >= 0, FADE ** jnp.maximum(age_BKS, 0).astype(jnp.float32), 0.0)
        logits = self._read_out(params, jnp.einsum("bks,bsd->bkd", weight, cache), tokens_BK)
        return logits, state.replace(length_B=state.length_B + tokens_BK.shape[1], cache=cache)

    def _read_out(self, params: Params, hidden: Array, tokens: Array) -> Array:
        return jnp.tanh(hidden) @ params["out_DV"] + jnp.asarray(params["fault_V"])[tokens][..., None]

    def _values(self, params: Params, tokens: Array, slot: Array) -> Array:
        pace = 0.5 * (1.0 + jnp.arange(self.width))
        turn = jnp.cos(slot[..., None] * pace[None, None])
        return jnp.asarray(params["embed_VD"])[tokens] * turn
