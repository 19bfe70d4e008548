"""The accounts of a study: which draft served when, what it saved, and when that had paid for its training.

All of it is made from rows. Units of intervals are prompts: the requests of a prompt are added up first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from benchmarks.drift.rows import Row, Rows
from benchmarks.drift.setting import NEVER, ON_ALARM, START
from distillspec_jax.evaluation import paired
from distillspec_jax.evaluation.paired import Interval


@dataclasses.dataclass(frozen=True)
class Account:
    """One policy on one seed's stream.

    Attributes:
      seed, policy: whose.
      prompt_R: number of each request's prompt, over all pools.
      held_out_R: whether nothing was ever trained on it.
      emitted_R, calls_R: tokens, and calls of the target.
      tested_R, accepted_R: drafts.
      trainings: rows, in their order.
    """

    seed: int
    policy: str
    prompt_R: np.ndarray
    held_out_R: np.ndarray
    emitted_R: np.ndarray
    calls_R: np.ndarray
    tested_R: np.ndarray
    accepted_R: np.ndarray
    trainings: Sequence[Row]

    @property
    def steps(self) -> int:
        """Of all trainings, pilots too."""
        return sum(row["steps"] for row in self.trainings)

    @property
    def seconds(self) -> float:
        """Processor seconds of all redistillations: measuring, pilots and refused ones too."""
        return float(sum(row["seconds"] for row in self.trainings))

    def changes(self) -> list[int]:
        """The requests from which on another draft served."""
        return [row["at"] for row in self.trainings if row["version"] is not None]


def account(rows: Rows, seed: int, policy: str) -> Account:
    """Finds which draft served each request, and what it did."""
    stream = rows.one("stream", seed=seed)
    assert stream is not None
    pool_R, number_R = np.array(stream["pool"]), np.array(stream["number"])
    texts = [rows.one("texts", pool=name) for name in stream["names"]]
    offset_P = np.concatenate([[0], np.cumsum([len(one["emitted"]) for one in texts if one])])
    trainings = sorted(rows.of("training", seed=seed, policy=policy), key=lambda row: int(row["at"]))
    served = [(0, START)]
    served += [(row["at"], f"{policy} {row['version']}") for row in trainings if row["version"] is not None]
    ends = [at for at, _ in served[1:]] + [len(pool_R)]
    columns = {name: np.zeros(len(pool_R), np.int64) for name in ("target_calls", "tested", "accepted")}
    emitted_R, held_out_R = np.zeros(len(pool_R), np.int64), np.zeros(len(pool_R), bool)
    for place, (name, text) in enumerate(zip(stream["names"], texts, strict=True)):
        assert text is not None
        own_R = pool_R == place
        emitted_R[own_R] = np.array(text["emitted"])[number_R[own_R]]
        held_out_R[own_R] = np.array(text["held_out"], bool)[number_R[own_R]]
        for (begin, draft), end in zip(served, ends, strict=True):
            which = np.flatnonzero(own_R[begin:end]) + begin
            if len(which):
                counts = rows.one("counts", seed=seed, draft=draft, pool=name)
                assert counts is not None, (seed, draft, name)
                for field, column_R in columns.items():
                    column_R[which] = np.array(counts[field])[number_R[which]]
    return Account(
        seed,
        policy,
        offset_P[pool_R] + number_R,
        held_out_R,
        emitted_R,
        columns["target_calls"],
        columns["tested"],
        columns["accepted"],
        trainings,
    )


Span = tuple[int, int]
"""The first of some requests, and the one after the last."""


def efficiency(one: Account, span: Span) -> Interval:
    """Computes block efficiency of some requests, with its interval over prompts."""
    return paired.ratio(*_by_prompt([one], span, False, "emitted_R", "calls_R"))


def ratio(ours: Sequence[Account], theirs: Sequence[Account], span: Span, held_out: bool) -> Interval:
    """Computes block efficiency over that of another policy, paired by prompt.

    Args:
      ours, theirs: of the same seeds, which are added up prompt by prompt.
      span: the requests that count.
      held_out: of these, only those on whose prompts nothing is ever trained.
    """
    columns = [_by_prompt(side, span, held_out, "emitted_R", "calls_R") for side in (ours, theirs)]
    return paired.ratio_of_ratios(*columns[0], *columns[1])


def _by_prompt(accounts: Sequence[Account], span: Span, held_out: bool, *fields: str) -> list[np.ndarray]:
    """Adds up columns by prompt, `[N]` each; prompts that no request had are left out."""
    count = 1 + max(int(one.prompt_R.max()) for one in accounts)
    totals = {field: np.zeros(count) for field in fields}
    asked_N = np.zeros(count, np.int64)
    for one in accounts:
        which = np.arange(*span)
        which = which[one.held_out_R[which]] if held_out else which
        asked_N += np.bincount(one.prompt_R[which], minlength=count)
        for field, total_N in totals.items():
            total_N += np.bincount(one.prompt_R[which], getattr(one, field)[which], minlength=count)
    return [total_N[asked_N > 0] for total_N in totals.values()]


def windows(one: Account, size: int) -> Iterator[tuple[int, float]]:
    """Yields the end of each window of requests, and block efficiency in it."""
    for first in range(0, len(one.calls_R), size):
        part = slice(first, first + size)
        yield min(first + size, len(one.calls_R)), one.emitted_R[part].sum() / one.calls_R[part].sum()


def balance(one: Account, never: Account, seconds_a_call: float) -> np.ndarray:
    """Computes the processor seconds that were saved less those that were spent, after each request, `[R]`.

    Args:
      never: the same stream with the draft of the start.
      seconds_a_call: of the target, with the drafts for it.
    """
    saved_R = np.cumsum(never.calls_R - one.calls_R) * seconds_a_call
    for row in one.trainings:
        saved_R[row["at"] :] -= row["seconds"]
    return saved_R


def paid_back(one: Account, never: Account, seconds_a_call: float) -> int | None:
    """Finds the request from which on all training was paid for, to the end; None: it was not by then."""
    below = np.flatnonzero(balance(one, never, seconds_a_call) < 0)
    if not len(below):
        return 0
    after = int(below[-1]) + 1
    return None if after >= len(one.calls_R) else after


def first_pay_back(one: Account, never: Account, seconds_a_call: float) -> int | None:
    """Counts requests from the first new draft until what was spent up to it was saved; None: never."""
    changes = one.changes()
    if not changes:
        return None
    spent = sum(row["seconds"] for row in one.trainings if row["at"] <= changes[0])
    saved = np.cumsum((never.calls_R - one.calls_R)[changes[0] :]) * seconds_a_call
    reached = np.flatnonzero(saved >= spent)
    return int(reached[0]) + 1 if len(reached) else None


def turns(phases: Sequence[Row]) -> list[tuple[str, int, int]]:
    """Lists the stretches of a stream: what each is, its first request and its end."""
    found, at = [], 0
    for phase in phases:
        same = phase["begins"] == phase["ends"]
        kind = phase["begins"].partition(",")[0]
        name = phase["begins"] if same else f"{kind}, gradual shift"
        found.append((name, at, at + phase["requests"]))
        at += phase["requests"]
    return found


def seeds_of(rows: Rows) -> list[int]:
    """The seeds on which the policies without intervals have ended, which all others are compared with."""
    ended = {(row["seed"], row["policy"]) for row in rows.of("run")}
    return [
        seed for seed in sorted({seed for seed, _ in ended}) if {(seed, NEVER), (seed, ON_ALARM)} <= ended
    ]


def accounts(rows: Rows) -> dict[str, list[Account]]:
    """The accounts of every policy on the seeds on which it has ended, of `seeds_of`."""
    found: dict[str, list[Account]] = {}
    for row in rows.of("run"):
        found.setdefault(row["policy"], [])
    for seed in seeds_of(rows):
        for policy in [row["policy"] for row in rows.of("run", seed=seed)]:
            found[policy].append(account(rows, seed, policy))
    return {policy: of for policy, of in found.items() if of}


def common(ours: Sequence[Account], theirs: Sequence[Account]) -> tuple[list[Account], list[Account]]:
    """The accounts of two policies on the seeds that both have, in one order."""
    known = {one.seed: one for one in theirs}
    pairs = [(one, known[one.seed]) for one in ours if one.seed in known]
    return [one for one, _ in pairs], [other for _, other in pairs]


def pooled(accounts: Sequence[Account], span: Span) -> float:
    """Computes block efficiency of some requests, seeds added up."""
    part = slice(*span)
    emitted = sum(int(one.emitted_R[part].sum()) for one in accounts)
    return emitted / sum(int(one.calls_R[part].sum()) for one in accounts)
