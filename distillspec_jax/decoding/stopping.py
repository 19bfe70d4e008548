"""Rules that end a sequence by its own content (the loop handles the length limit)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from distillspec_jax.errors import UsageError
from distillspec_jax.shapes import Array

MOST_BYTES = 512
"""The maximum total size of all stop strings: each byte is a table row with a column for every id."""


class Stopping(Protocol):
    """A frozen, hashable rule: a static part of a decoding loop."""

    def ends(self, output_BT: Array, emitted_B: Array, block_BK: Array) -> Array:
        """Marks the tokens of a block that would end their row.

        Args:
          output_BT: each row's emitted tokens, valid up to `emitted_B`.
          block_BK: tokens that would follow.

        Returns:
          Boolean `[B, K]`: the sequence ends with this token (which is kept).
        """


@dataclasses.dataclass(frozen=True)
class StopOnEos:
    """Ends a row at any of the end-of-sequence ids."""

    eos_ids: tuple[int, ...] = (1,)

    def ends(self, output_BT: Array, emitted_B: Array, block_BK: Array) -> Array:
        del output_BT, emitted_B  # The id ends the row at any position.
        return jnp.isin(block_BK, jnp.asarray(self.eos_ids, block_BK.dtype))


STOP_ON_EOS = StopOnEos()
"""T5's convention, id 1, is the default everywhere."""


@dataclasses.dataclass(frozen=True)
class StopOnStrings:
    """Ends a row at an end-of-sequence id, or with the token that completes a stop string.

    A string may begin and end inside tokens and may be tokenised in any way. An automaton reads the text byte
    by byte (Aho and Corasick, 1975); it is unrolled into a table from (state, token) to state.

    Attributes:
      strings: UTF-8, none empty.
      pieces: the UTF-8 bytes that each id adds to the text (`Tokenizer.piece_bytes`).
      eos_ids: as in `StopOnEos`.
      first_pieces: the bytes that each id adds to an empty text (`Tokenizer.first_piece_bytes`); None: the
        same as `pieces`.

    Raises:
      UsageError: there is no string, a string is empty, or all have more than `MOST_BYTES` in total.
    """

    strings: tuple[bytes, ...]
    pieces: tuple[bytes, ...]
    eos_ids: tuple[int, ...] = (1,)
    first_pieces: tuple[bytes, ...] | None = None

    def __post_init__(self) -> None:
        if not self.strings or not all(self.strings):
            raise UsageError(f"stop strings are {list(self.strings)}: need one at least, and none empty")
        size = sum(map(len, self.strings))
        if size > MOST_BYTES:
            raise UsageError(f"stop strings have {size:,} bytes in all, must have at most {MOST_BYTES}")

    def __hash__(self) -> int:
        return hash((self.strings, len(self.pieces), self.eos_ids))  # hashing all pieces would be slow

    def ends(self, output_BT: Array, emitted_B: Array, block_BK: Array) -> Array:
        """See `Stopping.ends`."""
        table = _token_table(self.strings, self.pieces, self.first_pieces or self.pieces)
        matched, empty = len(table) - 2, len(table) - 1
        next_state = jnp.asarray(table)
        # A stop string of n bytes that ends in the block began at most n - 1 bytes before it, hence at most
        # n - 1 non-empty tokens: replaying these gives the state before the block. Empty tokens are skipped.
        moves = (table != np.arange(len(table))[:, None]).any(0)
        told_BT = jnp.arange(output_BT.shape[1])[None] < emitted_B[:, None]
        moves_BT = jnp.asarray(moves)[output_BT] & told_BT
        back_BT = jnp.cumsum(moves_BT[:, ::-1], axis=1)[:, ::-1]
        most = min(max(map(len, self.strings)) - 1, output_BT.shape[1])

        def read(i: Array, state_B: Array) -> Array:
            token_B = jnp.max(jnp.where(moves_BT & (back_BT == most - i), output_BT, -1), axis=1, initial=-1)
            return jnp.where(token_B >= 0, next_state[state_B, token_B], state_B)

        # If a row has emitted no more non-empty tokens than that, the replay starts at its empty text.
        state_B = jnp.where(back_BT[:, 0] <= most, jnp.int32(empty), 0)
        # Partly unrolled: a fully unrolled loop would take minutes to compile for long strings.
        state_B = jax.lax.fori_loop(0, most, read, state_B, unroll=4)
        ends_KB = []
        for k in range(block_BK.shape[1]):
            state_B = next_state[state_B, block_BK[:, k]]
            ends_KB.append(state_B == matched)
        return jnp.stack(ends_KB, axis=1) | StopOnEos(self.eos_ids).ends(output_BT, emitted_B, block_BK)


@functools.lru_cache(maxsize=8)
def _token_table(
    strings: tuple[bytes, ...], pieces: tuple[bytes, ...], first_pieces: tuple[bytes, ...]
) -> np.ndarray:
    """Builds the transition table int32 `[states, V]` from a state and a token to the next state.

    A state is the longest suffix of the text that is a prefix of a string; state 0 is the empty suffix. The
    last state but one means that a string has matched, and is absorbing. The last state is that of a text
    to which no id has added bytes yet.
    """
    bytes_SX = _byte_table(strings)

    def read(states: np.ndarray, piece: bytes) -> np.ndarray:
        for byte in piece:
            states = bytes_SX[states, byte]
        return states

    states_S, empty = np.arange(len(bytes_SX)), len(bytes_SX)
    table = np.empty((empty + 1, len(pieces)), np.int32)
    for token, (piece, first) in enumerate(zip(pieces, first_pieces, strict=True)):
        table[:empty, token] = read(states_S, piece)
        table[empty, token] = read(states_S[:1], first)[0] if piece else empty
    return table


def _byte_table(strings: tuple[bytes, ...]) -> np.ndarray:
    """Builds the transitions int32 `[states, 256]` by bytes, for all states of `_token_table` but the last.

    Goes from the shortest state to the longest. A byte that does not continue a string leads to the state
    that it leads to from the longest proper suffix that is also a state (the failure link).
    """
    begun = {string[:n]: set[int]() for string in strings for n in range(len(string))}
    for string in strings:
        for n, byte in enumerate(string):
            begun[string[:n]].add(byte)
    prefixes, whole = sorted(begun, key=len), set(strings)
    number, matched = {prefix: i for i, prefix in enumerate(prefixes)}, len(prefixes)
    next_SX = np.zeros((matched + 1, 256), np.int32)
    next_SX[matched] = matched
    end_S = np.zeros(matched, np.int32)
    for state, prefix in enumerate(prefixes):
        next_SX[state] = next_SX[end_S[state]] if state else 0
        for byte in begun[prefix]:
            longer = prefix + bytes([byte])
            if longer in whole:
                next_SX[state, byte] = matched
            elif next_SX[state, byte] != matched:  # a shorter string already matches here
                end_S[number[longer]] = next_SX[state, byte]
                next_SX[state, byte] = number[longer]
    return next_SX
