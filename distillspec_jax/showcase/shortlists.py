"""The ids that a draft for a task needs to propose: those of the target's own texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from distillspec_jax.data.target_set import heaviest, token_mass
from distillspec_jax.distillation.collect import collect
from distillspec_jax.models.pretrained import Pretrained

SIZE = 1024
"""Ids, of 4,096 in the vocabulary: all that the target says greedily, nine tenths of what it samples."""
_TOP_LOGPROBS = 128


def shortlist(
    target: Pretrained,
    task: str,
    directory: str | Path,
    *,
    prompts: int,
    say: Callable[[str], None] = print,
) -> list[int]:
    """The `SIZE` likeliest ids of greedy and of sampled texts on training prompts, ascending, EOS among them.

    Args:
      directory: keeps the texts, see `collect`.
      prompts: of each, two texts.
    """
    texts = collect(
        target,
        directory,
        task,
        limit=prompts,
        num_samples=2,
        temperature=(0.0, 1.0),
        top_logprobs=_TOP_LOGPROBS,
        say=say,
    )
    return heaviest(token_mass(texts), SIZE, texts.reader.tokenizer.eos_ids)
