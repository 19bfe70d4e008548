"""A vocabulary of Hugging Face's library `tokenizers`: the tokenizer.json that comes with most models.

It need not know padding, nor which of its special tokens ends a text; whoever ships it says so elsewhere.
"""

from __future__ import annotations

import json
import re

import tokenizers

from distillspec_jax.tokenization.tokenizer_library import SPACE_MARK, without_lost_space

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")

_MOST_IDS_A_TOKEN, _SPARE_IDS = 8, 1 << 16
"""How far beyond its tokens a vocabulary may count: tables have a row for every id."""


class HubTokenizer:
    """See `tokenizer_library.Library`.

    Raises:
      ValueError: the bytes are no tokenizer.json.
    """

    def __init__(self, content: bytes) -> None:
        try:
            self._library = tokenizers.Tokenizer.from_str(content.decode())
        except Exception as error:  # the library raises plain Exception
            raise ValueError(str(error)) from error
        self._library.no_padding()
        self._library.no_truncation()
        added = self._library.get_added_tokens_decoder()
        self._special = {i for i, token in added.items() if token.special}
        self._added = set(added)
        self._byte_level = '"ByteLevel"' in json.dumps(json.loads(content).get("decoder"))
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.vocab_size = 1 + max(vocabulary.values(), default=-1)
        if not 0 < self.vocab_size <= _MOST_IDS_A_TOKEN * len(vocabulary) + _SPARE_IDS:
            raise ValueError(f"its largest id is {self.vocab_size - 1}, of {len(vocabulary)} tokens")
        self.pad_id: int | None = None
        self.eos_id: int | None = None
        self.unk_id: int | None = None
        # What the library puts around a text: BOS before it, for many models, and for some EOS behind it.
        around = self._library.encode("a").ids
        inside = self._library.encode("a", add_special_tokens=False).ids
        start = around.index(inside[0]) if inside and inside[0] in around else 0
        self.first_ids: list[int] = around[:start]
        self.last_ids: list[int] = around[start + len(inside) :] if inside else []

    def encode(self, text: str) -> list[int]:
        return list(self._library.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self._library.decode(ids, skip_special_tokens=True))

    def piece(self, token: int) -> str:
        piece = self._library.id_to_token(token) or ""
        if token in self._added or not self._byte_level:
            return piece.replace(SPACE_MARK, " ")
        return self.piece_bytes(token).decode(errors="replace")

    def piece_bytes(self, token: int) -> bytes:
        piece = self._library.id_to_token(token)
        if piece is None or token in self._special:
            return b""
        if token in self._added:
            return piece.encode()
        if self._byte_level:
            return bytes(_BYTE_OF[character] for character in piece)
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def first_piece_bytes(self, token: int) -> bytes:
        return without_lost_space(self, token)


def _byte_of() -> dict[str, int]:
    """The character by which byte-level vocabularies write each byte: itself where it can be seen."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(0x100) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_BYTE_OF = _byte_of()
