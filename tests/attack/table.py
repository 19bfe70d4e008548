"""What was tried and how it ended: records of runs as JSON lines, and pages of them in Markdown."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from distillspec_jax.cli.main import COMMANDS
from tests.attack.attacker import Outcome
from tests.attack.kills import Killed

Record = dict[str, Any]
"""Of a run (`run`), of a case (`case`), or of a process that was killed (`job`)."""


def of_run(argv: Sequence[str], commit: str, resting: int) -> Record:
    """The record with which a run begins.

    Args:
      argv: its flags.
      commit: of the tree that was attacked.
      resting: bytes of a process that has imported everything.
    """
    return {"run": list(argv), "commit": commit, "resting": resting}


def of_case(outcome: Outcome) -> Record:
    """The record of a case."""
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


def of_kill(killed: Killed) -> Record:
    """The record of a process that was killed."""
    return dataclasses.asdict(killed)


def held(records: Sequence[Record], least: float) -> bool:
    """Whether nothing was lost, every kill was made good, and at least so large a share of the cases held."""
    cases = [one for one in records if "case" in one]
    failed = sum(one["fate"] == "failed" for one in cases)
    lost = any(one["lost"] for one in cases) or any(one["differences"] for one in records if "job" in one)
    return not lost and failed <= (1 - least) * len(cases)


def text(records: Sequence[Record]) -> str:
    """The page: what was run, tables by command and by mechanism, the failures, the kills."""
    runs, cases, kills = ([one for one in records if kind in one] for kind in ("run", "case", "job"))
    parts = [
        "# Hostile calls, and what became of them",
        "What each row means: `tests/attack/README.md`. Runs, of the commits named:",
    ]
    parts.append(
        "\n".join(
            f"- `{' '.join(['python -m tests.attack', *one['run']])}` at {one['commit']}" for one in runs
        )
    )
    if cases:
        missing = sorted(COMMANDS.keys() - {one["command"] for one in cases})
        if missing:
            parts.append(f"No row in the next table is of {', '.join(f'`{name}`' for name in missing)}.")
        parts += [_by("command", cases), _by("group", cases)]
    refused = [one for one in cases if one["fate"] == "refused"]
    if refused:
        dearest, slowest = (max(refused, key=lambda one: one[what]) for what in ("peak", "seconds"))
        parts.append(
            f"A process that has imported everything holds {max(one['resting'] for one in runs) >> 20:,} MB. "
            f"A refused call took at most {dearest['peak'] >> 20:,} MB beyond what its process held "
            f"(`{dearest['command']}`), and at most {slowest['seconds']:.1f} s of processor time "
            f"(`{slowest['command']}`)."
        )
    failed = [one for one in cases if one["fate"] == "failed"]
    lines = [f"- `{one['case']}`: {'; '.join(one['reasons'])}".replace("\n", " ") for one in failed]
    lines += _differing(kills)
    if lines:
        parts.append("What did not hold:\n\n" + "\n".join(lines))
    if kills:
        parts.append(_kills(kills))
    return "\n\n".join(parts)


def _by(what: str, cases: Iterable[Record]) -> str:
    rows: dict[str, collections.Counter[str]] = {}
    for one in cases:
        counts = rows.setdefault(one[what], collections.Counter())
        counts.update(
            tried=1, held=one["fate"] != "failed", refused=one["fate"] == "refused", lost=one["lost"]
        )
        counts.update(done=one["fate"] == "done")
    rows = dict(sorted(rows.items()))
    rows["**total**"] = sum(rows.values(), collections.Counter())
    lines = [
        f"| {what} | tried | held | refused in one line | done, nothing changed | lost |",
        "|---|---|---|---|---|---|",
    ]
    for name, counts in rows.items():
        cells = [f"{counts[key]:,}" for key in ("tried", "held", "refused", "done", "lost")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _differing(kills: Sequence[Record]) -> list[str]:
    """A line for each job whose result differed from that of an undisturbed run."""
    tried = collections.Counter(one["job"] for one in kills)
    differing = collections.Counter(one["job"] for one in kills if one["differences"])
    return [
        f"- `{job}`, {count} of {tried[job]}: differs from an undisturbed run"
        for job, count in differing.items()
    ]


def _kills(kills: Iterable[Record]) -> str:
    rows: dict[str, collections.Counter[str]] = {}
    for one in kills:
        counts = rows.setdefault(one["job"], collections.Counter())
        counts.update(
            tried=1,
            killed=one["fate"] == "killed",
            equal=not one["differences"],
            leftovers=one["leftovers"],
        )
    rows["**total**"] = sum(rows.values(), collections.Counter())
    lines = [
        "| job | tried | killed in time | equal to an undisturbed run | temporary files left by a kill |",
        "|---|---|---|---|---|",
    ]
    for name, counts in rows.items():
        cells = [f"{counts[key]:,}" for key in ("tried", "killed", "equal", "leftovers")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
