"""A SentencePiece vocabulary: pieces of text, bytes and control symbols by id."""

from __future__ import annotations

import functools

import sentencepiece

from distillspec_jax.tokenization.tokenizer_library import SPACE_MARK, without_lost_space


class SentencePieceModel:
    """See `tokenizer_library.Library`.

    Raises:
      RuntimeError: the bytes are no SentencePiece model.
    """

    def __init__(self, content: bytes) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        self._processor.LoadFromSerializedProto(content)  # the constructor takes no bytes for no model
        self.vocab_size = int(self._processor.vocab_size())
        ids = self._processor.pad_id(), self._processor.eos_id(), self._processor.unk_id()
        self.pad_id, self.eos_id, self.unk_id = (None if i < 0 else int(i) for i in ids)
        self.first_ids: list[int] = []
        self.last_ids: list[int] = []

    @functools.cached_property
    def _space_mark_ids(self) -> list[int]:
        """The byte pieces that spell U+2581, or [] where the vocabulary cannot spell it losslessly.

        It can when it has byte pieces and puts no dummy space before a text: then a text may be cut at U+2581
        and the parts encoded apart.
        """
        processor = self._processor
        ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        spells_bytes = all(processor.is_byte(i) for i in ids)
        adds_dummy_space = processor.encode("a", out_type=str)[0].startswith(SPACE_MARK)
        return ids if spells_bytes and not adds_dummy_space else []

    def encode(self, text: str) -> list[int]:
        if SPACE_MARK not in text or not self._space_mark_ids:
            return list(self._processor.encode(text))
        first, *rest = (self._processor.encode(part) for part in text.split(SPACE_MARK))
        ids = list(first)
        for part in rest:
            ids += [*self._space_mark_ids, *part]
        return ids

    def decode(self, ids: list[int]) -> str:
        return str(self._processor.decode(ids))

    def piece(self, token: int) -> str:
        return str(self._processor.id_to_piece(token)).replace(SPACE_MARK, " ")

    def piece_bytes(self, token: int) -> bytes:
        if self._processor.is_control(token):
            return b""
        if self._processor.is_unknown(token):
            return self.decode([token]).encode()  # " ⁇ ", whatever its piece is called
        piece = str(self._processor.id_to_piece(token))
        return bytes([int(piece[3:5], 16)]) if self._processor.is_byte(token) else self.piece(token).encode()

    def first_piece_bytes(self, token: int) -> bytes:
        return without_lost_space(self, token)
