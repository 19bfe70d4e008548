"""The interface of a network to decoding, distillation and evaluation.

Parameters are an argument, never state. Encoder-decoder and decoder-only models differ only in `prefill`;
no code above this package distinguishes them.

The cache invariant: the KV cache never holds the last committed token. That token is `pending`: the
decoder start token after an encoder-decoder prefill, the last prompt token after a decoder-only one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.shapes import Array, Params

Batch = Mapping[str, Array]


@flax.struct.dataclass
class DecodeState:
    """A model's state of B rows between two calls of `extend`.

    Every leaf has the batch as its leading axis, so rows can be gathered (`select`).

    Attributes:
      length_B: int32, how many tokens of each row the cache holds. Slots at or past it are garbage.
      cache: pytree that grows with each token (self-attention keys and values), `[B, ...]` leaves.
      context: pytree that is constant after prefill (cross-attention keys, values, mask).
    """

    length_B: Array
    cache: Any
    context: Any

    def rewind(self, length_B: Array) -> DecodeState:
        """Truncates each row in O(1): attention never sees the garbage past `length_B`."""
        return dataclasses.replace(self, length_B=length_B.astype(jnp.int32))

    def select(self, rows: Array) -> DecodeState:
        """Gathers rows (several drafts per prompt, a refilled slot)."""
        return jax.tree.map(lambda x: x[rows], self)


def prompt_lengths(prompt_BT: Array) -> Array:
    """Counts each row's tokens: those before the first -1 or, in a row without -1, before trailing zeros.

    -1 pads wherever 0 may be an ordinary id: in decoding, stored sets, features of such a vocabulary.
    """
    slot_1T = jnp.arange(1, prompt_BT.shape[1] + 1)[None]
    marked_B1 = jnp.any(prompt_BT < 0, axis=1, keepdims=True)
    real_BT = jnp.where(marked_B1, prompt_BT >= 0, prompt_BT > 0)
    return jnp.max(jnp.where(real_BT, slot_1T, 0), axis=1, initial=0).astype(jnp.int32)


def width_of(prompts: Sequence[Sequence[int]]) -> int:
    """Returns the smallest width that fits the prompts; a prompt that ends in id 0 needs a -1 after it."""
    return max(len(prompt) + (prompt[-1] == 0) for prompt in prompts)


def padded_prompts(prompts: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """Pads prompts with -1 to int32 `[B, width]`, see `prompt_lengths`; `width` is at least `width_of`."""
    padded_BT = np.full((len(prompts), width), -1, np.int32)
    for row_T, prompt in zip(padded_BT, prompts, strict=True):
        row_T[: len(prompt)] = prompt
    return padded_BT


def shift_right(tokens_BT: Any) -> Any:
    """Makes decoder inputs from NumPy or JAX targets `[B, T]`: prepends 0 and drops the last target."""
    pad = jnp.pad if isinstance(tokens_BT, jax.Array) else np.pad
    return pad(tokens_BT, ((0, 0), (1, 0)))[:, :-1]


@runtime_checkable
class LanguageModel(Protocol):
    """The interface of a network to decoding, distillation and evaluation.

    Implementations are frozen, hashable values: they are static arguments of jitted functions.
    Logits are float32 and raw (padding ids included); `decoding.sampling` turns them into probabilities.
    """

    @property
    def vocab_size(self) -> int:
        """Width V of the logits; ids at or past the vocabulary's real size are padding."""

    def logits(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        """Teacher-forced logits, float32 `[B, T, V]`; position t gives the distribution of target token t."""

    def hidden(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        """The features `[B, T, M]` before the last projection of `logits`."""

    def readout(self, params: Params, hidden_BTM: Array) -> Array:
        """The last projection, per token: `logits` is `readout` of `hidden`, for any slice of T."""

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        """Reads prompts, padded as in `prompt_lengths`, and reserves room for `max_length` generated tokens.

        Returns:
          The state and `pending_B`: the committed token that the cache does not hold yet.
        """

    def extend(self, params: Params, state: DecodeState, tokens_BK: Array) -> tuple[Array, DecodeState]:
        """Appends K tokens to every row at that row's own length.

        Returns:
          `[B, K, V]` logits (position k: the distribution of the token after `tokens_BK[:, k]`) and the
          state with `length_B` increased by K. Tokens past the room reserved by `prefill` are dropped.
        """

    def prepare(self, params: Params, rows: int | None = None) -> Params:
        """Converts `params` to the form that decodes fastest; every method accepts it, with equal logits.

        Args:
          rows: batch times tokens in most calls of `extend`, if known. With few rows on a CPU, the calling
            program must be compiled by `cpu_forms.compiled`.
        """

    @property
    def listed_ids(self) -> tuple[int, ...] | None:
        """The S ids, ascending, whose logits may be above -inf (`shortlist.py`); None: all V ids."""

    def extend_listed(
        self, params: Params, state: DecodeState, tokens_BK: Array
    ) -> tuple[Array, DecodeState]:
        """`extend` with the logits of the listed ids only, `[B, K, S]`: fewer logits cost less."""

    def spread(self, log_BTS: Array) -> Array:
        """Extends logits or log-probabilities `[..., S]` of the listed ids to `[..., V]` with -inf."""


class LanguageModelDefaults:
    """Default members for a `LanguageModel` with one form of parameters and no shortlist."""

    def prepare(self, params: Params, rows: int | None = None) -> Params:
        """See `LanguageModel.prepare`."""
        return params

    @property
    def listed_ids(self) -> tuple[int, ...] | None:
        """See `LanguageModel.listed_ids`."""
        return None

    def extend_listed(
        self: LanguageModel, params: Params, state: DecodeState, tokens_BK: Array
    ) -> tuple[Array, DecodeState]:
        """See `LanguageModel.extend_listed`."""
        return self.extend(params, state, tokens_BK)

    def spread(self, log_BTS: Array) -> Array:
        """See `LanguageModel.spread`."""
        return log_BTS
