"""Prompts to distil on: those of request logs, split by a stable hash, and a bounded sample of earlier ones.

A prompt's text alone determines whether it is held out, always or never: a prompt used for evaluation today
is never trained on when it recurs. The sample keeps the prompts with the smallest hashes (a bottom-k sketch).
It is uniform over all distinct prompts ever seen and independent of how often and in which order they are
added, so a killed run may add them again.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distillspec_jax import files, outputs, schema
from distillspec_jax.distillation.deployment import Deployment
from distillspec_jax.errors import UsageError, nearest

HELD_OUT = 0.2
"""Share of prompts that are never trained on; a constant, since changing it would mix the two sets."""
VALIDATION = 0.1
"""Share of the prompts to train on that a training keeps for validation, by which it may choose its best
checkpoint: the held-out prompts, which judge that choice, must not make it."""
KEPT = 4096
"""Maximum number of prompts in a sample."""
INPUTS = "inputs"
"""The field of a log that holds the prompt."""
NO_PROMPT = "lines without a prompt"
NO_TEXT = "lines whose prompt is empty or no text"
CUT = "texts that did not end by EOS"
DAMAGED = "lines that are no JSON objects"
_EOS = "eos"
AGAIN = "prompts that were there before"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """A logged prompt.

    Attributes:
      inputs: its text, without the prefix that the model adds.
      outputs: the target's text; empty if unknown or cut short.
      since: the first version that was trained with it.
    """

    inputs: str
    outputs: str = ""
    since: str = ""

    @property
    def held_out(self) -> bool:
        """Tells whether it is only for evaluation, never for training."""
        return _share(self.inputs, 0) < HELD_OUT

    @property
    def priority(self) -> float:
        """Its rank in a sample, which keeps the lowest; independent of `held_out`."""
        return _share(self.inputs, 8)


@dataclasses.dataclass(frozen=True)
class Asked:
    """The prompts of some logs.

    Attributes:
      prompts: distinct ones, in order of first occurrence.
      samplings: the distributions that the lines state.
      notes: number of lines set aside, by reason.
    """

    prompts: Sequence[Prompt]
    samplings: frozenset[Deployment]
    notes: dict[str, int]


def read_logs(paths: Iterable[str], field: str | None = None) -> Asked:
    """Reads the prompts of logs as written by `generate` and `serve`.

    Args:
      paths: of JSON lines.
      field: the field with the prompt, if the user named it; None: `inputs`.

    Raises:
      UsageError: a file cannot be read, or no file has a prompt.
    """
    name = field or INPUTS
    others: set[str] = set()
    found: dict[str, Prompt] = {}
    notes: collections.Counter[str] = collections.Counter()
    samplings: set[Deployment] = set()
    lines = 0
    for path in paths:
        outputs.reads(path)
        for _, line in files.json_lines_apart(path, lambda line, _: line):
            lines += 1
            if isinstance(line, UsageError):
                notes[DAMAGED] += 1
                continue
            if name not in line:
                notes[NO_PROMPT] += 1
                others.update(key for key, value in line.items() if isinstance(value, str))
                continue
            text, answer = line[name], line.get("outputs")
            if not isinstance(text, str) or not text.strip():
                notes[NO_TEXT] += 1
                continue
            if (sampling := _sampling(line)) is not None:
                samplings.add(sampling)
            if text in found:
                notes[AGAIN] += 1
                continue
            if answer is not None and line.get("finish_reason", _EOS) != _EOS:
                notes[CUT] += 1
                answer = None  # as a reference it would teach to stop there
            found[text] = Prompt(inputs=text, outputs=answer if isinstance(answer, str) else "")
    if not found:
        told = ", ".join(f"{count:,} {what}" for what, count in notes.items())
        wanted = "to distil again, a log must keep the field 'inputs'"
        if field is not None:
            wanted = f"choose the field of the prompt by --field; {field!r}: {nearest(field, others)}"
        raise UsageError(
            f"{', '.join(map(str, paths))}: no prompts in {lines:,} lines{f' ({told})' if told else ''}: "
            f"{wanted}"
        )
    return Asked(list(found.values()), frozenset(samplings), dict(notes))


def _sampling(line: Mapping[str, Any]) -> Deployment | None:
    """Returns the distribution that a line states; None if it states no valid one."""
    told: list[Any] = [line.get("temperature"), line.get("top_k", 0), line.get("top_p", 1.0)]
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) for one in told):
        return None
    temperature, top_k, top_p = told
    if temperature == 0:  # greedy, whatever the others say
        top_k, top_p = 0, 1.0
    try:
        return Deployment(float(temperature), int(top_k), float(top_p))
    except (UsageError, ValueError, OverflowError):
        return None


def read_sample(path: Path) -> list[Prompt]:
    """Reads a registry's sample of earlier prompts; empty if there is no file yet.

    Raises:
      UsageError: it is damaged; names the line.
    """
    if not path.is_file():
        return []
    lines = files.json_lines(files.read_lines(path), path)
    return [schema.read(Prompt, line, place, "a prompt") for place, line in lines]


def write_sample(path: Path, known: Iterable[Prompt], more: Iterable[Prompt]) -> None:
    """Adds prompts to a sample; known prompts keep their existing entries."""
    merged = {one.inputs: one for one in [*more, *known]}
    kept = sorted(merged.values(), key=lambda one: (one.priority, one.inputs))[:KEPT]
    write(path, kept)


def write(path: Path, prompts: Iterable[Prompt]) -> None:
    """Writes prompts as JSON lines."""
    files.write_whole(path, "".join(files.as_json(dataclasses.asdict(one)) + "\n" for one in prompts))


def mixed(new: Sequence[Prompt], old: Sequence[Prompt], share: float) -> list[Prompt]:
    """Mixes prompts to train on.

    Args:
      new, old: distinct prompts.
      share: of old prompts in the mixture; they are repeated if there are too few.
    """
    ranked = sorted(old, key=lambda one: one.priority)
    wanted = round(len(new) * share / (1.0 - share)) if ranked else 0
    return [*new, *(ranked[i % len(ranked)] for i in range(wanted))]


def judging(found: Iterable[Prompt], most: int) -> list[Prompt]:
    """Selects up to `most` held-out prompts, by their priority."""
    return sorted((one for one in found if one.held_out), key=lambda one: one.priority)[:most]


def validating(found: Sequence[Prompt], most: int) -> tuple[list[Prompt], list[Prompt]]:
    """Splits the prompts to train on into those and up to `most` for validation, by their priority."""
    count = min(most, math.ceil(VALIDATION * len(found))) if len(found) > 1 else 0
    kept = sorted(found, key=lambda one: one.priority)[:count]
    chosen = {one.inputs for one in kept}
    return [one for one in found if one.inputs not in chosen], kept


def apart(
    asked: Sequence[Prompt], sample: Sequence[Prompt], versions: Collection[str]
) -> tuple[list[Prompt], list[Prompt]]:
    """Separates new prompts from old ones.

    Args:
      asked: prompts of the logs.
      sample: of the registry.
      versions: existing versions; prompts sampled for a version that was never added are not old.
    """
    old = [one for one in sample if one.since in versions]
    known = {one.inputs for one in old}
    return [one for one in asked if one.inputs not in known], old


def digest(prompts: Iterable[Prompt]) -> str:
    """Computes a digest of a list of prompts: equal digests mean equal texts in the same order."""
    found = hashlib.sha256()
    for one in prompts:
        found.update(hashlib.sha256(one.inputs.encode()).digest())
    return found.hexdigest()[:12]


def _share(text: str, start: int) -> float:
    """Maps a text to a fixed number in [0, 1) by its hash."""
    words: Any = hashlib.sha256(text.encode()).digest()[start : start + 8]
    return int.from_bytes(words, "big") / 2.0**64
