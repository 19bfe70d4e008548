"""The page of a study, its figure and its numbers, made from the rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drift import accounting, figure, prose
from benchmarks.drift.accounting import Account, Span
from benchmarks.drift.rows import Row, Rows
from benchmarks.drift.setting import NEVER, ON_ALARM
from benchmarks.paper.verdicts import markdown, times
from distillspec_jax import files
from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.paired import Interval

FIGURE = "drift.png"
GAIN, WORSE = 1.15, 0.97
"""The criteria: on alarm over never after the first switch; over fixed intervals, on the whole stream."""


def write(rows: Rows, out: Path) -> tuple[str, dict[str, Any]]:
    """Writes OUT.md and OUT/drift.png; returns the page and its numbers.

    Raises:
      UsageError: no seed has ended.
    """
    accounts, setting = accounting.accounts(rows), rows.one("setting")
    if not accounts or setting is None:
        raise UsageError(
            f"{rows.path} has no seed on which {NEVER} and {ON_ALARM} have ended: run the study first"
        )
    seeds = [one.seed for one in accounts[NEVER]]
    turns = [(name, (first, end)) for name, first, end in accounting.turns(setting["phases"])]
    checks = list(rows.of("check"))
    call = float(np.mean([row["seconds_a_call"] for row in checks]))
    numbers = _numbers(accounts, turns, call)
    one_seed = {policy: of[0] for policy, of in accounts.items() if of[0].seed == seeds[0]}
    out.mkdir(parents=True, exist_ok=True)
    figure.save(figure.draw(one_seed, one_seed[NEVER], turns, call), out / FIGURE)
    parts = [
        "# When to distil again: a stream that switches task and drifts",
        "    python -m benchmarks.drift --out=docs/results/drift",
        prose.introduction(setting["phases"], setting["steps"]),
        f"Criteria set before the run: on alarm at least ×{GAIN} over never, from the first switch to the "
        "switch back; and over the whole stream no worse than each fixed interval (lower end above "
        f"{WORSE}), with fewer training steps.",
        _verdicts(numbers) + _missing(setting, accounts),
        f"![Block efficiency over time, and processor seconds saved less spent]({out.name}/{FIGURE})",
        f"*Windows of {figure.WINDOW} requests, seed {seeds[0]}; dotted: a new draft begins to serve.*",
        "## Block efficiency",
        _stretches(accounts, turns),
        "## Cost, and when it pays back",
        _costs(accounts, call, numbers),
        _trainings(accounts, turns),
        "## How it was done",
        _method(setting, rows, checks, seeds),
        "## What it does not show",
        prose.LIMITS,
    ]
    text = "\n\n".join(parts) + "\n"
    files.write_whole(out.with_name(f"{out.name}.md"), text)
    return text, numbers


def _shifted(turns: list[tuple[str, Span]]) -> Span:
    """The stretch after the first switch, to the switch back."""
    return turns[1][1]


def _numbers(
    accounts: dict[str, list[Account]], turns: list[tuple[str, Span]], call: float
) -> dict[str, Any]:
    alarm, never = accounts[ON_ALARM], accounts[NEVER]
    shifted, everything = _shifted(turns), (0, turns[-1][1][1])
    after = (shifted[0], everything[1])
    seconds = {policy: sum(one.seconds for one in of) for policy, of in accounts.items()}
    compared = {
        policy: accounting.common(alarm, of)
        for policy, of in accounts.items()
        if policy not in (NEVER, ON_ALARM)
    }
    return {
        "seeds": [one.seed for one in never],
        "after_the_shift": _ends(accounting.ratio(alarm, never, shifted, False)),
        "after_the_shift_by_seed": [
            _ends(accounting.ratio([a], [n], shifted, False)) for a, n in zip(alarm, never, strict=True)
        ],
        "after_the_shift_held_out": _ends(accounting.ratio(alarm, never, shifted, True)),
        "from_the_shift_on": _ends(accounting.ratio(alarm, never, after, False)),
        "from_the_shift_on_held_out": _ends(accounting.ratio(alarm, never, after, True)),
        "against": {
            policy: {
                "all": _ends(accounting.ratio(ours, theirs, everything, False)),
                "held_out": _ends(accounting.ratio(ours, theirs, everything, True)),
                "seconds": sum(one.seconds for one in ours) / seconds[policy] if seconds[policy] else None,
                "steps": [sum(one.steps for one in side) for side in (ours, theirs)],
                "seeds": [one.seed for one in theirs],
            }
            for policy, (ours, theirs) in compared.items()
        },
        "seconds": seconds,
        "paid_back": {
            policy: [
                accounting.paid_back(*pair, call) for pair in zip(*accounting.common(of, never), strict=True)
            ]
            for policy, of in accounts.items()
            if policy != NEVER
        },
    }


def _ends(found: Interval) -> list[float]:
    return [round(float(one), 4) for one in found]


def _missing(setting: Row, accounts: dict[str, list[Account]]) -> str:
    """Says what has not been run; nothing where all of it has."""
    seeds = [one.seed for one in accounts[NEVER]]
    names = [f"seed {seed}" for seed in setting["seeds"] if seed not in seeds]
    for policy in map("every {:,}".format, setting["intervals"]):
        ended = [one.seed for one in accounts.get(policy, [])]
        left = [str(seed) for seed in seeds if seed not in ended]
        if left:
            names.append(f"{policy} requests" + (f" on seed {', '.join(left)}" if ended else ""))
    return f"\n- **Not run yet: {', '.join(names)}.** The command resumes there." if names else ""


def _verdicts(numbers: dict[str, Any]) -> str:
    gain, held_out = (Interval(*numbers[name]) for name in ("after_the_shift", "after_the_shift_held_out"))
    by_seed = ", ".join(f"{one[0]:.2f}" for one in numbers["after_the_shift_by_seed"])
    told = "met" if gain.low >= GAIN else "met, but not beyond chance" if gain.value >= GAIN else "not met"
    later, later_held_out = (
        Interval(*numbers[name]) for name in ("from_the_shift_on", "from_the_shift_on_held_out")
    )
    lines = [
        f"- **Redistillation on alarm: ×{times(gain)} over none**, from the first switch to the switch back "
        f"(by seed {by_seed}); ×{times(held_out)} on prompts never trained on. Criterion {told}. From the "
        f"first switch to the end of the stream ×{times(later)}, ×{times(later_held_out)} on prompts never "
        "trained on."
    ]
    for policy, found in numbers["against"].items():
        ratio = Interval(*found["all"])
        no_worse = ratio.low >= WORSE
        ours, theirs = found["steps"]  # seconds depend on what else the machine did
        less = ours < theirs
        fault = "" if less else ": as many steps" if ours == theirs else ": more steps"
        told = "met" if no_worse and less else f"not met{fault}"
        share = "which trained nothing"
        if found["seconds"] is not None:
            share = f"at {found['seconds']:.2g} times its training time"
        some = "" if found["seeds"] == numbers["seeds"] else f" (seed {', '.join(map(str, found['seeds']))})"
        lines.append(
            f"- **×{times(ratio)} over {policy} requests**{some}, {share} ({ours:,} steps against "
            f"{theirs:,}); ×{times(Interval(*found['held_out']))} on prompts never trained on. "
            f"Criterion {told}."
        )
    return "\n".join(lines)


def _stretches(accounts: dict[str, list[Account]], turns: list[tuple[str, Span]]) -> str:
    lines = []
    everything = (0, turns[-1][1][1])
    for name, span in [*turns, ("everything", everything)]:
        cells = [f"{accounting.pooled(of, span):.2f}" for of in accounts.values()]
        gained = accounting.ratio(accounts[ON_ALARM], accounts[NEVER], span, False)
        clean = accounting.ratio(accounts[ON_ALARM], accounts[NEVER], span, True)
        lines.append([name, f"{span[0]:,}–{span[1]:,}", *cells, times(gained), times(clean)])
    titles = _titles(accounts).values()
    head = ["stretch", "requests", *titles, f"{ON_ALARM} / {NEVER}", "the same, prompts never trained on"]
    return "Tokens per target call, seeds added up; 95 % intervals over prompts, paired.\n\n" + markdown(
        head, lines
    )


def _titles(accounts: dict[str, list[Account]]) -> dict[str, str]:
    """Names of the policies; of those that have not all seeds, with theirs."""
    whole = len(accounts[NEVER])
    return {
        policy: policy if len(of) == whole else f"{policy} (seed {', '.join(str(one.seed) for one in of)})"
        for policy, of in accounts.items()
    }


def _costs(accounts: dict[str, list[Account]], call: float, numbers: dict[str, Any]) -> str:
    lines = []
    never = accounts[NEVER]
    everything = (0, len(never[0].calls_R))
    for policy, of in sorted(accounts.items(), key=lambda item: sum(one.seconds for one in item[1])):
        if policy == NEVER:
            continue
        tried = sum(len(one.trainings) for one in of)
        passed = sum(len(one.changes()) for one in of)
        pairs = list(zip(*accounting.common(of, never), strict=True))
        saved = sum(int((n.calls_R - a.calls_R).sum()) for a, n in pairs)
        first = [accounting.first_pay_back(*pair, call) for pair in pairs]
        lines.append(
            [
                _titles(accounts)[policy],
                f"{passed} of {tried}",
                f"{sum(one.steps for one in of):,}",
                f"{sum(one.seconds for one in of):,.0f}",
                f"{accounting.pooled(of, everything):.2f}",
                f"{saved:,}",
                f"{saved * call:,.0f}",
                _each(first),
                _each(numbers["paid_back"][policy]),
            ]
        )
    head = [
        "policy",
        "new drafts of attempts",
        "steps",
        "processor seconds",
        "tokens per target call",
        "target calls saved",
        "target time saved, s",
        "the first draft pays back after … requests",
        "all training is paid back from request … on",
    ]
    return (
        "Ordered by training time. Tokens per target call are over the whole stream. Seeds are added up, "
        "except in the last two columns (–: not by the end). Processor seconds cover the whole "
        "redistillation: reading, compiling, pilot, training and measuring, also if the gate refused the "
        f"draft. A target call and the drafting for it take {1e3 * call:.2f} ms of processor time here.\n\n"
        + markdown(head, lines)
    )


def _each(found: list[int | None]) -> str:
    return ", ".join("–" if one is None else f"{one:,}" for one in found)


def _trainings(accounts: dict[str, list[Account]], turns: list[tuple[str, Span]]) -> str:
    lines = []
    for policy, of in accounts.items():
        for one in of:
            for row in one.trainings:
                lines.append(
                    [
                        policy,
                        str(one.seed),
                        f"{row['at']:,}",
                        _alarm(row, turns),
                        f"{row['prompts']:,}",
                        f"{row['outcome']}: {row['reason']}",
                        f"{row['steps']}",
                        f"{row['seconds']:,.0f}",
                    ]
                )
    head = ["policy", "seed", "at request", "alarm", "different prompts", "outcome", "steps", "seconds"]
    summary = f"<summary>Every attempt ({len(lines)})</summary>"
    return f"<details>\n{summary}\n\n{markdown(head, lines)}\n\n</details>"


def _alarm(row: Row, turns: list[tuple[str, Span]]) -> str:
    """When the alarm came in its stretch, and the estimated time of the drop."""
    if row["alarm_at"] is None:
        return "–"
    name, (first, _) = next(turn for turn in turns if turn[1][0] <= row["alarm_at"] < turn[1][1])
    late = row["since"] - first
    estimated = f"{abs(late):,} requests {'after' if late > 0 else 'before'} it" if late else "there"
    return f"{row['alarm_at'] - first:,} requests after the start of {name}; change estimated {estimated}"


def _method(setting: Row, rows: Rows, checks: list[Row], seeds: list[int]) -> str:
    turns = accounting.turns(setting["phases"])
    decoded, equal = (sum(row[name] for row in checks) for name in ("prompts", "equal"))
    first_words, last_words = (", ".join(words[:8]) for words in setting["words"])
    names = ("block_size", "look", "waits", "steps", "pilot_steps", "batch_size", "old_share", "margin")
    given = {name: setting[name] for name in names}
    return prose.method(
        rows.one("defaults"),
        {
            **given,
            **setting["lengths"],
            "requests": turns[-1][2],
            "stretches": "; ".join(f"{end - first:,} {name}" for name, first, end in turns),
            "first_words": first_words,
            "last_words": last_words,
            "seeds": ", ".join(map(str, seeds)),
            "prompts": sum(setting["pools"].values()),
            "pools": "; ".join(f"{name}: {count:,}" for name, count in setting["pools"].items()),
            "held_out": sum(sum(row["held_out"]) for row in rows.of("texts")),
            "start_steps": 2 * setting["steps"],
            "judged": setting["prompts"],
            "decoded": decoded,
            "equal": equal,
        },
    )
