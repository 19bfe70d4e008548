"""The verdicts of a watch as Prometheus text, for node-exporter's textfile collector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from distillspec_jax import files
from distillspec_jax.evaluation.verdicts import Verdict

_PREFIX = "distillspec_watch_"
_STATUS = {"fine": 0, "drift": 1, "not enough": 3}


def write(path: str, found: Sequence[Verdict]) -> None:
    """Writes the text, whole or not at all, as the collector wants it.

    Raises:
      UsageError: the place cannot be written, or holds a file of others.
    """
    files.write_whole(path, generate_latest(registry(found)), is_ours)


def registry(found: Sequence[Verdict]) -> CollectorRegistry:
    """Makes the metrics of some verdicts."""
    made = CollectorRegistry()

    def gauge(name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(_PREFIX + name, help_text, ("stream", *labels), registry=made)

    status = gauge("status", "0 fine, 1 drift, 3 not enough, as the exit status of distillspec watch")
    parts = ("segment",)
    values = gauge("acceptance", "The watched ratio over all that was read", *parts, "measure")
    limits = gauge("threshold", "The level below which the ratio has dropped", *parts)
    evidence = gauge("evidence", "Evidence of a drop (an e-process) after the last unit", *parts)
    levels = gauge("evidence_needed", "Evidence at which the alarm is raised", *parts)
    alarms = gauge("alarm", "1 once the evidence has reached the level", *parts)
    units = gauge("units", "Requests, or intervals between scrapes, with tested drafts", *parts)
    aside = gauge("noted", "Lines that were set aside or were remarkable", "reason")
    for one in found:
        status.labels(one.label).set(_STATUS[one.outcome])
        for reason, count in one.notes.items():
            aside.labels(one.label, reason).set(count)
        for part in one.segments:
            units.labels(one.label, part.name).set(part.units)
            if not math.isnan(part.value):
                values.labels(one.label, part.name, one.measure).set(part.value)
            if part.threshold is not None:
                limits.labels(one.label, part.name).set(part.threshold.shown)
                evidence.labels(one.label, part.name).set(part.evidence)
                levels.labels(one.label, part.name).set(part.level)
                alarms.labels(one.label, part.name).set(part.alarm_at is not None)
    return made


def is_ours(path: Path) -> bool:
    """Whether a file is such a text."""
    with path.open(encoding="utf-8") as file:
        return file.readline().startswith(f"# HELP {_PREFIX}")
