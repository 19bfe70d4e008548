"""The prompts of an evaluation, from a task's held-out rows or a user's file, and scores of their outputs."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from distillspec_jax import bounds
from distillspec_jax.data import catalog, text_metrics
from distillspec_jax.decoding import Completion
from distillspec_jax.errors import UsageError
from distillspec_jax.generation import request_files
from distillspec_jax.generation.prompt_format import PromptFormat, prompt_format
from distillspec_jax.models import zoo_manifest
from distillspec_jax.models.pretrained import Pretrained
from distillspec_jax.tokenization.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """N prompts as token ids, with their references if there are any.

    Attributes:
      task: the task's name, or the file's.
      split: of the task; None for a file.
      prompts: token ids, including prefix and EOS.
      references: texts that a metric compares the outputs with; None if there are none.
      metric: a key of `data.text_metrics.METRICS`.
      max_new_tokens: default limit of the outputs.
    """

    task: str
    split: str | None
    prompts: tuple[tuple[int, ...], ...]
    references: tuple[str, ...] | None
    metric: str
    max_new_tokens: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex, shortened) of all fields."""
        return hashlib.sha256(json.dumps(dataclasses.astuple(self)).encode()).hexdigest()[:16]


def from_task_or_file(
    target: Pretrained,
    *,
    task: str | None,
    split: str,
    inputs: str | Path | None,
    limit: int | None,
    metric: str = "none",
    chat: bool = False,
    truncate: bool = False,
) -> PromptSet:
    """Reads the prompts of a file if one is given, otherwise those of a task.

    Args:
      task: gives the rows, or the prefix and lengths for the lines of a file; default: the task in the
        target's zoo name, and for a file the target's own.
      split: of the task; a file has none.
      inputs: the file.
      metric: compares with the `targets` of a file.
      limit, chat: see `from_task`.
      truncate: truncate a file's inputs that are too long; those of a task always are.

    Raises:
      UsageError: neither is given; or see `from_task` and `from_file`.
    """
    if inputs is not None:
        return from_file(target, inputs, limit, metric, task=task, chat=chat, truncate=truncate)
    task = task or zoo_manifest.task_of(target.name)
    if task is None:
        raise UsageError(f"{target.name} names no task: give one, or a file of inputs")
    return from_task(target, task, split, limit, chat=chat)


def from_task(
    target: Pretrained, task: str, split: str, limit: int | None, *, chat: bool = False
) -> PromptSet:
    """Reads the first `limit` rows of a split, tokenised as in the target's training; truncates long inputs.

    With `chat`, each is wrapped in the target's chat template.

    Raises:
      UsageError: the task or split is unknown, the limit is below 1, the split is empty, or the target lacks
        a tokenizer or chat template.
    """
    check_limit(limit)
    spec = catalog.find_task(task)
    rows = list(itertools.islice(catalog.read_rows(spec, split), limit))
    if not rows:
        raise UsageError(f"task {task!r}: split {split!r} is empty")
    form = prompt_format(target, task=task, truncate=True, chat=chat)
    return PromptSet(
        task=task,
        split=split,
        prompts=_prompts(form, [(row["inputs"], f"{task}:{split}") for row in rows]),
        references=tuple(row["targets"] for row in rows),
        metric=spec.metric,
        max_new_tokens=form.max_new_tokens,
    )


def from_file(
    target: Pretrained,
    path: str | Path,
    limit: int | None,
    metric: str = "none",
    *,
    task: str | None = None,
    chat: bool = False,
    truncate: bool = False,
) -> PromptSet:
    """Reads the first `limit` lines `{"inputs": ..., "targets": ...}` of a file; `targets` may be absent.

    Inputs become prompts as in `generate`: with the target's own prefix or that of `task`, and with `chat`
    in the target's chat template.

    Raises:
      UsageError: the file is unreadable, a line is malformed or sets an option (names file and line), the
        metric has no `targets`, or an input is too long and may not be truncated (`truncate`).
    """
    check_limit(limit)
    text_metrics.find_metric(metric)
    lines = request_files.read_requests(str(path))[:limit]
    for line in lines:
        for name in request_files.OPTIONS:
            if name in line.extra:
                raise UsageError(f"{line.where}: field {name!r}: all prompts are decoded alike, leave it out")
    references = [line.extra.get("targets") for line in lines]
    known = all(isinstance(reference, str) for reference in references)
    if metric != "none" and not known:
        culprit = next(line for line in lines if not isinstance(line.extra.get("targets"), str))
        raise UsageError(f"{culprit.where}: no text in 'targets', which metric {metric!r} compares with")
    form = prompt_format(target, task=task, truncate=truncate, chat=chat)
    return PromptSet(
        task=Path(path).stem,
        split=None,
        prompts=_prompts(form, [(line.inputs, line.where) for line in lines]),
        references=tuple(map(str, references)) if known else None,
        metric=metric,
        max_new_tokens=form.max_new_tokens,
    )


def check_limit(limit: int | None) -> None:
    """Rejects a number of prompts below 1."""
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}, must be at least 1 prompt")
    bounds.check_most("limit", limit, bounds.COUNT)


def _prompts(form: PromptFormat, texts: list[tuple[str, str]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(form.ids(text, where)) for text, where in texts)


@dataclasses.dataclass(frozen=True)
class Quality:
    """Scores in 0..100.

    Attributes:
      primary: the key of `corpus` that comparisons report.
      corpus: the metric function's values over all prompts.
      example_N: each prompt's score, for pairing; the mean may differ from the corpus value (BLEU).
    """

    primary: str
    corpus: dict[str, float]
    example_N: list[float]


def score(prompt_set: PromptSet, completions: Sequence[Completion], tokenizer: Tokenizer) -> Quality | None:
    """Scores outputs against the references; None if there are no references or no metric."""
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
