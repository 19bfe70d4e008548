"""What a task is, as plain data: files, fields, prefix, lengths and metric. No TensorFlow here.

`tasks` turns each `TaskSpec` into a seqio task; generation and evaluation read the specs directly.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from distillspec_jax.data import metrics
from distillspec_jax.data.tokenizer import Tokenizer, embedded_tokenizer
from distillspec_jax.errors import UsageError, nearest

CORPORA = Path(__file__).parent / "corpora"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class TaskSpec:
    """One text-to-text task over JSON-lines files.

    Attributes:
      name: the seqio task name.
      description: one line for a listing.
      prefix: put before every input, as in T5; it is part of the prompt that the model sees.
      inputs_field, targets_field: the JSON fields of the prompt and of the reference.
      splits: {"train" | "validation" | "test": path of a .jsonl or .jsonl.gz file}.
      metric: a name in `metrics.METRICS`: "rouge", "bleu", "number" or "none".
      feature_lengths: default {"inputs", "targets"} lengths in tokens, EOS counted.
      licence: of the text.
      vocabulary_path: a SentencePiece model; None is the embedded vocabulary.
    """

    name: str
    description: str
    prefix: str
    inputs_field: str
    targets_field: str
    splits: Mapping[str, Path]
    metric: str
    feature_lengths: Mapping[str, int]
    licence: str
    vocabulary_path: Path | None = None

    @property
    def primary_metric(self) -> str | None:
        """The one score that comparisons quote ("rougeL", "bleu", "exact_match"), None without a metric."""
        return metrics.METRICS[self.metric].primary


def _embedded_splits(stem: str) -> dict[str, Path]:
    return {split: CORPORA / f"{stem}.{split}.jsonl.gz" for split in SPLITS}


# Lengths are multiples of 32 that hold at least 99 % of the inputs and of the targets of each split. The one
# exception is the inputs of wiki_leads, cut to their first 192 tokens; about 84 % of them are whole.
WIKI_LEADS = TaskSpec(
    name="wiki_leads",
    description="the first sentence of a Wikipedia lead from the rest of the lead",
    prefix="summarize: ",
    inputs_field="rest",
    targets_field="first_sentence",
    splits=_embedded_splits("wiki_leads"),
    metric="rouge",
    feature_lengths={"inputs": 192, "targets": 128},
    licence="CC-BY-SA-4.0",
)
OFFICE_HELP_ENDE = TaskSpec(
    name="office_help_ende",
    description="LibreOffice help sentences from English to German",
    prefix="translate English to German: ",
    inputs_field="en",
    targets_field="de",
    splits=_embedded_splits("office_help_ende"),
    metric="bleu",
    feature_lengths={"inputs": 128, "targets": 128},
    licence="MPL-2.0",
)
GSM_SYMBOLIC = TaskSpec(
    name="gsm_symbolic",
    description="grade-school arithmetic with worked steps",
    prefix="solve: ",
    inputs_field="question",
    targets_field="answer",
    splits=_embedded_splits("gsm_symbolic"),
    metric="number",
    feature_lengths={"inputs": 192, "targets": 288},
    licence="Apache-2.0",
)
EMBEDDED_TASKS: Mapping[str, TaskSpec] = {
    spec.name: spec for spec in (WIKI_LEADS, OFFICE_HELP_ENDE, GSM_SYMBOLIC)
}

EMBEDDED_MIXTURE = "embedded_mixture"
EMBEDDED_MIXTURE_RATES: Mapping[str, float] = {
    "wiki_leads": 7_643,
    "office_help_ende": 12_000,
    "gsm_symbolic": 9_000,
}
"""Examples are drawn in proportion to the training rows, those of office_help_ende capped at 12,000 (of
24,007): shares of 27 %, 42 % and 31 %, so that the one large corpus does not crowd out the other two."""
EMBEDDED_MIXTURE_LENGTHS: Mapping[str, int] = {"inputs": 192, "targets": 288}
"""The longest default of the three tasks."""


_tasks: dict[str, TaskSpec] = dict(EMBEDDED_TASKS)


def add_task(spec: TaskSpec) -> None:
    """Makes a user's task known to `find_task`; adding an equal spec again changes nothing.

    Raises:
      UsageError: another task has that name.
    """
    if _tasks.setdefault(spec.name, spec) != spec:
        raise UsageError(f"task name {spec.name!r} is taken by a different task; choose another name")


def find_task(name: str) -> TaskSpec:
    """The embedded or added task called `name`.

    Raises:
      UsageError: there is none; names the nearest.
    """
    if name not in _tasks:
        raise UsageError(f"unknown task {name!r}: {nearest(name, _tasks)}")
    return _tasks[name]


def read_rows(spec: TaskSpec, split: str) -> Iterator[dict[str, str]]:
    """Yields {"inputs", "targets"}, the raw fields without prefix, in file order; blank lines are skipped.

    Raises:
      UsageError: an unknown split, an unreadable file, or (naming file and line) malformed JSON, a missing
        field or a field that is not text.
    """
    if split not in spec.splits:
        raise UsageError(f"task {spec.name!r} has no split {split!r}: {nearest(split, spec.splits)}")
    path = spec.splits[split]
    opener = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _parse(line, f"{path}:{number}", spec)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}:{number + 1}: not UTF-8 text") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"task {spec.name!r}: cannot read its {split} file {str(path)!r}: {reason}"
        ) from error


def _parse(line: str, place: str, spec: TaskSpec) -> dict[str, str]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UsageError(f"{place}: malformed JSON ({error.msg}, column {error.colno})") from error
    if not isinstance(row, dict):
        raise UsageError(f"{place}: expected a JSON object, got {type(row).__name__}")
    fields = {"inputs": spec.inputs_field, "targets": spec.targets_field}
    for field in fields.values():
        if field not in row:
            raise UsageError(f"{place}: no field {field!r}: {nearest(field, map(str, row))}")
        if not isinstance(row[field], str):
            raise UsageError(f"{place}: field {field!r} must be text, got {type(row[field]).__name__}")
        try:
            row[field].encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{place}: field {field!r} holds a lone surrogate, no valid Unicode") from error
    return {feature: row[field] for feature, field in fields.items()}


def tokenizer(spec: TaskSpec) -> Tokenizer:
    """The vocabulary of `spec`."""
    return Tokenizer.from_file(spec.vocabulary_path) if spec.vocabulary_path else embedded_tokenizer()


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Refuses anything but {"inputs": n, "targets": m} with n, m >= 2 (one token and EOS).

    Raises:
      UsageError: a missing or unknown feature, or an impossible length.
    """
    if set(lengths) != {"inputs", "targets"}:
        raise UsageError(f"feature lengths must name 'inputs' and 'targets', got {sorted(lengths)}")
    for feature, length in lengths.items():
        if not isinstance(length, int) or length < 2:
            raise UsageError(f"length of {feature!r} is {length!r}; need a whole number of at least 2 tokens")
