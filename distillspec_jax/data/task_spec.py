"""A task as plain data: source, fields, prefix, lengths and metric. No TensorFlow here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distillspec_jax.data import text_metrics
from distillspec_jax.data.text_sources import TextSource

PROMPT_GROUPS = {"inputs": r"\1\3", "targets": r"\2\4"}
"""The groups of `TaskSpec.prompt_pattern` that make up each feature."""
BRACES = re.compile(r"\{([^{}]+)\}")
"""Placeholders `{field}` in a template."""


@dataclass(frozen=True)
class TaskSpec:
    """One text-to-text task.

    Attributes:
      name: the seqio task name.
      description: one line for a listing.
      prefix: prepended to every input, as in T5; it is part of the prompt that the model sees.
      inputs_field, targets_field: the fields of the prompt and of the reference in a row; in JSON, dots lead
        into objects and lists (`choices.0.text`). Braces combine several fields: `{title}: {text}`. Rows
        without a reference (None) are prompts for a target or a draft to continue.
      source: the rows by split ("train", "validation", "test"): files or a TFDS data set.
      metric: a key of `text_metrics.METRICS`: "rouge", "rouge2", "bleu", "number", "answer" or "none".
      feature_lengths: default {"inputs", "targets"} lengths in tokens, including EOS.
      licence: of the text.
      vocabulary_path: a SentencePiece model; None: the embedded vocabulary.
      prompt_words: for language modelling, where both fields are the same text: this many of its first words
        are the prompt and the rest is the target; 0: the prompt is empty. None: the fields are separate.
      needs_prompt: reject rows with an empty prompt.
    """

    name: str
    description: str
    prefix: str
    inputs_field: str
    targets_field: str | None
    source: TextSource
    metric: str
    feature_lengths: Mapping[str, int]
    licence: str
    vocabulary_path: Path | None = None
    prompt_words: int | None = None
    needs_prompt: bool = False

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self.source.splits

    @property
    def prompt_pattern(self) -> str:
        """Pattern that splits a text into prompt and target (`PROMPT_GROUPS`); the target is never empty.

        The space between them belongs to the target: most vocabularies have words that begin with one.
        Python's `re` and TensorFlow's RE2 interpret it equally.
        """
        return rf"(?s)^(?:((?: *[^ ]+){{0,{self.prompt_words}}})( +[^ ].*)|()(.*))$"

    @property
    def is_language_modelling(self) -> bool:
        """Tells whether prompt and target are one text, so nothing may be inserted between them."""
        return self.prompt_words is not None

    @property
    def primary_metric(self) -> str | None:
        """The score that comparisons report ("rougeL", "bleu", "exact_match"), None without a metric."""
        return text_metrics.METRICS[self.metric].primary
