"""Text to token ids and back, by SentencePiece or by Hugging Face's `tokenizers` (no TensorFlow).

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

from distillspec_jax import outputs
from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization import foreign_tokenizer
from distillspec_jax.tokenization.tokenizer_library import Library
from distillspec_jax.vocabulary import Vocabulary

EMBEDDED_MODEL = Path(__file__).parent / "vocabulary" / "embedded.model"
"""The vocabulary of the embedded tasks: 4,096 unigram pieces, rebuilt by `train_vocabulary`."""


@dataclass(frozen=True)
class Tokenizer:
    """An immutable vocabulary; equal when the serialized models are equal.

    Attributes:
      model_bytes: a SentencePiece model or a tokenizer.json, everything that determines text <-> ids. A
        checkpoint stores it so that it can generate without the task that trained it.
      eos_ids: ids that end a text; by default the model's own.
    """

    model_bytes: bytes = field(repr=False)
    eos_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        library = self._library
        is_json = self.model_bytes.lstrip()[:1] == b"{"
        if not is_json and (library.pad_id is None or library.eos_id is None):
            raise UsageError(
                "the SentencePiece model defines no pad or no eos piece: train it with both, or take a "
                "tokenizer.json of the same ids"
            )
        if not self.eos_ids and library.eos_id is None:
            raise UsageError(
                "tokenizer.json does not tell which of its tokens ends a text: give its id to `distillspec "
                "convert`, --eos_ids=ID"
            )
        object.__setattr__(self, "eos_ids", tuple(self.eos_ids) or (library.eos_id,))

    @classmethod
    def from_bytes(cls, model_bytes: bytes, eos_ids: Iterable[int] = ()) -> Tokenizer:
        """A tokenizer from the bytes of its file.

        Raises:
          UsageError: they are no vocabulary, or one that lacks pad or EOS.
        """
        return cls(model_bytes, tuple(eos_ids))

    @classmethod
    def from_file(cls, path: str | Path, eos_ids: Iterable[int] = ()) -> Tokenizer:
        """A tokenizer from a file, a SentencePiece `.model` or a tokenizer.json.

        Raises:
          UsageError: the file is missing, or see `from_bytes`; named.
        """
        try:
            outputs.reads(path)
            model_bytes = Path(path).read_bytes()
        except OSError as error:
            raise UsageError(f"vocabulary file {str(path)!r}: {error.strerror}") from error
        try:
            return cls.from_bytes(model_bytes, eos_ids)
        except UsageError as error:
            raise UsageError(f"vocabulary file {str(path)!r}: {error}") from error

    @functools.cached_property
    def in_process(self) -> bool:
        """Whether texts are read in this process, without waiting for another."""
        return self.model_bytes == _embedded_model()

    @functools.cached_property
    def _library(self) -> Library:
        if not self.in_process:
            return foreign_tokenizer.opened(self.model_bytes)
        # Our own: no other process has to be begun. Few checkpoints of others need the library here.
        from distillspec_jax.tokenization.sentencepiece_model import SentencePieceModel

        return SentencePieceModel(self.model_bytes)

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
        return self._library.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` up to the first EOS, padding dropped.

        Ids outside the vocabulary (the padded rows of an embedding table) read as the unknown piece, as in
        seqio. Bytes that form no valid UTF-8 read as U+FFFD.
        """
        library, padding, kept = self._library, self.padding_ids, []
        for token in map(int, ids):
            if token in self.eos_ids:
                break
            known = token if 0 <= token < library.vocab_size else library.unk_id
            if known is not None and token not in padding:
                kept.append(known)
        return library.decode(kept)

    def piece_bytes(self, token: int) -> bytes:
        """The bytes that one id adds to a text, in UTF-8; nothing for EOS and padding."""
        return self._library.piece_bytes(token)

    def first_piece_bytes(self, token: int) -> bytes:
        """The bytes that one id adds to an empty text: many a vocabulary takes spaces off the beginning."""
        return self._library.first_piece_bytes(token)

    def piece(self, token: int) -> str:
        """One id as a reader would see it: a space as a space, EOS as `</s>`, a byte as `<0xE2>`."""
        return self._library.piece(token)

    @property
    def vocab_size(self) -> int:
        """The number of pieces; valid ids are 0 .. vocab_size - 1."""
        return self._library.vocab_size

    @property
    def first_ids(self) -> list[int]:
        """Ids that a prompt begins with: BOS, where a tokenizer.json adds it."""
        return self._library.first_ids

    @property
    def appends_eos(self) -> bool:
        """Whether a tokenizer.json itself ends a text with EOS."""
        return self._library.last_ids == [self.eos_id]

    @property
    def vocabulary(self) -> Vocabulary:
        """The ids that sampling and losses need to know."""
        return Vocabulary(self.vocab_size, self.eos_ids, self.padding_ids)

    @property
    def padding_ids(self) -> tuple[int, ...]:
        """Ids that stand for nothing and are never sampled; none in a vocabulary without padding."""
        return () if self._library.pad_id is None else (self._library.pad_id,)

    @property
    def pad_id(self) -> int:
        """The id that fills rows up: the vocabulary's own, else 0."""
        return self._library.pad_id or 0

    @property
    def eos_id(self) -> int:
        """The id that ends a text; the first, if there are several."""
        return self.eos_ids[0]

    @property
    def unk_id(self) -> int:
        return -1 if self._library.unk_id is None else self._library.unk_id

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the serialized model: equal fingerprints mean equal text <-> ids."""
        return hashlib.sha256(self.model_bytes).hexdigest()


@functools.cache
def _embedded_model() -> bytes:
    return EMBEDDED_MODEL.read_bytes()


@functools.cache
def embedded_tokenizer() -> Tokenizer:
    """The vocabulary of the embedded tasks and of the zoo: pad 0, eos 1, unk 2, no bos."""
    return Tokenizer.from_file(EMBEDDED_MODEL)
