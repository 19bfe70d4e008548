"""The evidence of a rollout's stage: units of both arms, from served lines or from counters of two engines.

Only traffic since the start of the stage counts. Lines are selected by their registry revision
(`registry_revision`) or their time, and from the candidate's first line on, since a server needs time to load
a draft. `draft_version` names a line's draft. A repeated prompt counts once, since its answers are
correlated.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distillspec_jax.acceptance import PartialRecord
from distillspec_jax.decoding import rules
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation import served_files, served_lines
from distillspec_jax.evaluation.engines.differences import Differences
from distillspec_jax.evaluation.served_lines import VERSION_FIELD, Answers, Unit
from distillspec_jax.operations.transitions import Transition

REVISION_FIELD, RULE_FIELD = "registry_revision", "rule"
SECONDS_FIELD, DECODING_FIELD = "latency_s", "decoding_s"
"""Time to the end of a text, from its request and from its slot: the wait for a slot is not the draft's."""
OTHER_STAGE = "lines of other stages"
OTHER_VERSION = "lines of other drafts"
EARLY = "lines of before the candidate's first"
TIMELESS = "lines that tell neither revision nor time"
REPEATED = "prompts that came again"
UNDRAFTED = "answers in which no draft was tested"
MEASURES = ("acceptance_tested", "acceptance_drafted")
_SAMPLING = ("temperature", "top_k", "top_p")


@dataclasses.dataclass(frozen=True)
class Arm:
    """The units of one arm.

    Attributes:
      records: of prompts, or of intervals between scrapes.
      seconds_U: seconds per token, for prompts with a time.
    """

    records: Sequence[PartialRecord]
    seconds_U: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The evidence of a stage.

    Attributes:
      stable, candidate: the arms.
      measure: the ratio that both provide; None if there are no units yet.
      lines: numbers for the stable draft and the candidate; None for counters, which do not give them.
      lossy: rules stated in lines that change the texts.
      notes: number of lines set aside, by reason.
    """

    stable: Arm
    candidate: Arm
    measure: str | None
    lines: tuple[int, int] | None
    lossy: tuple[str, ...]
    notes: Mapping[str, int]

    def counts(self, arm: Arm) -> tuple[np.ndarray, np.ndarray]:
        """Returns the two sums of the measure for each unit that has them."""
        sums = [one.sums(self.measure) for one in arm.records] if self.measure else []
        whole = [pair for pair in sums if pair is not None and pair[1]]
        return np.array([top for top, _ in whole], float), np.array([bottom for _, bottom in whole], float)


def of_logs(paths: Sequence[str], stage: Transition) -> Evidence:
    """Reads the lines of both arms since the start of a stage.

    Raises:
      UsageError: a file or line cannot be read, or a line is not an answer.
    """
    notes: collections.Counter[str] = collections.Counter()
    found: list[tuple[str, dict[str, Any]]] = []
    lossy: dict[str, None] = {}
    versions = {stage.stable, stage.candidate}
    for path in paths:
        for place, line in served_files.objects(served_files.news(path, [])):
            what = _aside(line, place, stage)
            version = line.get(VERSION_FIELD)
            if what is None and not (isinstance(version, str) and version in versions):
                what = OTHER_VERSION
            if what is not None:
                notes[what] += 1
                continue
            rule = line.get(RULE_FIELD)
            known = rules.RULES.get(rule) if isinstance(rule, str) else None
            if rule is not None and (known is None or not known.exact):
                lossy[str(rule)[:100]] = None
            found.append((place, line))
    first = min(
        (_started(line) for _, line in found if line[VERSION_FIELD] == stage.candidate), default=-math.inf
    )
    parts: dict[str, list[tuple[str, dict[str, Any]]]] = {stage.stable: [], str(stage.candidate): []}
    for place, line in found:
        if _started(line) < first:
            notes[EARLY] += 1
        else:
            parts[line[VERSION_FIELD]].append((place, line))
    # One measure for both arms: a line that tells its latency alone makes it that of all.
    latency = any(SECONDS_FIELD in line and DECODING_FIELD not in line for _, line in found)
    field = SECONDS_FIELD if latency else DECODING_FIELD
    stable, candidate = (_arm(lines, field, notes) for lines in parts.values())
    return Evidence(
        stable,
        candidate,
        measure=_measure([*stable.records, *candidate.records]),
        lines=(len(parts[stage.stable]), len(parts[str(stage.candidate)])),
        lossy=tuple(lossy),
        notes=dict(notes),
    )


def of_counters(stable: str, candidate: str, stage: Transition, model: str | None = None) -> Evidence:
    """Reads the counters of two groups of servers since the start of a stage.

    Args:
      stable, candidate: files of scrapes, each with its time.
      model: see `scrapes.of_text`.

    Raises:
      UsageError: there are no counters, scrapes have no times, or the engines differ.
    """
    notes: collections.Counter[str] = collections.Counter()
    names, arms = [], []
    for path in (stable, candidate):
        found = served_files.counters(served_files.news(path, []), model)
        if found is None:
            raise UsageError(f"{path}: no scrapes of counters")
        engine, scrapes = found
        if any(one.seconds is None for one in scrapes):
            raise UsageError(
                f"{path}: a scrape does not tell its time: write `# scraped_at SECONDS` before each"
            )
        since = [one for one in scrapes if one.seconds is not None and one.seconds >= stage.time]
        seen = Differences(notes=notes)
        assert engine.counters is not None
        records = [answer.record for _, answer in seen.intervals(since, engine.counters, None)]
        arms.append(Arm(records, np.zeros(0)))
        names.append(engine.name)
    if names[0] != names[1]:
        raise UsageError(f"{candidate}: counters of {names[1]}, but {stable} has those of {names[0]}")
    return Evidence(
        arms[0],
        arms[1],
        measure=_measure([*arms[0].records, *arms[1].records]),
        lines=None,
        lossy=(),
        notes={name: count for name, count in notes.items() if count},
    )


def _aside(line: Mapping[str, Any], place: str, stage: Transition) -> str | None:
    """Returns why a line does not count for a stage; None if it does."""
    revision = line.get(REVISION_FIELD)
    if revision is not None:
        if not isinstance(revision, int) or isinstance(revision, bool):
            raise UsageError(f"{place}: field {REVISION_FIELD!r} must be a whole number")
        return None if revision == stage.revision else OTHER_STAGE
    at = served_lines.time_of(line)
    if at is None:
        return TIMELESS
    return None if at >= stage.time else OTHER_STAGE


def _started(line: Mapping[str, Any]) -> float:
    """Returns a line's time if it determines the stage; infinity for lines that state a revision."""
    at = None if line.get(REVISION_FIELD) is not None else served_lines.time_of(line)
    return math.inf if at is None else at


def _arm(lines: Sequence[tuple[str, dict[str, Any]]], field: str, notes: collections.Counter[str]) -> Arm:
    answers = Answers(by=(*_SAMPLING, field))
    seen: set[str] = set()
    units = []
    for unit in answers.units(lines):
        if unit.prompt is not None and unit.prompt in seen:
            notes[REPEATED] += 1
            continue
        if unit.prompt is not None:
            seen.add(unit.prompt)
        units.append(unit)
    notes.update({name: count for name, count in answers.notes.items() if count})
    return Arm([unit.record for unit in units], np.array(list(_seconds(units, field))))


def _seconds(units: Sequence[Unit], field: str) -> Iterator[float]:
    for unit in units:
        seconds: Any = unit.fields.get(field)
        tokens = unit.record.emitted_tokens
        told = isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and unit.record.texts == 1
        if told and tokens and math.isfinite(seconds) and seconds >= 0:
            yield float(seconds) / tokens


def _measure(records: Sequence[PartialRecord]) -> str | None:
    """Returns the first ratio that all records provide.

    Raises:
      UsageError: there is none.
    """
    if not records:
        return None
    for name in MEASURES:
        if all(one.sums(name) is not None for one in records):
            return name
    raise UsageError(f"the two arms tell no acceptance in common ({', '.join(MEASURES)})")
