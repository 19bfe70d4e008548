"""Task quality of decoded outputs, over the corpus and prompt by prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from distillspec_jax.data import text_metrics
from distillspec_jax.decoding import Completion
from distillspec_jax.evaluation.prompts import PromptSet
from distillspec_jax.tokenization.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Quality:
    """Scores in 0..100.

    Attributes:
      primary: the key of `corpus` that comparisons quote.
      corpus: the metric function's values over all prompts.
      example_N: each prompt's score, for pairing; its mean need not be a corpus value (BLEU).
    """

    primary: str
    corpus: dict[str, float]
    example_N: list[float]


def score(prompt_set: PromptSet, completions: Sequence[Completion], tokenizer: Tokenizer) -> Quality | None:
    """The outputs against the references; None where there are none or no metric was named."""
    metric = text_metrics.find_metric(prompt_set.metric)
    if prompt_set.references is None or metric.corpus is None or metric.example is None:
        return None
    assert metric.primary is not None
    outputs = [tokenizer.decode(completion.tokens) for completion in completions]
    references = prompt_set.references
    pairs = zip(references, outputs, strict=True)
    return Quality(
        primary=metric.primary,
        corpus={name: float(value) for name, value in metric.corpus(references, outputs).items()},
        example_N=[float(metric.example(reference, output)) for reference, output in pairs],
    )
