"""What was tried and how it ended, in Markdown."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Sequence
from typing import Any

from tests.attack.attacker import Outcome
from tests.attack.kills import Killed


def as_json(outcome: Outcome) -> dict[str, Any]:
    """An outcome as a JSON object."""
    return {
        "case": str(outcome.case),
        "group": outcome.case.group,
        "command": outcome.case.command,
        "fate": outcome.fate,
        "reasons": outcome.reasons,
        "lost": outcome.lost,
        "peak": outcome.peak,
        "seconds": round(outcome.seconds, 3),
        "said": outcome.said,
    }


def text(outcomes: Sequence[Outcome], killed: Sequence[Killed], resting: int) -> str:
    """The tables by command and by mechanism, the failures, the kills."""
    parts = [_by("command", outcomes), _by("group", outcomes)]
    refused = [one for one in outcomes if one.fate == "refused"]
    if refused:
        dearest, slowest = max(refused, key=lambda o: o.peak), max(refused, key=lambda o: o.seconds)
        parts.append(
            f"A process that has imported everything holds {resting >> 20:,} MB. A refused call took at most "
            f"{dearest.peak >> 20:,} MB beyond what its process held (`{dearest.case.command}`), and at most "
            f"{slowest.seconds:.1f} s of processor time (`{slowest.case.command}`)."
        )
    failed = [one for one in outcomes if one.fate == "failed"]
    if failed:
        lines = [f"- `{one.case}`: {'; '.join(one.reasons)}".replace("\n", " ") for one in failed]
        parts.append("What did not hold:\n\n" + "\n".join(lines))
    if killed:
        parts.append(_kills(killed))
    return "\n\n".join(parts)


def _by(what: str, outcomes: Iterable[Outcome]) -> str:
    rows: dict[str, collections.Counter[str]] = {}
    for one in outcomes:
        counts = rows.setdefault(getattr(one.case, what), collections.Counter())
        counts.update(tried=1, held=one.fate != "failed", refused=one.fate == "refused", lost=one.lost)
        counts.update(done=one.fate == "done")
    rows = dict(sorted(rows.items()))
    rows["together"] = sum(rows.values(), collections.Counter())
    lines = [
        f"| {what} | tried | held | refused in one line | done, nothing changed | lost |",
        "|---|---|---|---|---|---|",
    ]
    for name, counts in rows.items():
        cells = [f"{counts[key]:,}" for key in ("tried", "held", "refused", "done", "lost")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _kills(killed: Sequence[Killed]) -> str:
    rows: dict[str, collections.Counter[str]] = {}
    for one in killed:
        counts = rows.setdefault(one.job, collections.Counter())
        counts.update(
            tried=1, killed=one.fate == "killed", equal=not one.differences, leftovers=one.leftovers
        )
    lines = [
        "| job | tried | killed in time | equal to an undisturbed run | temporary files left by a kill |",
        "|---|---|---|---|---|",
    ]
    for name, counts in rows.items():
        cells = [f"{counts[key]:,}" for key in ("tried", "killed", "equal", "leftovers")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
