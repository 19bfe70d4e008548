"""References for monitoring a service: a draft's profile, rows of a sweep, known-good lines, or a bare rate.

A reference is an estimate from n prompts. Its threshold is the lower of two values: the estimate minus the
margin, and the lower end of the estimate's confidence interval, whose error uses half of the false alarm
rate. While service is as good as the reference's true value, false alarms thus stay within that rate, however
few prompts the reference has. Few prompts cost power, not validity.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from scipy import stats

from distillspec_jax import acceptance_profile, files
from distillspec_jax.acceptance import RATIOS, PartialRecord
from distillspec_jax.buckets import copies
from distillspec_jax.errors import UsageError, nearest
from distillspec_jax.evaluation import alarm, paired, results
from distillspec_jax.evaluation.result_row import ResultRow

Name = TypeVar("Name", str, float)

MEASURES = ("acceptance_tested", "acceptance_drafted", "accepted_length", "block_efficiency")
"""Ratios that can be watched, in order of preference."""
MIN_PROMPTS = 10
"""Minimum number of prompts of a reference: with fewer, an interval is meaningless."""
_SPREAD = 8.0
"""Variance of sums over that of independent drafts, if there is no reference."""
ALL = "all"
"""The segment of all traffic."""


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The level below which acceptance counts as dropped, on the scale of scores in [0, 1].

    Attributes:
      value: r.
      estimate: the reference's own value; None for a bare rate.
      prompts: of the reference; 0 for a bare rate.
      cap: tested drafts (the ratio's divisor) at which a text's weight saturates; None: chosen while reading.
      variance: of a request's gain (`alarm.gains`).
      spread: variance of sums over that of independent drafts.
      scale: divisor that maps a ratio to [0, 1]: 1, or the maximum tokens per round.
      scores_N2: top and bottom of each prompt of the reference; empty for a bare rate.
    """

    value: float
    estimate: float | None
    prompts: int
    cap: float | None
    variance: float
    spread: float
    scale: float
    scores_N2: np.ndarray

    @property
    def shown(self) -> float:
        """The threshold as the ratio itself."""
        return self.value * self.scale


@dataclasses.dataclass(frozen=True)
class Reference:
    """Counts of prompts, by segment.

    Attributes:
      name: for messages.
      segments: the records of each segment, one per prompt; `ALL` has all.
      sampling: temperature, top_k and top_p of the records, if known.
      block_size: drafts per round, if known and the same for all.
      draft: the draft's name, if known.
    """

    name: str
    segments: Mapping[str, Sequence[PartialRecord]]
    sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
    block_size: int | None = None
    draft: str | None = None

    def measures(self) -> list[str]:
        """Lists the ratios that every record provides."""
        return [name for name in MEASURES if all(one.sums(name) for one in self.segments[ALL])]

    def threshold(
        self,
        segment: str,
        measure: str,
        margin: float,
        false_alarms: float,
        block_size: int | None = None,
        intervals: bool = False,
    ) -> Threshold:
        """Computes the threshold of a segment.

        Args:
          measure: one of `measures`.
          margin: tolerated relative drop.
          false_alarms: rate for this segment; the interval uses half of it.
          block_size: drafts per round, which bounds tokens per round.
          intervals: for sums over many requests, in which texts weigh by their tested drafts without a cap.

        Raises:
          UsageError: there are too few prompts, or the block size is needed but unknown.
        """
        records = [one for one in self.segments[segment] if one.sums(measure)[1]]  # type: ignore[index]
        if len(records) < MIN_PROMPTS:
            where = "" if segment == ALL else f" of {segment}"
            raise UsageError(
                f"{self.name}: {len(records)} prompts{where} with drafts, a reference needs {MIN_PROMPTS}"
            )
        scale = scale_of(measure, block_size or self.block_size)
        scores_N2 = np.array([one.sums(measure) for one in records], np.float64) / (scale, 1.0)
        top_N, bottom_N = scores_N2.T
        cap = math.inf if intervals else 2.0 * float(bottom_N.mean())
        weight_N = np.minimum(bottom_N, cap)
        level = 1.0 - false_alarms  # two-sided: half of it on each side
        found = paired.ratio(weight_N * top_N / bottom_N, weight_N, level=level)
        low = min(found.low, _student_low(weight_N * top_N / bottom_N, weight_N, level))
        value = min(found.value * (1.0 - margin), low)
        gap_N = top_N - found.value * bottom_N
        independent = max(found.value * (1.0 - found.value), 1e-3) * bottom_N.sum()
        return Threshold(
            value=value,
            estimate=found.value,
            prompts=len(records),
            cap=None if intervals else cap,
            variance=float(alarm.gains(top_N, bottom_N, value, 2.0 * bottom_N.mean()).var()),
            spread=max(1.0, float((gap_N**2).sum()) / independent),
            scale=scale,
            scores_N2=scores_N2,
        )


def _student_low(top_N: np.ndarray, bottom_N: np.ndarray, level: float) -> float:
    """Computes the lower end of Student's t interval of a ratio of sums, linearised.

    A bootstrap of 4,000 resamples does not know the tails that a small rate of false alarms, split over many
    segments, asks for; and from ten prompts it is too narrow.
    """
    count, value = len(top_N), top_N.sum() / bottom_N.sum()
    error = (top_N - value * bottom_N).std(ddof=1) * count**0.5 / bottom_N.sum()
    return float(value - stats.t.ppf((1.0 + level) / 2.0, count - 1) * error)


def scale_of(measure: str, block_size: int | None) -> float:
    """Computes the upper bound of a ratio.

    Raises:
      UsageError: the ratio is tokens per round and the block size is unknown.
    """
    if measure.startswith("acceptance"):
        return 1.0
    if block_size is None:
        raise UsageError(f"{measure} is bounded by the drafts a round: give them by --block_size")
    return block_size + 1.0


def of_rate(rate: float, scale: float = 1.0) -> Threshold:
    """Makes a threshold from a bare rate, which has no uncertainty."""
    return Threshold(rate / scale, None, 0, None, alarm.PRIOR_VARIANCE, _SPREAD, scale, np.zeros((0, 2)))


def read(
    path: str, temperature: float | None, label: str | None, block_size: int | None = None
) -> Reference | None:
    """Reads a reference from a draft's folder, its profile, or rows of a sweep.

    Args:
      path: the folder or file.
      temperature: selects one of several.
      label: selects the drafter of a sweep with several.
      block_size: selects the rows of a sweep with several.

    Returns:
      The reference; None for a file of answer lines.

    Raises:
      UsageError: there is none, there are several and none was selected, or `label` is given and the
        reference is no sweep.
    """
    place = copies.local(path)
    if place.is_dir():
        inner = place / acceptance_profile.FILE
        if not inner.is_file():
            raise UsageError(
                f"{path} has no {acceptance_profile.FILE}: a distillation makes it at its end; else take "
                "results.jsonl of a sweep, or lines from when acceptance was fine"
            )
        place = inner
    if not place.is_file():
        raise UsageError(f"there is no reference {path}")
    if place.suffix == ".json":
        _check_unlabelled(path, label)
        return _of_profile(place, temperature)
    first = next((found for _, found in files.json_lines_apart(place, lambda line, _: line)), None)
    if isinstance(first, dict) and "schema_version" in first:
        return _of_rows(str(place), temperature, label, block_size)
    _check_unlabelled(path, label)
    return None


def _check_unlabelled(path: str, label: str | None) -> None:
    if label is not None:
        raise UsageError(f"--drafter={label}: {path} is no sweep, which alone has several drafters")


def _of_profile(path: Path, temperature: float | None) -> Reference:
    profile = acceptance_profile.read(path)
    # Of two cells of a temperature, the one without truncation: --temperature does not tell them apart.
    truncated = sorted(profile.cells, key=lambda cell: (cell.top_k, cell.top_p) == (0, 1.0))
    cells = {float(cell.temperature): cell for cell in truncated}
    chosen = cells[_one(str(path), "temperature", temperature, cells)]
    return Reference(
        str(path),
        {ALL: chosen.per_prompt.records, f"task={profile.task}": chosen.per_prompt.records},
        sampling={"temperature": chosen.temperature, "top_k": chosen.top_k, "top_p": chosen.top_p},
        block_size=profile.block_size,
        draft=profile.draft,
    )


def _of_rows(path: str, temperature: float | None, label: str | None, block_size: int | None) -> Reference:
    rows = [row for row in results.latest(results.read([path])) if row.is_drafted]
    if not rows:
        raise UsageError(f"{path} has no row with a draft")
    drafter = _one(path, "drafter", label, (row.drafter for row in rows))
    rows = [row for row in rows if row.drafter == drafter]
    chosen = _one(path, "temperature", temperature, (float(row.temperature) for row in rows))
    rows = [row for row in rows if row.temperature == chosen]
    sizes = [row.block_size for row in rows]
    size = block_size if block_size in sizes else 5 if 5 in sizes else max(sizes)
    rows = [row for row in rows if row.block_size == size]
    segments: dict[str, list[PartialRecord]] = {ALL: []}
    for row in _one_a_task(path, rows):
        segments[ALL] += row.per_prompt.records
        segments[f"task={row.task}"] = list(row.per_prompt.records)
    sampling = {"temperature": rows[0].temperature, "top_k": rows[0].top_k, "top_p": rows[0].top_p}
    return Reference(path, segments, sampling=sampling, block_size=size, draft=drafter)


def _rule(row: ResultRow) -> str:
    return row.verifier or "token"  # of release 0.1


def _one_a_task(path: str, rows: Sequence[ResultRow]) -> list[ResultRow]:
    """Chooses a row of each task: of an exact rule, the token rule if there, and of the smallest batch.

    Raises:
      UsageError: lenient rules only, or rows that still differ: the same prompts must not count twice.
    """
    rules = [_rule(row) for row in rows]
    rule = next((name for name in ("token", "block") if name in rules), None)
    if rule is None:
        raise UsageError(f"{path} has only lenient rules ({rules[0]}), a reference needs an exact one")
    found: dict[str, ResultRow] = {}
    for row in sorted((row for row in rows if _rule(row) == rule), key=lambda row: row.batch_size):
        first = found.setdefault(row.task, row)
        for field in ("target", "top_k", "top_p", "split", "max_new_tokens", "dtype", "device"):
            if getattr(row, field) != getattr(first, field):
                both = f"{getattr(first, field)} and {getattr(row, field)}"
                raise UsageError(f"{path} has rows of {row.task} with {field} {both}: keep those of one")
    for field in ("target", "top_k", "top_p"):
        if len(told := {getattr(row, field) for row in found.values()}) > 1:
            both = " and ".join(map(str, sorted(told)))
            raise UsageError(f"{path} has tasks with {field} {both}: keep those of one")
    return list(found.values())


def _one(path: str, what: str, asked: Name | None, known: Iterable[Name]) -> Name:
    """Selects one of several, or the only one.

    Raises:
      UsageError: it is missing, or there are several and none was selected.
    """
    there = list(dict.fromkeys(known))
    names = [f"{one:g}" if isinstance(one, float) else str(one) for one in there]
    if asked is None and len(there) > 1:
        raise UsageError(f"{path} has several: choose by --{what} {nearest('', names)}")
    if asked is not None and asked not in there:
        told = f"{asked:g}" if isinstance(asked, float) else str(asked)
        raise UsageError(f"{path} has no {what} {told}: {nearest(told, names)}")
    return there[0] if asked is None else asked


def known_measure(name: str) -> str:
    """Returns a measure's name after checking it.

    Raises:
      UsageError: the name is unknown; gives the nearest.
    """
    if name not in MEASURES:
        raise UsageError(f"--measure={name}: {nearest(name, MEASURES)}")
    assert name in RATIOS
    return name
