"""Scrapes of Prometheus counters: from text, one after another in a file, or from a range query's JSON.

Text is what `/metrics` of an engine gives; several scrapes may stand in one file, each perhaps after a
comment `# scraped_at SECONDS`. A range query is the JSON of Prometheus' `/api/v1/query_range` for the raw
counters (no `rate`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from distillspec_jax import schema
from distillspec_jax.errors import UsageError, nearest, shown
from distillspec_jax.evaluation.engines.distillspec import ENGINE as OURS
from distillspec_jax.evaluation.engines.engine import Counters, Engine
from distillspec_jax.evaluation.engines.registry import ENGINES

_TIME = re.compile(r"# scraped_at\s+(\S+)\s*$")
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(\{.*\})?\s")


@dataclasses.dataclass(frozen=True)
class Series:
    """A counter of one process.

    Attributes:
      name: ours, see `Counters.names`.
      position: of a draft; None of counters without one.
      source: all other labels, as JSON: which process and model.
    """

    name: str
    position: int | None
    source: str

    @property
    def key(self) -> str:
        """A text that is the series' own."""
        return json.dumps([self.name, self.position, self.source])

    @classmethod
    def of_key(cls, key: str) -> Series:
        """Undoes `key`."""
        return cls(*json.loads(key))


@dataclasses.dataclass(frozen=True)
class Scrape:
    """All counters at one time.

    Attributes:
      place: where it begins, for errors.
      seconds: since 1970; None where it is not told.
      values: of each series.
    """

    place: str
    seconds: float | None
    values: Mapping[Series, float]


@dataclasses.dataclass(frozen=True)
class _Sample:
    """One sample of a text or of a query."""

    name: str
    labels: Mapping[str, str]
    value: float


def of_text(
    lines: Iterable[str], name: str, model: str | None, first: int = 1
) -> tuple[Engine, list[Scrape]]:
    """Reads scrapes from text; a counter that comes again begins the next scrape.

    Args:
      lines: of the text.
      name: of the file, for errors.
      model: the value of the label `model_name` (of our own counters, `draft`) that is meant; None where
        there is one alone.
      first: number of the first line.

    Raises:
      UsageError: no counters of an engine that is known, those of two, text that is not Prometheus', or
        several models of which none was chosen.
    """
    parts: list[tuple[int, float | None, list[str]]] = []
    begun: set[str] = set()
    for number, line in enumerate(lines, start=first):
        timed, sample = _TIME.match(line), _SAMPLE.match(line)
        if timed:
            parts.append((number, _number(timed[1], f"{name}:{number}"), []))
            begun = set()
        elif sample and _known(sample[1]):
            key = sample[1] + (sample[2] or "")
            if key in begun or not parts:
                parts.append((number, None, []))
                begun = set()
            begun.add(key)
            parts[-1][2].append(line)
    found = [(f"{name}:{number}", at, _parsed(kept, f"{name}:{number}")) for number, at, kept in parts]
    return _scrapes([(place, at, samples) for place, at, samples in found if samples], name, model)


def _parsed(lines: Sequence[str], place: str) -> list[_Sample]:
    from prometheus_client.parser import text_string_to_metric_families  # not needed by `--help`

    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except ValueError as error:
        raise UsageError(f"{place}: no text of Prometheus: {str(error)[:100]}") from error
    return [_Sample(one.name, one.labels, one.value) for family in families for one in family.samples]


@dataclasses.dataclass(frozen=True)
class _Line:
    """One series of a range query."""

    metric: dict[str, str]
    values: list[tuple[schema.Number, str]]


@dataclasses.dataclass(frozen=True)
class _Data:
    resultType: str
    result: list[Any]


@dataclasses.dataclass(frozen=True)
class _Query:
    status: str
    data: _Data


def is_query(found: Mapping[str, Any]) -> bool:
    """Whether a JSON object is Prometheus' answer to a query."""
    return {"status", "data"} <= found.keys()


def of_query(found: Mapping[str, Any], name: str, model: str | None) -> tuple[Engine, list[Scrape]]:
    """Reads scrapes from the JSON of a range query: one at every time that it has.

    Args:
      found: the JSON object.
      name, model: see `of_text`.

    Raises:
      UsageError: see `of_text`; or another kind of answer.
    """
    query = schema.read(_Query, found, name, "a range query of Prometheus")
    if query.status != "success" or query.data.resultType != "matrix":
        kind = f"status {shown(query.status)}, resultType {shown(query.data.resultType)}"
        raise UsageError(f"{name}: {kind}: must be a range query that succeeded (a matrix)")
    by_time: dict[float, list[_Sample]] = {}
    for number, entry in enumerate(query.data.result):
        line = schema.read(_Line, entry, f"{name}, result {number}", "a series")
        metric = line.metric.get("__name__", "")
        if not _known(metric):
            continue
        labels = {label: value for label, value in line.metric.items() if label != "__name__"}
        for at, value in line.values:
            sample = _Sample(metric, labels, _number(value, f"{name}, result {number}"))
            by_time.setdefault(float(at), []).append(sample)
    return _scrapes([(f"{name} at {at:.0f}", at, by_time[at]) for at in sorted(by_time)], name, model)


def _number(text: str, place: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{place}: {shown(text)} is no number") from error


def _known(sample: str) -> tuple[Engine, Counters, str] | None:
    """The engine, its counters and our name for a sample's name; None of what is not read."""
    bare = sample.removesuffix("_total")
    for engine in ENGINES:
        if engine.counters is not None:
            for ours, theirs in engine.counters.names.items():
                if theirs == bare:
                    return engine, engine.counters, ours
    return None


def _of(engine: Engine, sample: _Sample) -> bool:
    known = _known(sample.name)
    return known is not None and known[0].name == engine.name


def _scrapes(
    parts: Sequence[tuple[str, float | None, list[_Sample]]], name: str, model: str | None
) -> tuple[Engine, list[Scrape]]:
    engines = {
        known[0].name: known[0]
        for _, _, samples in parts
        for sample in samples
        if (known := _known(sample.name))
    }
    if OURS.name in engines:  # `serve` has vLLM's names, too, which tell less
        engines = {OURS.name: OURS}
    if not engines:
        names = ", ".join(engine.name for engine in ENGINES if engine.counters and engine is not OURS)
        raise UsageError(f"{name} has no counters of speculative decoding of {names} or distillspec serve")
    if len(engines) > 1:
        raise UsageError(f"{name} has counters of {' and '.join(engines)}: give each a file of its own")
    (engine,) = engines.values()
    assert engine.counters is not None
    label, kind = engine.counters.chosen_by, "draft" if engine is OURS else "model"
    own = [(place, at, [one for one in samples if _of(engine, one)]) for place, at, samples in parts]
    models = {one.labels[label] for _, _, samples in own for one in samples if label in one.labels}
    if model is not None and models and model not in models:
        raise UsageError(f"{name}: no counters of {kind} {model!r}: {nearest(model, models)}")
    if model is None and len(models) > 1:
        raise UsageError(
            f"{name} has counters of several {kind}s: choose one by --model {nearest('', models)}"
        )
    found = []
    for place, at, samples in own:
        chosen = (one for one in samples if model is None or one.labels.get(label, model) == model)
        found.append(Scrape(place, at, dict(_values(chosen, place))))
    return engine, found


def _values(samples: Iterable[_Sample], place: str) -> Iterator[tuple[Series, float]]:
    for sample in samples:
        known = _known(sample.name)
        if known is None:
            continue
        _, counters, ours = known
        labels = dict(sample.labels)
        text = labels.pop(counters.position, None)
        if not math.isfinite(sample.value) or not 0 <= sample.value < schema.COUNT_LIMIT:
            raise UsageError(f"{place}: {sample.name} is {sample.value:g}, must be a count")
        if text is not None and not (text.isdecimal() and len(text) < 5):
            raise UsageError(f"{place}: {sample.name} has the {counters.position} {shown(text)}")
        source = json.dumps(labels, sort_keys=True)
        yield Series(ours, None if text is None else int(text), source), sample.value
