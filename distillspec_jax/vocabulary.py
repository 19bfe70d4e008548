"""A network's real ids, and the meaning of some of them."""

from __future__ import annotations

import dataclasses

from distillspec_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The facts that sampling and losses know of a tokenizer (`Tokenizer.vocabulary`).

    Attributes:
      size: number of real ids; the rows of an embedding beyond are padding, in no distribution. None: all are
        real.
      eos_ids: end a text.
      padding_ids: real ids that are never sampled.

    Raises:
      UsageError: a size below 1.
    """

    size: int | None
    eos_ids: tuple[int, ...]
    padding_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UsageError(f"vocab_size is {self.size}, must be at least 1")


T5_IDS = Vocabulary(size=None, eos_ids=(1,), padding_ids=(0,))
"""T5's convention, without padded rows; for tests and toys, and no parameter's default."""
