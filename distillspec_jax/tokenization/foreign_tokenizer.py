"""A tokenizer that came with somebody's checkpoint: its file is read, and used, in a process with limits."""

from __future__ import annotations

import functools
from typing import Any

from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.confinement import MEGABYTES, Confined, Exceeded, Refused

_TIMES = 24
"""Bytes of memory for a byte of the file, beside `MEGABYTES`: large vocabularies are many short strings."""

_IDS_A_SECOND = 10_000
"""How many pieces are spelt in a second of processor time, at the least."""


class ForeignTokenizer:
    """See `tokenizer_library.Library`.

    Raises:
      UsageError: the bytes are no tokenizer, or one that cannot be used; later, a text or ids that it takes
        too much time or memory for.
    """

    def __init__(self, content: bytes) -> None:
        megabytes = MEGABYTES + (_TIMES * len(content) >> 20)
        service = "distillspec_jax.tokenization.tokenizer_service:TokenizerService"
        self._process = Confined(service, content, megabytes)
        facts = self._ask("be read", "facts")
        self.vocab_size: int = facts["vocab_size"]
        self.pad_id: int | None = facts["pad_id"]
        self.eos_id: int | None = facts["eos_id"]
        self.unk_id: int | None = facts["unk_id"]
        self.first_ids: list[int] = facts["first_ids"]
        self.last_ids: list[int] = facts["last_ids"]

    def encode(self, text: str) -> list[int]:
        return list(self._ask(f"encode a text of {len(text):,} characters", "encode", text))

    def decode(self, ids: list[int]) -> str:
        return str(self._ask(f"decode {len(ids):,} ids", "decode", ids))

    def piece(self, token: int) -> str:
        return str(self._ask(f"spell the id {token}", "piece", token))

    def piece_bytes(self, token: int) -> bytes:
        return self._spellings[0][token]

    def first_piece_bytes(self, token: int) -> bytes:
        return self._spellings[1][token]

    @functools.cached_property
    def _spellings(self) -> list[list[bytes]]:
        """All at once: a call for each of 100,000 ids would take seconds."""
        seconds = self.vocab_size // _IDS_A_SECOND
        found = self._ask("spell its ids", "spellings", seconds=seconds)
        return [[piece.encode("latin-1") for piece in pieces] for pieces in found]

    def _ask(self, doing: str, method: str, *arguments: Any, seconds: int = 0) -> Any:
        try:
            return self._process.call(method, *arguments, seconds=seconds)
        except Exceeded as error:
            raise UsageError(f"the tokenizer cannot {doing}: {error}") from error
        except Refused as error:
            raise UsageError(
                str(error) if doing == "be read" else f"the tokenizer cannot {doing}: {error}"
            ) from error


@functools.lru_cache(maxsize=4)
def opened(content: bytes) -> ForeignTokenizer:
    """The tokenizer of a file's bytes, whose process serves all that name it."""
    return ForeignTokenizer(content)
