"""One measured cell of a sweep: a line of `results.jsonl`, as a value.

The fields say by their metadata what they are for: those without a default must stand in a file, those of
`_group` decide which rows compare with each other, and those of `_cell` tell the cells of a group apart.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from distillspec_jax.errors import UsageError
from distillspec_jax.evaluation.paired import Interval

SCHEMA_VERSION = 1
NO_DRAFTER = "none"
"""The label of autoregressive decoding; its block size is 0."""

Measure = Literal["acceptance_tested", "block_efficiency", "speedup"]
"""A number that a row has with an interval."""
MEASURES: tuple[Measure, ...] = ("acceptance_tested", "block_efficiency", "speedup")


def _group(**default: Any) -> Any:
    return dataclasses.field(metadata={"group": True}, **default)


def _cell() -> Any:
    return dataclasses.field(metadata={"cell": True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Record:
    """A JSON object of named fields; what this release does not know stays in `unknown`."""

    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of_json(cls, found: Any, place: str) -> Self:
        """Reads the fields of a JSON object.

        Raises:
          UsageError: a field without a default is missing; the message has its place and name.
        """
        if not isinstance(found, dict):
            raise UsageError(
                f"{place}: not a row of a sweep: expected a JSON object, got {type(found).__name__}"
            )
        fields = {field.name: field for field in dataclasses.fields(cls) if field.name != "unknown"}
        for name, field in fields.items():
            optional = field.default, field.default_factory
            if name not in found and optional == (dataclasses.MISSING, dataclasses.MISSING):
                raise UsageError(f"{place}: not a row of a sweep: it has no field {name!r}")
        known = {name: found[name] for name in fields if name in found}
        return cls(**known, unknown={name: value for name, value in found.items() if name not in fields})

    def to_json(self) -> dict[str, Any]:
        """The JSON object: fields in the order of the class, then what was not known."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= values.pop("unknown")
        return {
            name: value.to_json() if isinstance(value, _Record) else value for name, value in values.items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerPrompt(_Record):
    """Counts of each of the N prompts, in their order.

    Attributes:
      emitted: tokens, EOS included.
      target_calls: verify passes, prefill apart.
      tested, accepted: drafts.
      output_digest: see `fingerprints.of_tokens`; equal digests, equal outputs.
      finish_reason: why each output ended.
      overlap: sum over tested positions of sum_v min(p, q); None if it was not recorded.
      score: the task's primary metric; None without references.
    """

    emitted: list[int]
    target_calls: list[int]
    tested: list[int]
    accepted: list[int]
    output_digest: list[str]
    finish_reason: list[str] | None = None
    overlap: list[float] | None = None
    score: list[float] | None = None

    def to_json(self) -> dict[str, Any]:
        """The record of the file, without the columns that are not there."""
        return {name: column for name, column in super().to_json().items() if column is not None}

    @property
    def efficiency(self) -> list[float]:
        """Each prompt's tokens a target call."""
        counts = zip(self.emitted, self.target_calls, strict=True)
        return [emitted / max(calls, 1) for emitted, calls in counts]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timed(_Record):
    """The timed batches of a cell and of its baseline, which took turns with it.

    Attributes:
      repeats: runs of each batch, the fastest of which counts.
      seconds, emitted: of each batch.
      baseline_seconds, baseline_emitted: of each batch, decoded without a draft.
      first_call_seconds: of the run before all others, compilation included.
    """

    repeats: int
    seconds: list[float]
    emitted: list[int]
    baseline_seconds: list[float]
    baseline_emitted: list[int]
    first_call_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultRow(_Record):
    """The measurements of one drafter at one block size and temperature, and what they were made on.

    Attributes:
      task, split: whose rows are the prompts; `split` is None for a user's file.
      target: name of the target.
      top_k, top_p, seed: of the sampling distribution and of all draws.
      prompts, prompts_digest: how many, and a digest of them all.
      max_new_tokens: longest output, EOS included.
      timing_prompts, repeats: the first so many prompts were timed, so often.
      dtype: of the models; None in rows of the first releases, which were float32.
      device: what the process computed on, in words.
      version: the release that measured.
      verifier: the rule, `NAME` or `NAME:EPSILON`.
      batch_size: prompts decoded together.
      temperature: 0 is greedy.
      drafter_path: where the draft model is; None without one.
      drafter: its label; `NO_DRAFTER` for the baseline.
      block_size: drafts a round; 0 for the baseline.
      emitted_tokens, target_calls, tested, accepted: sums over prompts.
      acceptance_tested: accepted over tested drafts; None if none was tested.
      acceptance_joint: for each draft position the share of target calls that accepted it and all before it.
      overlap: mean of sum_v min(p, q) over tested positions; None if it was not recorded.
      block_efficiency: tokens a target call.
      mbsu: memory-bound speed-up.
      cost_ratio: c, bytes of the draft's parameters over the target's.
      seconds, baseline_seconds: of the timed prompts, with and without the drafter; None if not timed.
      speedup: over decoding without a draft; None if not timed.
      acceptance_tested_ci95, block_efficiency_ci95, speedup_ci95: `[low, high]`, None where unknown.
      quality, primary_metric: corpus scores by name, and which of them comparisons quote.
      timing, per_prompt: what the numbers are made of; `timing` is None if not timed.
      matches_autoregressive: at temperature 0, how many prompts have the baseline's very tokens.
      command, git_revision: how the row came about.
      fingerprint: a digest of all that the numbers depend on.
    """

    task: str = _group()
    split: str | None = _group(default=None)
    target: str = _group()
    top_k: int = _group()
    top_p: float = _group()
    seed: int | None = None
    prompts: int
    prompts_digest: str = _group()
    max_new_tokens: int | None = None
    timing_prompts: int | None = None
    repeats: int | None = None
    dtype: str | None = _group(default=None)
    device: str = _group()
    version: str | None = None
    verifier: str | None = _group(default=None)
    batch_size: int = _group()
    temperature: float = _cell()
    drafter_path: str | None = None
    drafter: str = _cell()
    block_size: int = _cell()
    emitted_tokens: int | None = None
    target_calls: int | None = None
    tested: int | None = None
    accepted: int | None = None
    acceptance_tested: float | None
    acceptance_tested_ci95: list[float] | None = None
    acceptance_joint: list[float | None]
    overlap: float | None = None
    block_efficiency: float
    block_efficiency_ci95: list[float] | None = None
    mbsu: float | None = None
    cost_ratio: float | None = None
    seconds: float | None = None
    baseline_seconds: float | None = None
    speedup: float | None
    speedup_ci95: list[float] | None = None
    quality: dict[str, float]
    primary_metric: str | None = None
    timing: Timed | None = None
    per_prompt: PerPrompt
    matches_autoregressive: int | None = None
    command: str | None = None
    git_revision: str | None = None
    fingerprint: str | None = None

    @classmethod
    def from_json(cls, found: Mapping[str, Any], place: str) -> ResultRow:
        """Makes a row of a line of `results.jsonl`; fields of other releases are kept (`unknown`).

        Args:
          found: the parsed line.
          place: where it stands (`file:line`), for errors.

        Raises:
          UsageError: another schema, or a missing field, by place and name.
        """
        fields = dict(found)
        if (version := fields.pop("schema_version", None)) != SCHEMA_VERSION:
            raise UsageError(f"{place}: schema version {version!r}, this release reads {SCHEMA_VERSION}")
        row = cls.of_json(fields, place)
        timing = Timed.of_json(row.timing, f"{place}, timing") if row.timing else None
        counts = PerPrompt.of_json(row.per_prompt, f"{place}, per_prompt")
        return dataclasses.replace(row, timing=timing, per_prompt=counts)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `results.jsonl`."""
        return {"schema_version": SCHEMA_VERSION, **super().to_json()}

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for rows that compare with each other: one task, target, set of prompts, rule and device."""
        return self._values("group")

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for measurements of one cell of one group."""
        return (*self.group, *self._values("cell"))

    @property
    def is_drafted(self) -> bool:
        """Whether there was a drafter: False for the baseline."""
        return self.block_size > 0

    def interval(self, measure: Measure) -> Interval:
        """A number and its interval; NaN where the row has none."""
        value = getattr(self, measure)
        low, high = getattr(self, f"{measure}_ci95") or (math.nan, math.nan)
        return Interval(math.nan if value is None else value, low, high)

    def same_outputs(self, other: ResultRow) -> int:
        """How many prompts have the very tokens that another row's have."""
        pairs = zip(self.per_prompt.output_digest, other.per_prompt.output_digest, strict=True)
        return sum(ours == theirs for ours, theirs in pairs)

    def _values(self, role: str) -> tuple[Any, ...]:
        marked = (field for field in dataclasses.fields(self) if role in field.metadata)
        return tuple(getattr(self, field.name) for field in marked)
