"""The interface of a tokenizer's library, and what can be said of a vocabulary through it."""

from __future__ import annotations

from typing import Protocol

SPACE_MARK = "\u2581"
"""How SentencePiece writes a space inside a piece; a text's own U+2581 would come back as a space."""


class Library(Protocol):
    """The interface of a tokenizer library to `Tokenizer`.

    Attributes:
      vocab_size: ids are below it.
      pad_id, eos_id, unk_id: of the special pieces that the file itself names, else None.
      first_ids: ids that a prompt begins with, BOS for instance.
      last_ids: ids that the file ends a text with, EOS for instance.
    """

    vocab_size: int
    pad_id: int | None
    eos_id: int | None
    unk_id: int | None
    first_ids: list[int]
    last_ids: list[int]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added."""

    def decode(self, ids: list[int]) -> str:
        """The text of ids of the vocabulary."""

    def piece(self, token: int) -> str:
        """See `Tokenizer.piece`."""

    def piece_bytes(self, token: int) -> bytes:
        """See `Tokenizer.piece_bytes`."""

    def first_piece_bytes(self, token: int) -> bytes:
        """See `Tokenizer.first_piece_bytes`."""


def without_lost_space(library: Library, token: int) -> bytes:
    """See `Tokenizer.first_piece_bytes`: many a vocabulary takes spaces off the beginning of a text."""
    added = library.piece_bytes(token)
    if not added.startswith(b" "):
        return added
    text = library.decode([token])
    return b" " * (len(text) - len(text.lstrip(" "))) + added.lstrip(b" ")
