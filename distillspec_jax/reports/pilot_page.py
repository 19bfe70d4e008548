"""A pilot's finding for whoever decides: one page, and the same on a terminal, in English or Japanese."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import NamedTuple

from distillspec_jax import files
from distillspec_jax.evaluation.paired import Interval
from distillspec_jax.evaluation.prospect import Finding
from distillspec_jax.reports.pilot_texts import text
from distillspec_jax.reports.templates import template

_TEMPLATE = "pilot.html.j2"
_SIGNATURE = '<meta name="generator" content="distillspec_jax pilot">'
_BASIS = ("data", "interval", "growth", "time", "quality")


class Row(NamedTuple):
    """A line of the table: what, its value, and what it means."""

    what: str
    value: str
    means: str


class Bar(NamedTuple):
    """An interval in the picture; places in per cent of its width."""

    name: str
    value: str
    low: float
    middle: float
    high: float


class Story(NamedTuple):
    """A finding in the words of a language.

    Attributes:
      title, subtitle: of the page.
      verdict, reason: what to do, in a word and in a sentence.
      next_step: what to do then.
      rows: the table.
      basis: sentences on how the numbers were made.
    """

    title: str
    subtitle: str
    verdict: str
    reason: str
    next_step: str
    rows: list[Row]
    basis: list[str]


def story(found: Finding, language: str) -> Story:
    """Tells a finding; the numbers are formatted alike in all languages."""
    prospect = found.prospect
    say = functools.partial(text, language=language)
    everything, trained, judged = (f"{count:,}" for count in found.prompts)
    values = {
        "target": found.target,
        "draft": found.draft,
        "data": Path(found.data).name,
        "all": everything,
        "trained": trained,
        "judged": judged,
        "temperature": f"{found.temperature:g}",
        "block_size": str(found.block_size),
        "device": found.device,
        "pilot_steps": f"{found.pilot_steps:,}",
        "steps": f"{found.steps:,}",
        "low": _change(prospect.gain.low),
        "high": _change(prospect.gain.high),
        "least": _change(1 + found.least_gain),
        "fewest": _count(prospect.requests.low),
        "most": _count(prospect.requests.high),
        "limit": f"{found.pay_back_requests:,}",
        "now": _duration(prospect.seconds_a_request, language),
    }
    rows = [
        ("acceptance", f"{_ends(found.acceptance[0], '.2f')}"),
        ("efficiency", f"{_ends(found.block_efficiency[0], '.2f')}"),
        ("seen", _changes(prospect.seen)),
        ("gain", _changes(prospect.gain)),
        ("cost", _duration(prospect.training_seconds, language)),
        ("saved", _durations(prospect.saved, language)),
        ("requests", _counts(prospect.requests)),
    ]
    return Story(
        title=say("title"),
        subtitle=say("subtitle", **values),
        verdict=say(found.outcome),
        reason=say(f"{found.outcome}, {found.why or 'said'}", **values),
        next_step=_next(found, language),
        rows=[Row(say(key), value, say(f"{key}, means", **values)) for key, value in rows],
        basis=[say(f"basis, {key}", **values) for key in _BASIS],
    )


def _next(found: Finding, language: str) -> str:
    if found.outcome != "not enough":
        return text(f"{found.outcome}, next", language)
    if found.needed is None:
        return text("not enough, steps", language)
    every = math.ceil(found.needed * found.prompts[0] / max(found.prompts[0] - found.prompts[1], 1))
    return text(
        "not enough, prompts",
        language,
        needed=f"{every:,}",
        judged=f"{found.needed:,}",
        judged_flag=str(found.needed),
    )


def lines(found: Finding, language: str) -> list[str]:
    """Tells a finding as lines of a terminal."""
    told = story(found, language)
    return [
        told.subtitle,
        *(f"  {row.what}: {row.value} | {row.means}" for row in told.rows),
        *(f"  * {sentence}" for sentence in told.basis),
        f"{told.verdict}: {told.reason}",
        f"{text('next', language)}: {told.next_step}",
    ]


def write(path: Path, found: Finding, language: str) -> None:
    """Writes the page, whole or not at all; it needs nothing beside itself.

    Raises:
      UsageError: the place cannot be written, or holds a file of others.
    """
    bars, wanted = _bars(found, language)
    page = template(_TEMPLATE).render(
        story=story(found, language),
        outcome=found.outcome,
        language=language,
        bars=bars,
        wanted=wanted,
        say=functools.partial(text, language=language),
        least=_change(1 + found.least_gain),
    )
    files.write_whole(path, page, is_ours)


def is_ours(path: Path) -> bool:
    """Whether a file is such a page."""
    with path.open(encoding="utf-8") as file:
        return _SIGNATURE in file.read(4096)


def _bars(found: Finding, language: str) -> tuple[list[Bar], float]:
    """Places both intervals, and what is asked for, on one axis that holds 0, too."""
    shown = {"seen": found.prospect.seen, "gain": found.prospect.gain}
    wanted = 1 + found.least_gain
    points = [1.0, wanted, *(end for one in shown.values() for end in (one.low, one.high))]
    low, high = min(points), max(points)

    def place(value: float) -> float:
        return 4 + 92 * (value - low) / ((high - low) or 1.0)

    bars = [
        Bar(text(key, language), _changes(one), place(one.low), place(one.value), place(one.high))
        for key, one in shown.items()
    ]
    return bars, place(wanted)


def _change(ratio: float) -> str:
    """Writes a ratio as a change.

    >>> _change(1.041), _change(0.98)
    ('+4.1 %', '-2.0 %')
    """
    return f"{100 * (ratio - 1):+.1f} %"


def _changes(found: Interval) -> str:
    return f"{_change(found.value)} ({_change(found.low)} – {_change(found.high)})"


def _ends(found: Interval, form: str) -> str:
    return f"{found.value:{form}} ({found.low:{form}} – {found.high:{form}})"


def _count(requests: float) -> str:
    """Writes a number of requests; `∞` is never."""
    return f"{math.ceil(requests):,}" if math.isfinite(requests) else "∞"


def _counts(found: Interval) -> str:
    return f"{_count(found.value)} ({_count(found.low)} – {_count(found.high)})"


def _duration(seconds: float, language: str) -> str:
    """Writes a time, below a second in milliseconds."""
    if abs(seconds) < 1:
        return text("milliseconds", language, number=f"{1000 * seconds:,.1f}")
    return text("seconds", language, number=f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:,.1f}")


def _durations(found: Interval, language: str) -> str:
    value, low, high = (_duration(one, language) for one in found)
    return f"{value} ({low} – {high})"
