"""Text to token ids and back, with SentencePiece alone (no TensorFlow).

One class serves training, generation and checkpoints, so that the ids a model was trained on and the ids that
it is served are made by the same code. The embedded vocabulary (`embedded_tokenizer`) is lossless: for every
valid Unicode string `decode(encode(text)) == text`, whitespace, control characters and U+2581 included.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import sentencepiece

from distillspec_jax.errors import UsageError

EMBEDDED_MODEL = Path(__file__).parent / "vocabulary" / "embedded.model"
"""The vocabulary of the embedded tasks: 4,096 unigram pieces, rebuilt by `train_vocabulary`."""

_SPACE_MARK = "\u2581"
"""How SentencePiece writes a space inside a piece; a text's own U+2581 would come back as a space."""


@dataclass(frozen=True)
class Tokenizer:
    """An immutable SentencePiece vocabulary; equal when the serialized models are equal.

    Attributes:
      model_bytes: the serialized SentencePiece model, everything that determines text <-> ids. A checkpoint
        stores it so that it can be served without the task that trained it.
    """

    model_bytes: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self._processor.pad_id() < 0 or self._processor.eos_id() < 0:
            raise UsageError("the SentencePiece model defines no pad or no eos piece; train it with both")

    @classmethod
    def from_bytes(cls, model_bytes: bytes) -> Tokenizer:
        """A tokenizer from a serialized SentencePiece model."""
        return cls(model_bytes)

    @classmethod
    def from_file(cls, path: str | Path) -> Tokenizer:
        """A tokenizer from a SentencePiece `.model` file.

        Raises:
          UsageError: the file is missing, or is not a SentencePiece model.
        """
        try:
            model_bytes = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"vocabulary file {str(path)!r}: {error.strerror}") from error
        try:
            return cls(model_bytes)
        except RuntimeError as error:
            raise UsageError(f"vocabulary file {str(path)!r} is not a SentencePiece model") from error

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)

    @functools.cached_property
    def _space_mark_ids(self) -> list[int]:
        """The byte pieces that spell U+2581, or [] where the vocabulary cannot spell it losslessly.

        It can when it has byte pieces and puts no dummy space before a text: then a text may be cut at U+2581
        and the parts encoded apart.
        """
        processor = self._processor
        ids = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()]
        spells_bytes = all(processor.is_byte(i) for i in ids)
        adds_dummy_space = processor.encode("a", out_type=str)[0].startswith(_SPACE_MARK)
        return ids if spells_bytes and not adds_dummy_space else []

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without EOS; [] for the empty string.

        Raises:
          UsageError: `text` holds a lone surrogate and thus is no valid Unicode.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            culprit = text[error.start]
            raise UsageError(f"text holds a lone surrogate {culprit!r} at character {error.start}") from error
        if _SPACE_MARK not in text or not self._space_mark_ids:
            return list(self._processor.encode(text))
        first, *rest = (self._processor.encode(part) for part in text.split(_SPACE_MARK))
        ids = list(first)
        for part in rest:
            ids += [*self._space_mark_ids, *part]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` up to the first EOS, padding dropped.

        Ids outside the vocabulary (the padded rows of an embedding table) read as the unknown piece, as in
        seqio. Bytes that form no valid UTF-8 read as U+FFFD.
        """
        kept: list[int] = []
        for token in map(int, ids):
            if token == self.eos_id:
                break
            if token != self.pad_id:
                kept.append(token if 0 <= token < self.vocab_size else self.unk_id)
        return str(self._processor.decode(kept))

    def piece_bytes(self, token: int) -> bytes:
        """What one id adds to a text, in UTF-8; nothing for EOS, padding and the unknown piece."""
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return b""
        piece = str(self._processor.id_to_piece(token))
        return bytes([int(piece[3:5], 16)]) if self._processor.is_byte(token) else self.piece(token).encode()

    def piece(self, token: int) -> str:
        """One id as a reader would see it: a space as a space, EOS as `</s>`, a byte as `<0xE2>`."""
        return str(self._processor.id_to_piece(token)).replace(_SPACE_MARK, " ")

    @property
    def vocab_size(self) -> int:
        """The number of pieces; valid ids are 0 .. vocab_size - 1."""
        return int(self._processor.vocab_size())

    @property
    def pad_id(self) -> int:
        return int(self._processor.pad_id())

    @property
    def eos_id(self) -> int:
        return int(self._processor.eos_id())

    @property
    def unk_id(self) -> int:
        return int(self._processor.unk_id())

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the serialized model: equal fingerprints mean equal text <-> ids."""
        return hashlib.sha256(self.model_bytes).hexdigest()


@functools.cache
def embedded_tokenizer() -> Tokenizer:
    """The vocabulary of the embedded tasks and of the zoo: pad 0, eos 1, unk 2, no bos."""
    return Tokenizer.from_file(EMBEDDED_MODEL)
