"""The interface of a network to decoding, distillation and evaluation.

Parameters are an argument, never state; encoder-decoder and decoder-only models differ only in
`prefill`. Nothing above this package asks which of the two it is given.

The cache invariant: the cache never holds the last committed token. That token is `pending`: the
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
    """Everything a model remembers of B rows between two calls of `extend`.

    Every leaf has the batch as its leading axis, so rows can be gathered (`select`).

    Attributes:
      length_B: int32, how many tokens of each row the cache holds. Slots at or past it are garbage.
      cache: pytree of what grows by a token (self-attention keys and values), `[B, ...]` leaves.
      context: pytree of what never changes after prefill (cross-attention keys, values, mask).
    """

    length_B: Array
    cache: Any
    context: Any

    def rewind(self, length_B: Array) -> DecodeState:
        """Forgets the tail of each row, in O(1): garbage past `length_B` is never attended to."""
        return dataclasses.replace(self, length_B=length_B.astype(jnp.int32))

    def select(self, rows: Array) -> DecodeState:
        """Gathers rows (several drafts a prompt, a refilled slot)."""
        return jax.tree.map(lambda x: x[rows], self)


def prompt_lengths(prompt_BT: Array) -> Array:
    """Tokens of each row: those before the first -1, or, of a row without one, before the zeros at its end.

    -1 pads wherever 0 may be an id like others: in decoding, stored sets, features of such a vocabulary.
    """
    slot_1T = jnp.arange(1, prompt_BT.shape[1] + 1)[None]
    marked_B1 = jnp.any(prompt_BT < 0, axis=1, keepdims=True)
    real_BT = jnp.where(marked_B1, prompt_BT >= 0, prompt_BT > 0)
    return jnp.max(jnp.where(real_BT, slot_1T, 0), axis=1, initial=0).astype(jnp.int32)


def width_of(prompts: Sequence[Sequence[int]]) -> int:
    """The smallest width that holds the prompts: one more where the last id is 0, which -1 must follow."""
    return max(len(prompt) + (prompt[-1] == 0) for prompt in prompts)


def padded_prompts(prompts: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """int32 `[B, width]`, as `prompt_lengths` reads them; `width` is `width_of` them, or more."""
    padded_BT = np.full((len(prompts), width), -1, np.int32)
    for row_T, prompt in zip(padded_BT, prompts, strict=True):
        row_T[: len(prompt)] = prompt
    return padded_BT


def shift_right(tokens_BT: Any) -> Any:
    """Decoder inputs of targets `[B, T]`, NumPy's or JAX's: 0 first, the last target left out."""
    pad = jnp.pad if isinstance(tokens_BT, jax.Array) else np.pad
    return pad(tokens_BT, ((0, 0), (1, 0)))[:, :-1]


@runtime_checkable
class LanguageModel(Protocol):
    """A network as decoding, distillation and evaluation see it.

    Implementations are frozen, hashable values: they are static arguments of jitted functions.
    Logits are float32 and raw (padding ids included); `decoding.sampling` turns them into probabilities.
    """

    @property
    def vocab_size(self) -> int:
        """Width V of the logits; ids at or past the vocabulary's real size are padding."""

    def logits(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        """Teacher forcing: `[B, T, V]` float32; position t is the distribution of target token t."""

    def hidden(self, params: Params, batch: Batch, *, dropout_key: Array | None = None) -> Array:
        """`logits` up to the last projection: `[B, T, M]`."""

    def readout(self, params: Params, hidden_BTM: Array) -> Array:
        """The last projection, token by token: `logits` is `readout` of `hidden`, for any part of T."""

    def prefill(self, params: Params, prompt_BT: Array, max_length: int) -> tuple[DecodeState, Array]:
        """Reads prompts, padded as `prompt_lengths` says, and makes room for `max_length` generated tokens.

        Returns:
          The state and `pending_B`: the committed token that the cache does not hold yet.
        """

    def extend(self, params: Params, state: DecodeState, tokens_BK: Array) -> tuple[Array, DecodeState]:
        """Appends K tokens to every row at that row's own length.

        Returns:
          `[B, K, V]` logits (position k: the distribution of the token after `tokens_BK[:, k]`) and the
          state, `length_B` grown by K. Tokens past the room made by `prefill` are not written.
        """

    def prepare(self, params: Params, rows: int | None = None) -> Params:
        """The form of `params` that decodes fastest, for any method here in their place; same logits.

        Args:
          rows: batch times tokens of most calls of `extend`, where it is known. For few on a CPU, what calls
            it must be compiled by `cpu_forms.compiled`.
        """

    @property
    def listed_ids(self) -> tuple[int, ...] | None:
        """The S ids, ascending, whose logits alone are above -inf (`shortlist.py`); None: all V may be."""

    def extend_listed(
        self, params: Params, state: DecodeState, tokens_BK: Array
    ) -> tuple[Array, DecodeState]:
        """`extend` with the logits of the listed ids alone, `[B, K, S]`: fewer logits cost less."""

    def spread(self, log_BTS: Array) -> Array:
        """Logits or log-probabilities `[..., S]` of the listed ids to `[..., V]`: -inf beside the list."""


class LanguageModelDefaults:
    """The members of a `LanguageModel` that has one form of parameters and no shortlist."""

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
