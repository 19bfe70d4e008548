"""Computes how many prompts it takes to detect a change of a pair's numbers, from the rows of a pilot."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.evaluation import power, results
from distillspec_jax.evaluation.paired import MIN_PROMPTS, Clusters, Columns, summed
from distillspec_jax.evaluation.power import Pilot
from distillspec_jax.evaluation.result_row import ResultRow

MEASURES = {"block_efficiency": "block efficiency", "speedup": "speed-up"}


@dataclasses.dataclass(frozen=True)
class Requirement:
    """The number of prompts that one comparison needs.

    Attributes:
      drafter: label, with that of the drafter it is compared with.
      measure: block efficiency or speed-up.
      prompts_a_unit: prompts timed together; 1 for counts.
      visible: relative change that the pilot's own prompts would detect.
      needed, at_most: prompts, from the pilot's spread and from the upper end of its interval.
    """

    temperature: float
    block_size: int
    drafter: str
    measure: str
    pilot: Pilot
    prompts_a_unit: int
    visible: float
    needed: int
    at_most: int


def requirements(
    rows: Sequence[ResultRow],
    change: float,
    *,
    against: str | None = None,
    wanted: float = 0.8,
    level: float = 0.05,
) -> list[Requirement]:
    """Computes how many prompts detect a change, for every drafted row of a pilot.

    Block efficiency is used directly, or divided by that of another drafter on the same prompts; speed-up is
    over decoding without a draft, or divided by another's speed-up on the same timed batches.

    Args:
      rows: of any number of groups.
      change: see `power.power`.
      against: label of a drafter to pair every other one with.
      wanted: power.
      level: see `power.power`.

    Raises:
      UsageError: there are no drafted rows; `against` is missing, or was measured with another target, other
        prompts or other settings; or there are too few prompts.
    """
    groups = [group for group in results.groups(rows) if results.drafters(group)]
    if not groups:
        raise UsageError("no drafter was measured: a pilot has rows with a draft")
    labels = list(dict.fromkeys(label for group in groups for label in results.drafters(group)))
    if against is not None and against not in labels:
        raise UsageError(f"no drafter {against!r} to compare with: {nearest(against, labels)}")
    found = []
    for group in groups:
        cells = {row.cell: row for row in group if row.is_drafted}
        for row in cells.values():
            other = None
            if against is not None:
                if row.drafter == against:
                    continue
                other = cells.get(dataclasses.replace(row, drafter=against).cell)
                if other is None:
                    raise UsageError(
                        f"{row.drafter} at T = {row.temperature:g}, γ = {row.block_size} has no pair: "
                        f"{against} was not measured there with target {row.target} on the same prompts"
                    )
            found += _of_row(row, other, change, wanted, level)
    if not found:
        raise UsageError(f"{against} is the only drafter: there is nothing to compare with it")
    return found


def _of_row(
    row: ResultRow, other: ResultRow | None, change: float, wanted: float, level: float
) -> list[Requirement]:
    made = []
    for measure, in_words in MEASURES.items():
        columns = _columns(row, other, measure)
        clusters = _clusters(row, measure)
        if columns is None or (
            measure == "speedup" and len(summed(columns[0][0], clusters)) < MIN_PROMPTS <= row.prompts
        ):
            continue  # not timed, or too few timed units although enough prompts were counted
        try:
            found = Pilot.of(*columns, clusters)
        except UsageError as error:
            where = f"{row.drafter} at T = {row.temperature:g}, γ = {row.block_size}"
            raise UsageError(f"{where}: {error}") from error
        unit = row.pace.concurrency if measure == "speedup" and row.pace else 1
        needed, at_most = (
            unit * power.units_needed(change, spread, wanted=wanted, level=level)
            for spread in (found.spread, found.largest_spread)
        )
        made.append(
            Requirement(
                temperature=float(row.temperature),
                block_size=row.block_size,
                drafter=row.drafter if other is None else f"{row.drafter} / {other.drafter}",
                measure=in_words,
                pilot=found,
                prompts_a_unit=unit,
                visible=power.visible_change(found.spread, found.units, wanted=wanted, level=level),
                needed=needed,
                at_most=at_most,
            )
        )
    return made


def pilot(row: ResultRow, other: ResultRow) -> Pilot:
    """Makes the pilot of a row's block efficiency over that of another row on the same prompts.

    Raises:
      UsageError: the numbers of prompts differ; or see `Pilot.of`.
    """
    columns = _columns(row, other, "block_efficiency")
    if columns is None:
        raise UsageError(f"{row.drafter} and {other.drafter} were measured on different numbers of prompts")
    return Pilot.of(*columns, _clusters(row, "block_efficiency"))


def _clusters(row: ResultRow, measure: str) -> Clusters:
    return row.per_prompt.cluster if measure == "block_efficiency" else row.timed_clusters


def _columns(
    row: ResultRow, other: ResultRow | None, measure: str
) -> tuple[list[Columns], list[Columns]] | None:
    """Collects a measure's numerators and denominators, the other row's inverted; None if not comparable."""
    over: list[Columns] = []
    under: list[Columns] = []
    for one, top, bottom in ((row, over, under), (other, under, over)):
        if one is None:
            continue
        if measure == "block_efficiency":
            top.append(one.per_prompt.emitted)
            bottom.append(one.per_prompt.target_calls)
        elif one.timing is None:
            return None
        else:
            top += [one.timing.baseline_seconds, one.timing.emitted]
            bottom += [one.timing.seconds, one.timing.baseline_emitted]
    if len({len(column) for column in (*over, *under)}) != 1:
        return None
    return over, under
