"""A tokenizer of others as a service; it runs in the process of `confined_process` alone."""

from __future__ import annotations

from typing import Any

from distillspec_jax.tokenization.confined_process import explained
from distillspec_jax.tokenization.tokenizer_library import Library

_LATIN = "latin-1"
"""Bytes travel as characters of the same numbers."""


class TokenizerService:
    """The methods of `Library`, in JSON.

    Args:
      content: a SentencePiece model or a tokenizer.json.

    Raises:
      ValueError: neither, or one that cannot be used.
    """

    def __init__(self, content: bytes) -> None:
        self._library = _library(content)

    def facts(self) -> dict[str, Any]:
        """The attributes of `Library`."""
        names = ("vocab_size", "pad_id", "eos_id", "unk_id", "first_ids", "last_ids")
        return {name: getattr(self._library, name) for name in names}

    def encode(self, text: str) -> list[int]:
        """See `Library`."""
        return self._library.encode(text)

    def decode(self, ids: list[int]) -> str:
        """See `Library`."""
        return self._library.decode(ids)

    def piece(self, token: int) -> str:
        """See `Library`."""
        return self._library.piece(token)

    def spellings(self) -> list[list[str]]:
        """Spells every id: as it adds to a text, and to an empty one."""
        library, ids = self._library, range(self._library.vocab_size)
        return [
            [spell(i).decode(_LATIN) for i in ids]
            for spell in (library.piece_bytes, library.first_piece_bytes)
        ]


def _library(content: bytes) -> Library:
    """Reads a file and tries it; each library is imported where it is needed."""
    if content.lstrip()[:1] == b"{":
        from distillspec_jax.tokenization.hub_tokenizer import HubTokenizer

        try:
            return HubTokenizer(content)
        except MemoryError:
            raise
        except BaseException as error:  # a panic of Rust is no `Exception`
            raise ValueError(f"not a tokenizer.json: {explained(error)}") from error
    from distillspec_jax.tokenization.sentencepiece_model import SentencePieceModel

    try:
        return SentencePieceModel(content)
    except RuntimeError as error:
        raise ValueError(
            f"neither a SentencePiece model nor a tokenizer.json: it begins with {content[:24]!r}"
        ) from error
