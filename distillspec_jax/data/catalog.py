"""The tasks known by name, and their rows as text. No TensorFlow here.

`tasks` turns each `TaskSpec` into a seqio task; generation and evaluation read the specs directly.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distillspec_jax import bounds
from distillspec_jax.data import paper_tasks
from distillspec_jax.data.task_spec import BRACES, PROMPT_GROUPS, TaskSpec
from distillspec_jax.data.text_sources import Fields, Files
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.model_card import ModelCard
from distillspec_jax.models import zoo_manifest
from distillspec_jax.tokenization.prompt_reader import Reader
from distillspec_jax.tokenization.tokenizer import Tokenizer, embedded_tokenizer

CORPORA = Path(__file__).parent / "corpora"
SPLITS = ("train", "validation", "test")
FINISH_REASON, CUT = "finish_reason", "length"
"""How an API and `distillspec generate` say that a text ended at a limit."""


def _embedded(stem: str) -> Files:
    return Files.one_each({split: CORPORA / f"{stem}.{split}.jsonl.gz" for split in SPLITS})


# Lengths are multiples of 32 that hold at least 99 % of the inputs and of the targets of each split. The one
# exception is the inputs of wiki_leads, truncated to 192 tokens; about 84 % of them fit.
WIKI_LEADS = TaskSpec(
    name="wiki_leads",
    description="the first sentence of a Wikipedia lead from the rest of the lead",
    prefix="summarize: ",
    inputs_field="rest",
    targets_field="first_sentence",
    source=_embedded("wiki_leads"),
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
    source=_embedded("office_help_ende"),
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
    source=_embedded("gsm_symbolic"),
    metric="number",
    feature_lengths={"inputs": 192, "targets": 288},
    licence="Apache-2.0",
)
# Whole texts, and texts to continue, in the form of the paper's LM1B.
WIKI_TEXT = TaskSpec(
    name="wiki_text",
    description="Wikipedia leads from nothing",
    prefix="",
    inputs_field="{first_sentence} {rest}",
    targets_field="{first_sentence} {rest}",
    source=_embedded("wiki_leads"),
    metric="none",
    feature_lengths={"inputs": 64, "targets": 384},
    licence="CC-BY-SA-4.0",
    prompt_words=0,
)
WIKI_CONTINUED = dataclasses.replace(
    WIKI_TEXT,
    name="wiki_continued",
    description="the rest of a Wikipedia lead from its first 8 words",
    prompt_words=8,
)
# The form of the paper's transfer to BIG-Bench-Hard; rows alternate between 18 generators.
REASONING_GYM = TaskSpec(
    name="reasoning_gym",
    description="short puzzles of 18 kinds, of which none is trained on: to be decoded zero-shot",
    prefix=GSM_SYMBOLIC.prefix,
    inputs_field="question",
    targets_field="answer",
    source=Files.one_each({"test": CORPORA / "reasoning_gym.test.jsonl.gz"}),
    metric="answer",
    feature_lengths={"inputs": 192, "targets": 288},
    licence="Apache-2.0",
)
# Prompts to train a draft for SmolLM2 on, and held-out ones drawn with another seed.
OPEN_PROMPTS = TaskSpec(
    name="open_prompts",
    description="requests of all kinds, without answers, that SmolLM2-135M-Instruct wrote itself",
    prefix="",
    inputs_field="inputs",
    targets_field=None,
    source=_embedded("open_prompts"),
    metric="none",
    feature_lengths={"inputs": 192, "targets": 128},
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
"""Sampling rates proportional to the training rows, with office_help_ende capped at 12,000 (of 24,007):
shares of 27 %, 42 % and 31 %, so the one large corpus does not dominate the other two."""
EMBEDDED_MIXTURE_LENGTHS: Mapping[str, int] = {"inputs": 192, "targets": 288}
"""The largest defaults of the three tasks."""


_tasks: dict[str, TaskSpec] = {
    **EMBEDDED_TASKS,
    **{spec.name: spec for spec in (WIKI_TEXT, WIKI_CONTINUED, REASONING_GYM, OPEN_PROMPTS)},
    **paper_tasks.TASKS,
}


def add_task(spec: TaskSpec) -> None:
    """Registers a user's task for `find_task`; adding an equal spec again has no effect.

    Raises:
      UsageError: another task has that name.
    """
    if _tasks.setdefault(spec.name, spec) != spec:
        raise UsageError(f"task name {spec.name!r} is taken by a different task; choose another name")


def known_tasks() -> tuple[TaskSpec, ...]:
    """Lists every task that `find_task` finds."""
    return tuple(_tasks.values())


def replace_task(name: str, **changes: Any) -> TaskSpec:
    """Changes a known task for the rest of this process, such as its vocabulary or data location.

    Raises:
      UsageError: there is no such task; names the nearest.
    """
    _tasks[name] = dataclasses.replace(find_task(name), **changes)
    return _tasks[name]


def find_task(name: str) -> TaskSpec:
    """Finds the embedded, published or added task called `name`.

    Raises:
      UsageError: there is none; names the nearest.
    """
    if name not in _tasks:
        raise UsageError(f"unknown task {name!r}: {nearest(name, _tasks)}")
    return _tasks[name]


def form_of_prompts(name: str, card: ModelCard, task: str | None = None) -> tuple[str, dict[str, int]]:
    """Returns the prefix of a model's prompts and their lengths: its card's, or those of a task.

    Args:
      name: of the model; `zoo:TASK/…` names a task.
      task: in its place.

    Raises:
      UsageError: the task is unknown.
    """
    task = task or zoo_manifest.task_of(name)
    if task is None:
        return card.prefix, dict(card.feature_lengths)
    spec = find_task(task)
    return spec.prefix, dict(spec.feature_lengths)


def read_rows(spec: TaskSpec, split: str) -> Iterator[dict[str, str]]:
    """Yields {"inputs", "targets"}, the raw fields without prefix, in the source's order.

    A reference field with a list of texts (several samples of one prompt) gives one example per text. A
    reference that was cut at a limit, as an object around it says (`"finish_reason": "length"`), has that
    field, too: nothing shall learn to end there.

    Raises:
      UsageError: an unknown split, missing data, or (naming file and line) malformed JSON, a missing field, a
        field that is not text, or an empty prompt where one is required.
    """
    if split not in spec.splits:
        raise UsageError(f"task {spec.name!r} has no split {split!r}: {nearest(split, spec.splits)}")
    try:
        for place, row in spec.source.rows(split):
            yield from _examples(row, place, spec)
    except UsageError as error:
        raise UsageError(f"task {spec.name!r}: {error}") from error


def _examples(row: Fields, place: str, spec: TaskSpec) -> Iterator[dict[str, str]]:
    prompt = _text(_field(row, spec.inputs_field, place), spec.inputs_field, place)
    if spec.needs_prompt and not prompt.strip():
        raise UsageError(f"{place}: the prompt in field {spec.inputs_field!r} is empty")
    if spec.targets_field is None:
        yield {"inputs": prompt, "targets": ""}
        return
    found = _field(row, spec.targets_field, place)
    cut = {FINISH_REASON: CUT} if _is_cut(row, spec.targets_field) else {}
    for text in found if isinstance(found, list) and found else [found]:
        example = {"inputs": prompt, "targets": _text(text, spec.targets_field, place), **cut}
        if spec.is_language_modelling:
            for feature, group in PROMPT_GROUPS.items():
                example[feature] = re.sub(spec.prompt_pattern, group, example[feature])
        yield example


def _field(row: Fields, field: str, place: str) -> Any:
    """Looks up a field by name, by a path of names and numbers (`choices.0.text`), or by a template."""
    if field in row:
        return row[field]
    if "{" in field:
        return BRACES.sub(lambda name: _text(_field(row, name[1], place), name[1], place), field)
    found: Any = row
    for name in field.split("."):
        if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        elif isinstance(found, dict) and name in found:
            found = found[name]
        else:
            there = found if isinstance(found, dict) else row
            raise UsageError(f"{place}: no field {field!r}: {nearest(name, map(str, there))}")
    return found


def _is_cut(row: Fields, field: str) -> bool:
    """Tells whether one of the objects on a field's path says that its text ended at a limit."""
    here: Any = row
    for name in field.split("."):
        if isinstance(here, list):
            here = here[int(name)] if name.isdecimal() and int(name) < len(here) else None
        elif isinstance(here, dict):
            if here.get(FINISH_REASON) == CUT:
                return True
            here = here.get(name)
    return False


def _text(value: Any, field: str, place: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{place}: field {field!r} must be text, got {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{place}: field {field!r} holds a lone surrogate, no valid Unicode") from error
    return value


def tokenizer(spec: TaskSpec) -> Tokenizer:
    """Loads the vocabulary of `spec`."""
    return Tokenizer.from_file(spec.vocabulary_path) if spec.vocabulary_path else embedded_tokenizer()


def reader(spec: TaskSpec) -> Reader:
    """Makes the default reader of `spec`, which a model may override."""
    one_text = spec.is_language_modelling
    return Reader(tokenizer(spec), ends_with_eos=not one_text, begins_with_eos=one_text)


def check_lengths(lengths: Mapping[str, int]) -> None:
    """Rejects anything but {"inputs": n, "targets": m} with n, m >= 2 (one token and EOS).

    Raises:
      UsageError: a feature is missing or unknown, or a length is out of range.
    """
    if set(lengths) != {"inputs", "targets"}:
        raise UsageError(f"feature lengths must name 'inputs' and 'targets', got {sorted(lengths)}")
    for feature, length in lengths.items():
        if not isinstance(length, int) or length < 2:
            raise UsageError(f"length of {feature!r} is {length!r}; need a whole number of at least 2 tokens")
        bounds.check_most(f"length of {feature!r}", length, bounds.TOKENS)
