"""Single examples for generation and evaluation: raw text with prompt ids. No TensorFlow here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from distillspec_jax import bounds
from distillspec_jax.data import catalog
from distillspec_jax.errors import UsageError
from distillspec_jax.tokenization.prompt_reader import Reader


@dataclass(frozen=True)
class Example:
    """One row of a task.

    Attributes:
      inputs_text: the raw inputs field, without prefix.
      prompt: token ids as in training: prefix + text, truncated to length - 1, then EOS.
      targets_text: the raw targets field (the reference).
    """

    inputs_text: str
    prompt: tuple[int, ...]
    targets_text: str


def examples(
    task: str,
    *,
    split: str,
    lengths: Mapping[str, int] | None = None,
    limit: int | None = None,
    reader: Reader | None = None,
) -> list[Example]:
    """Reads the first `limit` rows of a split, in file order (default: all).

    Args:
      task: a task of the catalog or one made by `tasks.jsonl_task`.
      split: "train", "validation" or "test".
      lengths: {"inputs", "targets"}; default: the task's own. Only "inputs" matters here.
      limit: maximum number of rows, at least 1.
      reader: of the prompts; default: the task's own.

    Raises:
      UsageError: an unknown task or split, an invalid length or limit, a malformed line, or an empty split.
    """
    spec = catalog.find_task(task)
    lengths = spec.feature_lengths if lengths is None else lengths
    catalog.check_lengths(lengths)
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; need at least 1 example")
    bounds.check_most("limit", limit, bounds.COUNT)
    reader = reader or catalog.reader(spec)
    rows = list(itertools.islice(catalog.read_rows(spec, split), limit))
    if not rows:
        raise UsageError(f"task {task!r}: split {split!r} is empty")
    return [
        Example(
            inputs_text=row["inputs"],
            prompt=tuple(reader.prompt(spec.prefix + row["inputs"], lengths["inputs"])),
            targets_text=row["targets"],
        )
        for row in rows
    ]
