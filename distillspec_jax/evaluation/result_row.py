"""One measured cell of a sweep: a line of `results.jsonl`, as a value.

Fields without a default are required in a file. Metadata marks the fields' roles: `_GROUP` fields determine
which rows are comparable, `_CELL` fields distinguish the cells of a group, and `_SPARSE` fields are omitted
from the file if unknown.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec

from distillspec_jax import schema
from distillspec_jax.acceptance import Pace, Record, memory_bound_speedup
from distillspec_jax.errors import UsageError, shown
from distillspec_jax.evaluation.paired import Clusters, Interval, joined
from distillspec_jax.schema import Amount, Count, Number, Share, Text

SCHEMA_VERSION = 1
NO_DRAFTER = "none"
"""The label of autoregressive decoding; its block size is 0."""

Measure = Literal["acceptance_tested", "block_efficiency", "speedup"]
"""A number of a row with a confidence interval."""
MEASURES: tuple[Measure, ...] = ("acceptance_tested", "block_efficiency", "speedup")

LARGEST_BLOCK = 1_024
"""Maximum drafts per round; a plot has one position for each."""

Block = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_BLOCK)]
Ends = Annotated[list[Number], msgspec.Meta(min_length=2, max_length=2)]
"""An interval, `[low, high]`."""


_GROUP, _CELL, _SPARSE = {"group": True}, {"cell": True}, {"sparse": True}
_WHAT = "a row of a sweep"


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Record:
    """A JSON object of named fields, see `schema.read`; fields not in the class are kept in `unknown`."""

    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Makes the JSON object: fields in the order of the class, then the unknown ones."""
        values = {
            field.name: value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None or "sparse" not in field.metadata
        }
        values |= values.pop("unknown")
        return {
            name: value.to_json() if isinstance(value, _Record) else value for name, value in values.items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerPrompt(_Record):
    """Counts of each of the N prompts, in their order.

    Attributes:
      emitted: tokens, including EOS.
      target_calls: verify passes, without prefill.
      tested, accepted: drafts.
      output_digest: see `fingerprints.of_tokens`; equal digests mean equal outputs.
      finish_reason: why each output ended.
      overlap: sum over tested positions of sum_v min(p, q); None if not recorded.
      score: the task's primary metric; None without references.
      drafted: drafts proposed, tested or not; None in rows of release 0.1.
      cluster: a digest of each prompt's ids, equal for repeated prompts, which are no independent units of an
        interval; None if none is repeated (or the release did not tell).
    """

    emitted: list[Count]
    target_calls: list[Count]
    tested: list[Count]
    accepted: list[Count]
    output_digest: list[str]
    finish_reason: list[str] | None = dataclasses.field(default=None, metadata=_SPARSE)
    overlap: list[Amount] | None = dataclasses.field(default=None, metadata=_SPARSE)
    score: list[Number] | None = dataclasses.field(default=None, metadata=_SPARSE)
    drafted: list[Count] | None = dataclasses.field(default=None, metadata=_SPARSE)
    cluster: list[str] | None = dataclasses.field(default=None, metadata=_SPARSE)

    @property
    def records(self) -> list[Record]:
        """The counts of each prompt."""
        unknown = [None] * len(self.emitted)
        return [
            Record(
                emitted_tokens=emitted,
                target_calls=calls,
                tested=tested,
                accepted=accepted,
                drafted=drafted,
                overlap=overlap,
            )
            for emitted, calls, tested, accepted, drafted, overlap in zip(
                self.emitted,
                self.target_calls,
                self.tested,
                self.accepted,
                self.drafted or unknown,
                self.overlap or unknown,
                strict=True,
            )
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed(_Record):
    """The timed batches of a cell and of its baseline, which ran alternately.

    Attributes:
      repeats: runs of each batch; the fastest counts.
      seconds, emitted: of each batch.
      baseline_seconds, baseline_emitted: of each batch, decoded without a draft.
      first_call_seconds: of the first run, including compilation.
    """

    repeats: Count
    seconds: list[Amount]
    emitted: list[Count]
    baseline_seconds: list[Amount]
    baseline_emitted: list[Count]
    first_call_seconds: Amount


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultRow(_Record):
    """The measurements of one drafter at one block size and temperature, with their conditions.

    Attributes:
      task, split: source of the prompts; `split` is None for a user's file.
      target: name of the target.
      top_k, top_p, seed: of the sampling distribution and of all draws.
      prompts, prompts_digest: number of prompts, and a digest of all of them.
      max_new_tokens: maximum output length, including EOS.
      timing_prompts, repeats: number of timed prompts, from the first, and of their repeats.
      dtype: of the models; None in rows of the first releases, which were float32.
      device: description of the hardware.
      version: the release that measured.
      verifier: the rule, `NAME` or `NAME:EPSILON`.
      batch_size: prompts decoded together.
      temperature: 0 is greedy.
      drafter_path: path of the draft model; None without one.
      drafter: its label; `NO_DRAFTER` for the baseline.
      block_size: drafts per round; 0 for the baseline.
      emitted_tokens, target_calls, tested, accepted: sums over prompts.
      drafted, tested_at, accepted_at: sums as well, see `acceptance.Record`; None in rows of release 0.1.
      acceptance_tested: accepted over tested drafts; None if none was tested.
      acceptance_joint: per draft position, the share of target calls that accepted it and all before it.
      overlap: mean of sum_v min(p, q) over tested positions; None if not recorded.
      block_efficiency: tokens per target call.
      mbsu: memory-bound speed-up.
      cost_ratio: c, bytes of the draft's parameters over the target's; divided by γ for a one-pass draft.
      seconds, baseline_seconds: of the timed prompts, with and without the drafter; None if not timed.
      speedup: over decoding without a draft; None if not timed.
      acceptance_tested_ci95, block_efficiency_ci95, speedup_ci95: `[low, high]`, None if unknown.
      quality, primary_metric: corpus scores by name, and the one that comparisons report.
      timing, per_prompt: the raw data of the numbers; `timing` is None if not timed.
      matches_autoregressive: at temperature 0, number of prompts with exactly the baseline's tokens.
      command, git_revision: provenance of the row.
      fingerprint: a digest of everything that the numbers depend on.
    """

    task: Text = dataclasses.field(metadata=_GROUP)
    split: Text | None = dataclasses.field(default=None, metadata=_GROUP)
    target: Text = dataclasses.field(metadata=_GROUP)
    top_k: Count = dataclasses.field(metadata=_GROUP)
    top_p: Share = dataclasses.field(metadata=_GROUP)
    seed: int | None = None
    prompts: Count
    prompts_digest: Text = dataclasses.field(metadata=_GROUP)
    max_new_tokens: Count | None = dataclasses.field(default=None, metadata=_GROUP)
    timing_prompts: Count | None = None
    repeats: Count | None = None
    dtype: Text | None = dataclasses.field(default=None, metadata=_GROUP)
    device: Text = dataclasses.field(metadata=_GROUP)
    version: Text | None = None
    verifier: Text | None = dataclasses.field(default=None, metadata=_GROUP)
    batch_size: Count = dataclasses.field(metadata=_GROUP)
    temperature: Amount = dataclasses.field(metadata=_CELL)
    drafter_path: Text | None = None
    drafter: Text = dataclasses.field(metadata=_CELL)
    block_size: Block = dataclasses.field(metadata=_CELL)
    emitted_tokens: Count | None = None
    target_calls: Count | None = None
    tested: Count | None = None
    accepted: Count | None = None
    drafted: Count | None = dataclasses.field(default=None, metadata=_SPARSE)
    tested_at: list[Count] | None = dataclasses.field(default=None, metadata=_SPARSE)
    accepted_at: list[Count] | None = dataclasses.field(default=None, metadata=_SPARSE)
    acceptance_tested: Share | None
    acceptance_tested_ci95: Ends | None = None
    acceptance_joint: list[Share | None]
    overlap: Amount | None = None
    block_efficiency: Amount
    block_efficiency_ci95: Ends | None = None
    mbsu: Amount | None = None
    cost_ratio: Amount | None = None
    seconds: Amount | None = None
    baseline_seconds: Amount | None = None
    speedup: Amount | None
    speedup_ci95: Ends | None = None
    quality: dict[str, Number]
    primary_metric: Text | None = None
    timing: Timed | None = None
    per_prompt: PerPrompt
    matches_autoregressive: Count | None = None
    command: str | None = None
    git_revision: str | None = None
    fingerprint: str | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any], place: str) -> ResultRow:
        """Makes a row from a line of `results.jsonl`; fields of other releases are kept (`unknown`).

        Args:
          found: the parsed line.
          place: its location (`file:line`), for errors.

        Raises:
          UsageError: the schema differs, a field is missing or has another type, or fields contradict each
            other; names place and field.
        """
        fields = dict(found)
        if (version := fields.pop("schema_version", None)) != SCHEMA_VERSION:
            raise UsageError(f"{place}: schema version {shown(version)}, this release reads {SCHEMA_VERSION}")
        row = schema.read(cls, fields, place, _WHAT)
        for field, holds, must in row._contracts():
            if not holds:
                raise UsageError(f"{place}: not {_WHAT}: field {field}: must {must}")
        return row

    def _contracts(self) -> Iterator[tuple[str, bool, str]]:
        """Yields fields, whether they agree with the others, and the requirement in words."""
        yield (
            "drafter",
            (self.drafter == NO_DRAFTER) == (self.block_size == 0),
            "be none at block_size 0 alone",
        )
        for name in ("acceptance_joint", "tested_at", "accepted_at"):
            entries = getattr(self, name)
            must = f"have {self.block_size} entries, as block_size"
            yield name, entries is None or len(entries) == self.block_size, must
        named = self.primary_metric is None or self.primary_metric in self.quality
        yield "primary_metric", named, "be one of quality"
        yield "prompts", self.prompts > 0, "be at least 1"
        for name, column in _columns(self.per_prompt):
            must = f"have {self.prompts} entries, as prompts"
            yield f"per_prompt.{name}", len(column) == self.prompts, must
        for name, column in _columns(self.timing):
            units = len(self.timing.seconds) if self.timing else 0
            yield (
                f"timing.{name}",
                len(column) == units > 0,
                "have as many entries as timing.seconds, at least 1",
            )

    def to_json(self) -> dict[str, Any]:
        """Makes the JSON object of `results.jsonl`."""
        return {"schema_version": SCHEMA_VERSION, **super().to_json()}

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for comparable rows: same task, target, set of prompts, length, rule and device."""
        return self._values("group")

    @property
    def cell(self) -> tuple[Any, ...]:
        """Distinguishes the rows of a group."""
        return self._values("cell")

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for measurements of the same cell of the same group."""
        return (*self.group, *self.cell)

    @property
    def is_drafted(self) -> bool:
        """Tells whether there was a drafter: False for the baseline."""
        return self.block_size > 0

    @property
    def record(self) -> Record:
        """The counts of all prompts; in rows of release 0.1, `acceptance_joint` gives those by position."""
        record = Record.total(self.per_prompt.records)
        accepted_at = self.accepted_at
        if accepted_at is None and None not in self.acceptance_joint:
            accepted_at = [round((share or 0) * record.target_calls) for share in self.acceptance_joint]
        return dataclasses.replace(record, tested_at=self.tested_at, accepted_at=accepted_at)

    @property
    def timed_clusters(self) -> Clusters:
        """The clusters of the timed batches, see `paired.interval`."""
        timed = len(self.timing.seconds) if self.timing else 0
        starts = range(0, min(timed * self.batch_size, self.prompts), self.batch_size)
        return joined(
            self.per_prompt.cluster, [range(i, min(i + self.batch_size, self.prompts)) for i in starts]
        )

    @property
    def pace(self) -> Pace | None:
        """The speed on the timed prompts; None if not timed. Batches do not give a request's latency."""
        if self.timing is None:
            return None
        seconds, texts = self.timing.seconds, min(self.timing_prompts or self.prompts, self.prompts)
        alone = seconds if self.batch_size == 1 else None
        return Pace(
            texts=texts,
            tokens=sum(self.timing.emitted),
            seconds=math.fsum(seconds),
            concurrency=min(self.batch_size, texts),
            latency_N=alone,
        )

    @property
    def measured_cost_ratio(self) -> float | None:
        """c as timed: a round's cost beyond the baseline's call, relative to that call and per draft.

        It includes everything that a round does. None if unknown: not timed, or batches, whose rounds are not
        counted.
        """
        if self.timing is None or self.batch_size > 1 or not self.is_drafted:
            return None
        calls = sum(self.per_prompt.target_calls[: len(self.timing.seconds)])
        plain = math.fsum(self.timing.baseline_seconds) / max(sum(self.timing.baseline_emitted), 1)
        if not calls or not plain:
            return None
        return (math.fsum(self.timing.seconds) / calls / plain - 1) / self.block_size

    @property
    def measured_mbsu(self) -> float | None:
        """The memory-bound speed-up with `measured_cost_ratio` instead of the ratio of bytes."""
        ratio = self.measured_cost_ratio
        if ratio is None or ratio * self.block_size <= -1:
            return None
        return memory_bound_speedup(self.block_efficiency, ratio, self.block_size)

    def interval(self, measure: Measure) -> Interval:
        """Returns a number and its interval; NaN if the row has none."""
        value = getattr(self, measure)
        low, high = getattr(self, f"{measure}_ci95") or (math.nan, math.nan)
        return Interval(math.nan if value is None else value, low, high)

    @property
    def failed(self) -> int:
        """The number of prompts whose text ended because the target's logits were not finite."""
        return (self.per_prompt.finish_reason or []).count("failed")

    def same_outputs(self, other: ResultRow) -> int:
        """Counts the prompts with exactly the same output tokens in another row."""
        pairs = zip(self.per_prompt.output_digest, other.per_prompt.output_digest, strict=True)
        return sum(ours == theirs for ours, theirs in pairs)

    def _values(self, role: str) -> tuple[Any, ...]:
        marked = (field for field in dataclasses.fields(self) if role in field.metadata)
        return tuple(getattr(self, field.name) for field in marked)


def _columns(record: _Record | None) -> Iterator[tuple[str, list[Any]]]:
    """Yields the lists of a record, by name."""
    for field in dataclasses.fields(record) if record else ():
        if isinstance(column := getattr(record, field.name), list):
            yield field.name, column
