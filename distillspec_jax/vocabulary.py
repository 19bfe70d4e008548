"""A network's real ids and its special ids."""

from __future__ import annotations

import dataclasses

from distillspec_jax.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The properties of a tokenizer that sampling and losses need (`Tokenizer.vocabulary`).

    Attributes:
      size: number of real ids; later rows of an embedding are padding and excluded from distributions.
        None: all ids are real.
      eos_ids: ids that end a text.
      padding_ids: real ids that are never sampled.

    Raises:
      UsageError: the size is below 1.
    """

    size: int | None
    eos_ids: tuple[int, ...]
    padding_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise UsageError(f"vocab_size is {self.size}, must be at least 1")


T5_IDS = Vocabulary(size=None, eos_ids=(1,), padding_ids=(0,))
"""T5's convention, without padding rows; for tests and toy examples, never a parameter's default."""
