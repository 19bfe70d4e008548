"""Which of a network's ids are real, and what some of them mean."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What sampling and losses know of a tokenizer.

    Attributes:
      size: number of real ids; the rows of an embedding beyond are padding, in no distribution. None: all are
        real.
      eos_ids: end a text.
      padding_ids: real ids that are never sampled.
    """

    size: int | None = None
    eos_ids: tuple[int, ...] = (1,)
    padding_ids: tuple[int, ...] = (0,)


T5_IDS = Vocabulary()
"""T5's convention, without padded rows: the default everywhere."""
