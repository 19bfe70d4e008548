"""A draft's acceptance profile: its acceptance on named prompts, as a reference for serving.

The file `profile.json` is stored and exported with the draft. It has the counts of every prompt, because the
variance over prompts determines how soon a change is statistically significant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillspec_jax import files, schema
from distillspec_jax.acceptance import Record
from distillspec_jax.errors import UsageError
from distillspec_jax.schema import Amount, Count, Share, Size, Text

FILE = "profile.json"
VERSION = 1
_WHAT = "an acceptance profile"
_QUANTILES = (0.1, 0.5, 0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of each of the N prompts, in order; see `acceptance.Record`."""

    emitted_tokens: list[Count]
    target_calls: list[Count]
    tested: list[Count]
    accepted: list[Count]
    drafted: list[Count]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Counts:
        """Collects the counts of some records, all of which know `drafted`."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: [getattr(record, name) for record in records] for name in names})

    @property
    def records(self) -> list[Record]:
        """One record per prompt."""
        names = [field.name for field in dataclasses.fields(self)]
        columns = [getattr(self, name) for name in names]
        return [Record(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileCell:
    """The measurements under one sampling distribution.

    Attributes:
      temperature, top_k, top_p: the sampling distribution; temperature 0 is greedy.
      acceptance: accepted over tested drafts; None if none was tested.
      acceptance_ci95: `[low, high]` over prompts; None if there are too few prompts.
      acceptance_spread: 10 %, 50 % and 90 % quantiles of the prompts' own rates.
      acceptance_joint: for each draft position, the fraction of rounds that accepted it and all before it.
      acceptance_conditional: the fraction of its tests that accepted it; None without tests.
      block_efficiency, block_efficiency_ci95: tokens per target call.
      per_prompt: the counts that these numbers are computed from.
    """

    temperature: Amount
    top_k: Count = 0
    top_p: Share = 1.0
    acceptance: Share | None
    acceptance_ci95: list[Share] | None = None
    acceptance_spread: list[Share] | None = None
    acceptance_joint: list[Share | None]
    acceptance_conditional: list[Share | None]
    block_efficiency: Amount
    block_efficiency_ci95: list[Amount] | None = None
    per_prompt: Counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """A draft's profile.

    Attributes:
      draft, target: their names at the time of measurement.
      step: the step of the draft's parameters.
      task, split: the source of the prompts; `split` is None for a user's file.
      prompts, prompts_digest: number of prompts, and a digest of their ids: equal digests, equal prompts.
      block_size: drafts per round.
      max_new_tokens: maximum output length, EOS included.
      release: the release that measured it.
      cells: one for each sampling distribution.
      unknown: fields of newer releases.
    """

    draft: Text
    target: Text
    step: Count | None = None
    task: Text
    split: Text | None = None
    prompts: Size
    prompts_digest: Text
    block_size: Size
    max_new_tokens: Size
    release: Text | None = None
    cells: list[ProfileCell]
    unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)


def read(path: str | Path) -> Profile:
    """Reads a profile.

    Raises:
      UsageError: there is none, or it is damaged; names file and field.
    """
    found = schema.read_object(path, _WHAT)
    if (version := found.pop("profile_version", None)) != VERSION:
        raise UsageError(f"{path}: not {_WHAT}: profile version {version!r}, this release reads {VERSION}")
    profile = schema.read(Profile, found, str(path), _WHAT)
    if not profile.cells:
        raise UsageError(f"{path}: not {_WHAT}: it has no cells")
    for number, cell in enumerate(profile.cells):
        place, counts = f"{path}, cells[{number}]", cell.per_prompt
        for field in dataclasses.fields(counts):
            if len(getattr(counts, field.name)) != profile.prompts:
                raise UsageError(
                    f"{place}: field per_prompt.{field.name}: must have {profile.prompts} entries"
                )
        for prompt, record in enumerate(counts.records):
            for said in record.violations(profile.block_size):
                raise UsageError(f"{place}, prompt {prompt}: {said}")
    return profile


def write(directory: str | Path, profile: Profile) -> None:
    """Writes a profile atomically into a draft's folder."""
    fields = dataclasses.asdict(profile)
    unknown = fields.pop("unknown")
    files.write_json(Path(directory) / FILE, {"profile_version": VERSION, **fields, **unknown})


def spread(records: Sequence[Record]) -> list[float] | None:
    """Computes quantiles of the prompts' own acceptance rates; None if no draft was tested."""
    rates = [record.value("acceptance_tested") for record in records if record.tested]
    return [float(x) for x in np.quantile(rates, _QUANTILES)] if rates else None
